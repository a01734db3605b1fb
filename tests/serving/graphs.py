"""Tiny ONNX models, built by code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from runtime.core.tensor import DATA_TYPES

OPSET = 17
ELEMENT = {
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
assert set(ELEMENT) == set(DATA_TYPES)

Tensor = tuple[str, str, Sequence[str | int]]
"""Name, protocol data type, shape with names for free dimensions."""


def save(
    path: Path,
    nodes: Sequence[NodeProto],
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[TensorProto] = (),
) -> Path:
    """Write a model file."""
    graph = helper.make_graph(
        nodes, "g", [_value(*each) for each in inputs], [_value(*each) for each in outputs], weights
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def _value(name: str, datatype: str, shape: Sequence[str | int]) -> Any:
    return helper.make_tensor_value_info(name, ELEMENT[datatype], list(shape))


def identity(path: Path, datatype: str = "FP32") -> Path:
    """y = x, [N, W]."""
    node = helper.make_node("Identity", ["x"], ["y"])
    return save(path, [node], [("x", datatype, ("N", "W"))], [("y", datatype, ("N", "W"))])


def handed_through(path: Path, *others: str) -> Path:
    """The input itself is an output, and so is y = x; `others` are data types of further inputs handed through."""
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    more: list[Tensor] = [(f"x_{name}", name, ("N", "W")) for name in others]
    return save(
        path, nodes, [("x", "FP32", ("N", "W")), *more], [("y", "FP32", ("N", "W")), ("x", "FP32", ("N", "W")), *more]
    )


def slow_identity(path: Path, rounds: int) -> Path:
    """y = x after `rounds` useless matrix products: a run takes a while, and reads x at its very end."""
    nodes = [helper.make_node("RandomUniform", [], ["p0"], low=0.0, high=0.001, shape=[128, 128])]  # cannot be folded
    nodes += [helper.make_node("MatMul", [f"p{at}", "p0"], [f"p{at + 1}"]) for at in range(rounds)]
    nodes += [
        helper.make_node("ReduceSum", [f"p{rounds}"], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("Add", ["x", "nothing"], ["y"]),
    ]
    weights = [numpy_helper.from_array(np.array(0, np.float32), "zero")]
    return save(path, nodes, [("x", "FP32", ("N", "W"))], [("y", "FP32", ("N", "W"))], weights)


def endless(path: Path) -> Path:
    """y = x after 2^40 turns of a loop."""
    body = helper.make_graph(
        [helper.make_node("Add", ["v", "one"], ["v_out"]), helper.make_node("Identity", ["go"], ["go_out"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("go_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("v_out", TensorProto.FLOAT, None),
        ],
    )
    weights = [
        numpy_helper.from_array(np.array(2**40, np.int64), "turns"),
        numpy_helper.from_array(np.array(True), "yes"),
        numpy_helper.from_array(np.array(1, np.float32), "one"),
    ]
    nodes = [helper.make_node("Loop", ["turns", "yes", "x"], ["y"], body=body)]
    return save(path, nodes, [("x", "FP32", ("N", "W"))], [("y", "FP32", ("N", "W"))], weights)


def gather(path: Path) -> Path:
    """y = table[x]: an index out of range fails the run."""
    weights = [numpy_helper.from_array(np.arange(4, dtype=np.float32), "table")]
    nodes = [helper.make_node("Gather", ["table", "x"], ["y"])]
    return save(path, nodes, [("x", "INT64", ("N",))], [("y", "FP32", ("N",))], weights)
