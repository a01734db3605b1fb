"""Tiny ONNX models, built by code, and a model repository of them.

| model | what it is for |
| --- | --- |
| `simple`, `simple_string` | the two of Triton's examples: sum and difference of INT32, two BYTES joined |
| `echo_bool` ... `echo_bytes` | one for each data type, any shape of two dimensions |
| `classes` | four scores, of which three have labels |
| `versions` | versions 1 and 2 are both served, `y` = version * `x` |
| `spin` | runs as long as `turns` says; 2**62 is for ever |
| `narrow` | `spin` with a queue of one |
| `hasty` | `spin` with a queue that gives up after 20 ms |
| `picky` | fails to run where `x` is not 0 or 1 |
| `broken`, `misconfigured` | cannot be loaded |
"""

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper

Shape = Sequence[int | str]

ECHO_TYPES = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
"""Data type of the protocol -> element type of ONNX; the model is `echo_` and the name in small letters."""

FOREVER = 2**62
"""Turns of `spin` that no test lives to see the end of."""
_ONE_INSTANCE = "instance_group { count: 1 kind: KIND_CPU }"
LABELS = ("red", "green", "blue")


def simple() -> ModelProto:
    """`OUTPUT0` = `INPUT0` + `INPUT1`, `OUTPUT1` = `INPUT0` - `INPUT1`."""
    names = [(name, TensorProto.INT32, ("batch", 16)) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")]
    nodes = [
        helper.make_node("Add", ["INPUT0", "INPUT1"], ["OUTPUT0"]),
        helper.make_node("Sub", ["INPUT0", "INPUT1"], ["OUTPUT1"]),
    ]
    return _model(nodes, [_value(*each) for each in names[:2]], [_value(*each) for each in names[2:]])


def simple_string() -> ModelProto:
    """`OUTPUT0` = `INPUT0` followed by `INPUT1`."""
    values = [_value(name, TensorProto.STRING, ("batch", 2)) for name in ("INPUT0", "INPUT1", "OUTPUT0")]
    return _model([helper.make_node("StringConcat", ["INPUT0", "INPUT1"], ["OUTPUT0"])], values[:2], values[2:])


def echo(element: int, shape: Shape = ("rows", "columns")) -> ModelProto:
    """`y` = `x`."""
    return _model(
        [helper.make_node("Identity", ["x"], ["y"])], [_value("x", element, shape)], [_value("y", element, shape)]
    )


def times(factor: float, columns: int = 2) -> ModelProto:
    """`y` and `z` are both `factor` * `x`, computed apart from each other."""
    shape = ("batch", columns)
    return _model(
        [helper.make_node("Mul", ["x", "factor"], ["y"]), helper.make_node("Mul", ["factor", "x"], ["z"])],
        [_value("x", TensorProto.FLOAT, shape)],
        [_value("y", TensorProto.FLOAT, shape), _value("z", TensorProto.FLOAT, shape)],
        [helper.make_tensor("factor", TensorProto.FLOAT, (), [factor])],
    )


def spin() -> ModelProto:
    """`turned` = the largest of `turns`, counted one by one."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go_in"], ["go_out"]),
            helper.make_node("Add", ["count_in", "one"], ["count_out"]),
        ],
        "turn",
        [
            _value("turn", TensorProto.INT64, ()),
            _value("go_in", TensorProto.BOOL, ()),
            _value("count_in", TensorProto.INT64, ()),
        ],
        [_value("go_out", TensorProto.BOOL, ()), _value("count_out", TensorProto.INT64, ())],
        [helper.make_tensor("one", TensorProto.INT64, (), [1])],
    )
    return _model(
        [
            helper.make_node("ReduceMax", ["turns"], ["most"], keepdims=0),
            helper.make_node("Loop", ["most", "", "none"], ["counted"], body=body),
            helper.make_node("Mul", ["turns", "none"], ["zeros"]),
            helper.make_node("Add", ["zeros", "counted"], ["turned"]),
        ],
        [_value("turns", TensorProto.INT64, ("batch", 1))],
        [_value("turned", TensorProto.INT64, ("batch", 1))],
        [helper.make_tensor("none", TensorProto.INT64, (), [0])],
    )


def picky() -> ModelProto:
    """`y` = the element of a list of two that `x` counts to; beyond it ONNX Runtime refuses to run."""
    return _model(
        [helper.make_node("Gather", ["list", "x"], ["y"])],
        [_value("x", TensorProto.INT64, ("batch", 1))],
        [_value("y", TensorProto.INT64, ("batch", 1))],
        [helper.make_tensor("list", TensorProto.INT64, (2,), [10, 11])],
    )


def write_repository(folder: Path) -> None:
    """Write all models of the table above."""
    add(folder, "simple", {1: simple()}, _triton_config("simple", 8, "INT32", 16, outputs=2))
    add(folder, "simple_string", {1: simple_string()}, _triton_config("simple_string", 8, "STRING", 2, outputs=1))
    for name, element in ECHO_TYPES.items():
        add(folder, f"echo_{name.lower()}", {1: echo(element)}, _echo_config(name))
    labels = 'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 4 '
    add(
        folder,
        "classes",
        {1: echo(TensorProto.FLOAT, ("batch", 4))},
        f'max_batch_size: 8 {labels} label_filename: "labels.txt" }}',
    )
    (folder / "classes" / "labels.txt").write_text("".join(f"{label}\n" for label in LABELS))
    add(folder, "versions", {1: times(1), 2: times(2)}, "version_policy { all {} }")
    add(folder, "spin", {1: spin()}, f"max_batch_size: 1 {_ONE_INSTANCE}")
    add(folder, "narrow", {1: spin()}, _queue_config("max_queue_size: 1"))
    patience = "default_timeout_microseconds: 20000 allow_timeout_override: true"
    add(folder, "hasty", {1: spin()}, _queue_config(patience))
    add(folder, "picky", {1: picky()})
    add(folder, "broken", {1: b"this is no model"})
    add(folder, "misconfigured", {1: simple()}, "max_batch_size: many")


def add(folder: Path, name: str, versions: dict[int, ModelProto | bytes], config: str = "") -> None:
    """Write one model; `config` is the text of its config.pbtxt, none where empty."""
    for number, model in versions.items():
        path = folder / name / str(number) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    if config:
        (folder / name / "config.pbtxt").write_text(config)


def _triton_config(name: str, batch: int, datatype: str, dims: int, *, outputs: int) -> str:
    """As Triton's own examples write it."""
    tensors = [("input", f"INPUT{index}") for index in range(2)]
    tensors += [("output", f"OUTPUT{index}") for index in range(outputs)]
    lines = [f'name: "{name}"', 'platform: "onnxruntime_onnx"', f"max_batch_size: {batch}", "dynamic_batching {}"]
    lines += [
        f'{kind} [ {{ name: "{tensor}" data_type: TYPE_{datatype} dims: [ {dims} ] }} ]' for kind, tensor in tensors
    ]
    return "\n".join(lines)


def _echo_config(datatype: str) -> str:
    """Complete, so that 0 is the batch size: the shapes are the caller's."""
    element = "STRING" if datatype == "BYTES" else datatype
    return "\n".join(
        f'{kind} {{ name: "{name}" data_type: TYPE_{element} dims: [ -1, -1 ] }}'
        for kind, name in (("input", "x"), ("output", "y"))
    )


def _queue_config(policy: str) -> str:
    return f"max_batch_size: 1 {_ONE_INSTANCE} dynamic_batching {{ default_queue_policy {{ {policy} }} }}"


def _value(name: str, element: int, shape: Shape) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


def _model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto],
    outputs: Sequence[ValueInfoProto],
    constants: Sequence[TensorProto] = (),
) -> ModelProto:
    graph = helper.make_graph(nodes, "graph", inputs, outputs, constants)
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)])
