"""A batch's outputs cut into answers, and the classification extension."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.errors import ExecutionError
from runtime.core.inference import RequestedOutput, RequestHead, TensorHead
from runtime.core.model import BatchPolicy, ModelSpec
from runtime.core.tensor import Array, TensorSpec
from runtime.serving.answers import answers
from runtime.serving.binding import Binding, bind
from runtime.serving.classify import classify
from runtime.serving.work import Work


def fp32(values: Any) -> Array:
    return np.array(values, np.float32)


def fp16(values: Any) -> Array:
    return np.array(values, np.float16)


def model(*outputs: TensorSpec, max_batch_size: int = 8) -> ModelSpec:
    inputs = (TensorSpec("x", "FP32", (1,)),)
    return ModelSpec("m", 7, Path("m.onnx"), inputs, outputs, max_batch_size, BatchPolicy())


def request(spec: ModelSpec, rows: int = 1, outputs: tuple[RequestedOutput, ...] = ()) -> Binding:
    shape = (rows, 1) if spec.max_batch_size else (1,)
    return bind(spec, RequestHead("m", "", (TensorHead("x", "FP32", shape),), outputs))


def finished(rows: int, **outputs: Array) -> Work:
    work = Work([], rows, list(outputs))
    work.outputs = list(outputs.values())
    return work


def test_each_request_gets_its_rows() -> None:
    spec = model(TensorSpec("y", "FP32", (2,)), TensorSpec("z", "INT32", ()))
    y = np.arange(12, dtype=np.float32).reshape(6, 2)
    z = np.arange(6, dtype=np.int32)
    results = answers(spec, [request(spec, rows) for rows in (1, 3, 2)], finished(6, y=y, z=z))
    assert [result.outputs[0].array.tolist() for result in results] == [y[:1].tolist(), y[1:4].tolist(), y[4:].tolist()]
    assert [result.outputs[1].array.tolist() for result in results] == [[0], [1, 2, 3], [4, 5]]
    assert {(result.model_name, result.model_version) for result in results} == {("m", "7")}
    assert [output.datatype for output in results[0].outputs] == ["FP32", "INT32"]


def test_rows_are_views_not_copies() -> None:
    spec = model(TensorSpec("y", "FP32", (2,)))
    y = np.zeros((2, 2), np.float32)
    results = answers(spec, [request(spec), request(spec)], finished(2, y=y))
    assert all(np.shares_memory(result.outputs[0].array, y) for result in results)


@pytest.mark.parametrize("shape", [(), (3,), (1, 2), (3, 2)])
def test_an_output_whose_first_axis_is_not_the_batch_is_refused(shape: tuple[int, ...]) -> None:
    spec = model(TensorSpec("y", "FP32", (-1,)))
    with pytest.raises(ExecutionError) as refused:
        answers(spec, [request(spec), request(spec)], finished(2, y=np.zeros(shape, np.float32)))
    assert f"output 'y' of model 'm' has shape {list(shape)} for a batch of 2" in str(refused.value)
    assert "max_batch_size: 0" in str(refused.value)


def test_without_a_batch_axis_outputs_are_whole() -> None:
    spec = model(TensorSpec("y", "FP32", (-1,)), max_batch_size=0)
    (result,) = answers(spec, [request(spec)], finished(1, y=np.zeros((5, 2), np.float32)))
    assert result.outputs[0].array.shape == (5, 2)


@pytest.mark.parametrize(
    ("dims", "reshape", "batch", "graph", "client"),
    [
        ((1,), (), 8, (2,), (2, 1)),
        ((4,), (2, 2), 8, (2, 2, 2), (2, 4)),
        ((-1,), (-1, 2), 8, (2, 3, 2), (2, 6)),
        ((1,), (), 0, (), (1,)),
    ],
)
def test_reshape(
    dims: tuple[int, ...], reshape: tuple[int, ...], batch: int, graph: tuple[int, ...], client: tuple[int, ...]
) -> None:
    spec = model(TensorSpec("y", "FP32", dims, reshape), max_batch_size=batch)
    rows = 2 if batch else 1
    (result,) = answers(spec, [request(spec, rows)], finished(rows, y=np.zeros(graph, np.float32)))
    assert result.outputs[0].array.shape == client


def test_an_output_that_does_not_reshape_is_an_error_of_the_model() -> None:
    spec = model(TensorSpec("y", "FP32", (4,), (2, 2)))
    with pytest.raises(ExecutionError, match=r"shape \[1, 3\], which does not reshape to \[1, 4\]"):
        answers(spec, [request(spec)], finished(1, y=np.zeros((1, 3), np.float32)))


def test_a_request_may_want_classes_of_one_output() -> None:
    spec = model(TensorSpec("y", "FP32", (3,), labels=("cat", "dog")), TensorSpec("z", "FP32", (1,)))
    y = fp32([[0.25, 0.5, -1.0], [3.0, 2.0, 4.0]])
    wanted = request(spec, 2, (RequestedOutput("y", 2),))
    (result,) = answers(spec, [wanted], finished(2, y=y))
    (output,) = result.outputs
    assert output.datatype == "BYTES"
    assert output.array.tolist() == [[b"0.500000:1:dog", b"0.250000:0:cat"], [b"4.000000:2", b"3.000000:0:cat"]]


@pytest.mark.parametrize(
    ("datatype", "values", "classes", "expected"),
    [
        ("FP32", fp32([1, 3, 2]), 1, [b"3.000000:1"]),
        ("FP32", fp32([1, 3, 2]), 9, [b"3.000000:1", b"2.000000:2", b"1.000000:0"]),
        ("FP32", fp32([5, 5, 5]), 2, [b"5.000000:0", b"5.000000:1"]),
        ("FP32", fp32([np.nan, 1, np.inf]), 3, [b"inf:2", b"1.000000:1", b"nan:0"]),
        ("FP16", fp16([0.5, -0.5]), 2, [b"0.500000:0", b"-0.500000:1"]),
        ("BF16", np.array([0x3F80, 0xBF80, 0x4000], np.uint16), 3, [b"2.000000:2", b"1.000000:0", b"-1.000000:1"]),
        ("INT64", np.array([2**53, 2**53 + 1, -(2**63)]), 3, [f"{2**53 + 1}:1".encode(), f"{2**53}:0".encode(),
                                                              f"{-2**63}:2".encode()]),
        ("UINT64", np.array([0, 2**64 - 1], np.uint64), 1, [f"{2**64 - 1}:1".encode()]),
        ("UINT8", np.array([7, 7, 9], np.uint8), 3, [b"9:2", b"7:0", b"7:1"]),
        ("BOOL", np.array([False, True]), 2, [b"1:1", b"0:0"]),
        ("FP32", fp32([]), 2, []),
    ],
)  # fmt: skip
def test_classify(datatype: str, values: Array, classes: int, expected: list[bytes]) -> None:
    tensor = TensorSpec("y", datatype, (-1,))
    assert classify(tensor, values, classes, batched=False).tolist() == expected
    two = classify(tensor, np.stack([values, values]), classes, batched=True)
    assert two.shape == (2, len(expected))
    assert two.tolist() == [expected, expected]


def test_all_elements_of_a_row_compete() -> None:
    array = fp32([[[1, 5], [7, 0]]])
    assert classify(TensorSpec("y", "FP32", (2, 2)), array, 2, batched=True).tolist() == [
        [b"7.000000:2", b"5.000000:1"]
    ]
