"""Model files that mean harm, or are plainly wrong, and what their refusal must say (research/ops.md section 1.4).

A file that is meant to be reached from outside the model's folder holds `SECRET`: no refusal may show it.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    SparseTensorProto,
    TensorProto,
    ValueInfoProto,
    helper,
)
from onnx import numpy_helper as arrays

SECRET = np.array([1.5, 2.5, 3.5, 4.5], np.float32)
X = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4])
Y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 4])
ADD = helper.make_node("Add", ["x", "w"], ["y"])


def model(
    nodes: Sequence[NodeProto],
    inputs: Sequence[ValueInfoProto] = (X,),
    outputs: Sequence[ValueInfoProto] = (Y,),
    weights: Sequence[TensorProto] = (),
    sparse: Sequence[SparseTensorProto] = (),
    ir_version: int = 8,
) -> ModelProto:
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights, sparse_initializer=list(sparse))
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=ir_version)


def external(location: str | None, dims: Sequence[int] = (4,), **entries: int) -> TensorProto:
    """The tensor `w`, whose data lies in the file `location`."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, value in ({"location": location} | entries).items():
        if value is not None:
            tensor.external_data.add(key=key, value=str(value))
    return tensor


def sparse(location: str) -> SparseTensorProto:
    """The sparse tensor `w`: two values of four, in the file `location`."""
    indices = arrays.from_array(np.array([0, 3], np.int64), "w_indices")
    return SparseTensorProto(values=external(location, (2,)), indices=indices, dims=[4])


def constant(location: str) -> NodeProto:
    """The sparse tensor `w` as a node."""
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="sparse_value", type=AttributeProto.SPARSE_TENSOR, sparse_tensor=sparse(location))
    return node


def with_external(location: str | None, **entries: int) -> ModelProto:
    """y = x + w, and w is elsewhere."""
    return model([ADD], weights=[external(location, (4,), **entries)])


def in_a_function(location: str) -> ModelProto:
    """w is the default of a function's attribute."""
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=AttributeProto.TENSOR, ref_attr_name="default")
    body = [node, helper.make_node("Add", ["a", "w"], ["b"])]
    function = helper.make_function("local", "F", ["a"], ["b"], body, [helper.make_opsetid("", 17)])
    function.attribute_proto.add(name="default", type=AttributeProto.TENSOR, t=external(location))
    whole = model([helper.make_node("F", ["x"], ["y"], domain="local")])
    whole.functions.append(function)
    whole.opset_import.append(helper.make_opsetid("local", 1))
    return whole


def in_a_subgraph(location: str) -> ModelProto:
    """w is in a branch of an If in a branch of an If."""
    yes = arrays.from_array(np.array(True), "yes")

    def branch(nodes: list[NodeProto], weights: list[TensorProto]) -> GraphProto:
        return helper.make_graph(nodes, "branch", [], [helper.make_empty_tensor_value_info("b")], weights)

    leaf = branch([helper.make_node("Add", ["x", "w"], ["b"])], [external(location)])
    inner = branch([helper.make_node("If", ["yes"], ["b"], then_branch=leaf, else_branch=leaf)], [])
    return model([helper.make_node("If", ["yes"], ["y"], then_branch=inner, else_branch=inner)], weights=[yes])


def in_training_info(location: str) -> ModelProto:
    whole = model([helper.make_node("Identity", ["x"], ["y"])])
    whole.training_info.add().algorithm.initializer.append(external(location))
    return whole


def in_an_attribute(location: str) -> ModelProto:
    node = helper.make_node("Constant", [], ["w"])
    node.attribute.add(name="value", type=AttributeProto.TENSOR, t=external(location))
    return model([node, ADD])


def named_twice() -> ModelProto:
    """Which of two locations counts depends on who reads it."""
    whole = with_external("w.bin")
    whole.graph.initializer[0].external_data.add(key="location", value="../secret.bin")
    return whole


# --- files around the version folder


def nothing(version: Path) -> None:
    pass


def plain(version: Path) -> None:
    """The data where it should be."""
    (version / "w.bin").write_bytes(SECRET.tobytes())


def secret(version: Path) -> None:
    """A file that the model has no business with; also the plain data, so that nothing else is wrong."""
    plain(version)
    (version.parent / "secret.bin").write_bytes(SECRET.tobytes())


def hard_link(version: Path) -> None:
    secret(version)
    (version / "w.bin").unlink()
    os.link(version.parent / "secret.bin", version / "w.bin")


def soft_link(version: Path) -> None:
    secret(version)
    (version / "w.bin").unlink()
    (version / "w.bin").symlink_to(version.parent / "secret.bin")


def linked_folder(version: Path) -> None:
    secret(version)
    (version.parent / "elsewhere").mkdir()
    (version.parent / "secret.bin").rename(version.parent / "elsewhere" / "w.bin")
    (version / "sub").symlink_to(version.parent / "elsewhere")


def device(version: Path) -> None:
    (version / "w.bin").symlink_to("/dev/zero")


def pipe(version: Path) -> None:
    os.mkfifo(version / "w.bin")


def folder(version: Path) -> None:
    (version / "w.bin").mkdir()


# --- the table

UP = "../secret.bin"
LEAVES = "leaves the model's folder"
HARD = "is a file with 2 hard links, 1 is allowed"
SOFT = "is a link or lies behind one"
NO_MODEL = "not an ONNX model"


@dataclass(frozen=True)
class Hostile:
    """One file: `stage` and `words` are of its refusal."""

    name: str
    content: Callable[[], ModelProto] | bytes
    words: str
    around: Callable[[Path], None] = secret
    stage: str = "check"

    def write(self, version: Path) -> Path:
        """Write it to a version folder; returns the model file."""
        version.mkdir(parents=True)
        self.around(version)
        path = version / "model.onnx"
        path.write_bytes(self.content if isinstance(self.content, bytes) else self.content().SerializeToString())
        return path

    def __str__(self) -> str:
        return self.name


_RANDOM = np.random.default_rng(7).bytes(4096)

HOSTILE = [
    Hostile("up", lambda: with_external(UP), LEAVES),
    Hostile("up and down", lambda: with_external("sub/../../secret.bin"), LEAVES),
    Hostile("absolute", lambda: with_external("/etc/hostname"), LEAVES),
    Hostile("dev zero", lambda: with_external("/dev/zero"), LEAVES),
    Hostile("soft link", lambda: with_external("w.bin"), SOFT, soft_link),
    Hostile("linked folder", lambda: with_external("sub/w.bin"), SOFT, linked_folder),
    Hostile("hard link", lambda: with_external("w.bin"), HARD, hard_link),
    Hostile("link to dev zero", lambda: with_external("w.bin"), "is not a regular file", device),
    Hostile("pipe", lambda: with_external("w.bin"), "is not a regular file", pipe),
    Hostile("folder", lambda: with_external("w.bin"), "is not a regular file", folder),
    Hostile("the folder itself", lambda: with_external("."), "is not a file name"),
    Hostile("no name", lambda: with_external(""), "is not a file name"),
    Hostile("no location", lambda: with_external(None), "is not a file name"),
    Hostile("nul in the name", lambda: with_external("w.bin\0.txt"), "is not a file name"),
    Hostile("too long a name", lambda: with_external("w" * 300), "cannot be read: File name too long"),
    Hostile("missing", lambda: with_external("w.bin"), "cannot be read: No such file or directory", nothing),
    Hostile("named twice", named_twice, LEAVES),
    Hostile("sparse up", lambda: model([ADD], sparse=[sparse(UP)]), LEAVES),
    Hostile("sparse absolute", lambda: model([ADD], sparse=[sparse("/etc/hostname")]), LEAVES),
    Hostile("sparse hard link", lambda: model([ADD], sparse=[sparse("w.bin")]), HARD, hard_link),
    Hostile("sparse constant up", lambda: model([constant(UP), ADD]), LEAVES),
    Hostile("sparse constant hard link", lambda: model([constant("w.bin"), ADD]), HARD, hard_link),
    Hostile("attribute up", lambda: in_an_attribute(UP), LEAVES),
    Hostile("function default up", lambda: in_a_function(UP), LEAVES),
    Hostile("function default hard link", lambda: in_a_function("w.bin"), HARD, hard_link),
    Hostile("subgraph up", lambda: in_a_subgraph(UP), LEAVES),
    Hostile("training info up", lambda: in_training_info(UP), LEAVES),
    Hostile("negative offset", lambda: with_external("w.bin", offset=-4), "out of bounds", plain, "load"),
    Hostile("offset beyond the end", lambda: with_external("w.bin", offset=2**50), "out of bounds", plain, "load"),
    Hostile("length 2^50", lambda: with_external("w.bin", length=2**50), "size mismatch", plain, "load"),
    Hostile("too little data", lambda: with_external("w.bin", offset=4), "out of bounds", plain, "load"),
    Hostile("empty file", b"", "onnx.checker refuses it: The model does not have an ir_version"),
    Hostile("truncated", with_external("w.bin").SerializeToString()[:-20], NO_MODEL),
    Hostile("random bytes", _RANDOM, NO_MODEL),
    Hostile("text", b"<html>404 not found</html>", NO_MODEL),
    Hostile("zip", b"PK\x03\x04" + bytes(100), NO_MODEL),
    Hostile(
        "unknown domain",
        lambda: model([helper.make_node("Evil", ["x"], ["y"], domain="evil.example")]),
        "No opset import for domain",
    ),
    Hostile(
        "unknown operator",
        lambda: model([helper.make_node("NoSuchThing", ["x"], ["y"])]),
        "onnx.checker refuses it: No Op registered for NoSuchThing",
    ),
    Hostile(
        "operator of a library that is not loaded",
        lambda: model([helper.make_node("Inverse", ["x"], ["y"], domain="com.microsoft.extensions")]),
        "No opset import for domain",
    ),
    Hostile(
        "compiled for a device",
        lambda: model([helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=UP)]),
        "only plain ONNX is served",
    ),
]
"""What must never be loaded."""


def expand() -> ModelProto:
    """As large as the caller says."""
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["K"])
    one = arrays.from_array(np.ones(1, np.float32), "one")
    return model([helper.make_node("Expand", ["one", "shape"], ["y"])], [shape], [y], [one])


def constant_of_shape() -> ModelProto:
    """The same, by another operator."""
    shape = helper.make_tensor_value_info("shape", TensorProto.INT64, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["K"])
    return model([helper.make_node("ConstantOfShape", ["shape"], ["y"])], [shape], [y])


def four_tebibytes() -> ModelProto:
    """4 TiB in every run, whatever the caller says."""
    shape = arrays.from_array(np.array([2**40], np.int64), "shape")
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["all"]),
        helper.make_node("ReduceSum", ["all"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    return model(nodes, weights=[shape])


def glutton(mebibytes: int) -> ModelProto:
    """Takes that much memory in every run, piece by piece."""
    shape = arrays.from_array(np.array([1 << 18], np.int64), "mebibyte")
    names = [f"m{index}" for index in range(mebibytes)]
    nodes = [
        helper.make_node("RandomUniformLike", ["filled"], [name], dtype=TensorProto.FLOAT, seed=1.0) for name in names
    ]
    nodes = [helper.make_node("ConstantOfShape", ["mebibyte"], ["filled"]), *nodes]
    nodes += [helper.make_node("Sum", names, ["sum"]), helper.make_node("ReduceSum", ["sum"], ["all"], keepdims=0)]
    return model([*nodes, helper.make_node("Add", ["x", "all"], ["y"])], weights=[shape])


def gather() -> ModelProto:
    """y = table[x], of four."""
    x = helper.make_tensor_value_info("x", TensorProto.INT64, ["N"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N"])
    table = arrays.from_array(np.arange(4, dtype=np.float32), "table")
    return model([helper.make_node("Gather", ["table", "x"], ["y"])], [x], [y], [table])


def divide() -> ModelProto:
    """y = a / b, whole numbers."""
    a, b, y = (helper.make_tensor_value_info(name, TensorProto.INT32, ["N"]) for name in "aby")
    return model([helper.make_node("Div", ["a", "b"], ["y"])], [a, b], [y])


def endless() -> ModelProto:
    """y = x after 2^62 turns."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["v_out"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    turns = arrays.from_array(np.array(2**62, np.int64), "turns")
    return model([helper.make_node("Loop", ["turns", "", "x"], ["y"], body=body)], weights=[turns])
