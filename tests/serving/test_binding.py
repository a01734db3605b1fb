"""Requests against a model: every refusal of research/oip.md section 3 that is made before the queue, with its text."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.inference import RequestedOutput, RequestHead, TensorHead
from runtime.core.model import BatchPolicy, ModelSpec
from runtime.core.tensor import DATA_TYPES, Buffer, TensorSpec, encode_bytes
from runtime.serving.binding import OutputSlot, bind, graph_shape


def model(
    inputs: tuple[TensorSpec, ...] = (TensorSpec("INPUT0", "INT32", (16,)), TensorSpec("INPUT1", "INT32", (16,))),
    max_batch_size: int = 8,
    outputs: tuple[TensorSpec, ...] = (TensorSpec("OUTPUT0", "INT32", (16,)), TensorSpec("OUTPUT1", "BYTES", (16,))),
) -> ModelSpec:
    return ModelSpec(
        "simple", 1, Path("model.onnx"), inputs, outputs, max_batch_size, BatchPolicy() if max_batch_size else None
    )


def head(*inputs: tuple[str, str, tuple[int, ...]], outputs: tuple[RequestedOutput, ...] = ()) -> RequestHead:
    return RequestHead("simple", "", tuple(TensorHead(*each) for each in inputs), outputs)


IN0 = ("INPUT0", "INT32", (1, 16))
IN1 = ("INPUT1", "INT32", (1, 16))


@pytest.mark.parametrize(
    ("inputs", "error", "text"),
    [
        (
            [],
            InvalidRequest,
            "Got input(s) [], but missing required input(s) ['INPUT0', 'INPUT1']. Please provide all required input",
        ),
        ([IN0], InvalidRequest, "expected 2 inputs but got 1 inputs for model 'simple'"),
        ([IN0], InvalidRequest, "missing required input(s) ['INPUT1']"),
        ([IN0, ("WRONG", "INT32", (1, 16))], InvalidRequest, "missing required input(s) ['INPUT1']"),
        ([IN0, IN1, ("EXTRA", "INT32", (1, 16))], InvalidRequest, "unexpected inference input ['EXTRA'] for model 's"),
        ([IN0, IN1, IN1], InvalidRequest, "input ['INPUT1'] given more than once for model 'simple'"),
        (
            [IN0, ("INPUT1", "FP32", (1, 16))],
            InvalidTensor,
            "inference input 'INPUT1' data-type is 'FP32', but model 'simple' expects 'INT32'",
        ),
        ([IN0, ("INPUT1", "FLOATY", (1, 16))], InvalidTensor, "data-type is 'FLOATY'"),
        ([IN0, ("INPUT1", "", (1, 16))], InvalidTensor, "data-type is ''"),
        (
            [IN0, ("INPUT1", "INT32", (1, 15))],
            InvalidTensor,
            "unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1, 16], got [1, 15]",
        ),
        ([IN0, ("INPUT1", "INT32", (16,))], InvalidTensor, "Expected [-1, 16], got [16]"),
        ([IN0, ("INPUT1", "INT32", ())], InvalidTensor, "Expected [-1, 16], got []"),
        ([IN0, ("INPUT1", "INT32", (1, 1, 16))], InvalidTensor, "Expected [-1, 16], got [1, 1, 16]"),
        ([IN0, ("INPUT1", "INT32", (-1, 16))], InvalidTensor, "has negative dimension -1"),
        ([IN0, ("INPUT1", "INT32", (2**62, 16))], InvalidTensor, "more than 1099511627776 elements"),
        (
            [("INPUT0", "INT32", (9, 16)), ("INPUT1", "INT32", (9, 16))],
            InvalidTensor,
            "inference request batch-size 9 must be >= 1 and <= 8 for 'simple'",
        ),
        (
            [("INPUT0", "INT32", (0, 16)), ("INPUT1", "INT32", (0, 16))],
            InvalidTensor,
            "inference request batch-size 0 must be >= 1 and <= 8 for 'simple'",
        ),
        (
            [("INPUT0", "INT32", (2, 16)), ("INPUT1", "INT32", (3, 16))],
            InvalidTensor,
            "input 'INPUT1' batch size 3 does not match the other inputs' 2 for 'simple'",
        ),
    ],
)
def test_refusals_of_inputs(inputs: list[tuple[str, str, tuple[int, ...]]], error: type[Exception], text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bind(model(), head(*inputs))
    assert type(refused.value) is error
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("output", "text"),
    [
        (RequestedOutput("OUTPUT9"), "unexpected inference output 'OUTPUT9' for model 'simple'"),
        (RequestedOutput(""), "unexpected inference output ''"),
        (RequestedOutput("OUTPUT0", -1), "classification -1 of output 'OUTPUT0' must be > 0"),
        (RequestedOutput("OUTPUT1", 3), "classification of output 'OUTPUT1' needs numbers, it is BYTES"),
    ],
)
def test_refusals_of_outputs(output: RequestedOutput, text: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        bind(model(), head(IN0, IN1, outputs=(output,)))
    assert text in str(refused.value)


def test_outputs_are_answered_in_the_models_order_and_doubled_ones_once() -> None:
    wanted = (RequestedOutput("OUTPUT1"), RequestedOutput("OUTPUT0", 2), RequestedOutput("OUTPUT1"))
    binding = bind(model(), head(IN0, IN1, outputs=wanted))
    assert binding.outputs == (OutputSlot(0, 2), OutputSlot(1, 0))
    assert not binding.all_outputs
    assert bind(model(), head(IN0, IN1)).all_outputs
    assert bind(model(), head(IN0, IN1)).outputs == (OutputSlot(0, 0), OutputSlot(1, 0))


def test_inputs_may_come_in_any_order() -> None:
    binding = bind(model(), head(IN1, IN0))
    zeros, ones = np.zeros((1, 16), np.int32), np.ones((1, 16), np.int32)
    arrays = binding.arrays([ones.tobytes(), zeros.tobytes()])
    assert np.array_equal(arrays["INPUT0"], zeros)
    assert np.array_equal(arrays["INPUT1"], ones)


def test_the_shape_key_leaves_out_the_batch() -> None:
    free = (TensorSpec("x", "FP32", (-1, 3)),)
    one, two, other = (bind(model(free), head(("x", "FP32", shape))) for shape in ((1, 5, 3), (4, 5, 3), (1, 6, 3)))
    assert one.key == two.key == ((5, 3),)
    assert other.key != one.key
    assert (one.rows, two.rows) == (1, 4)


def test_without_batching_dims_are_the_whole_shape() -> None:
    whole = model((TensorSpec("x", "FP32", (2, -1)),), max_batch_size=0)
    binding = bind(whole, head(("x", "FP32", (2, 7))))
    assert (binding.rows, binding.key) == (1, ((2, 7),))
    with pytest.raises(InvalidTensor, match=r"Expected \[2, -1\], got \[3, 7\]"):
        bind(whole, head(("x", "FP32", (3, 7))))


def test_a_model_without_inputs_takes_none() -> None:
    assert bind(model((), max_batch_size=0), head()).arrays([]) == {}


def test_an_optional_input_may_be_left_out() -> None:
    spec = model((TensorSpec("x", "FP32", (4,)), TensorSpec("mask", "BOOL", (4,), optional=True)))
    without = bind(spec, head(("x", "FP32", (2, 4))))
    with_mask = bind(spec, head(("x", "FP32", (2, 4)), ("mask", "BOOL", (2, 4))))
    assert without.key == ((4,), None)
    assert with_mask.key == ((4,), (4,)), "they never share a batch"
    assert list(without.arrays([bytes(32)])) == ["x"]
    assert list(with_mask.arrays([bytes(32), bytes(8)])) == ["x", "mask"]


# --- reshape


@pytest.mark.parametrize(
    ("dims", "reshape", "batch", "sent", "expected"),
    [
        ((1,), (), 8, (3, 1), (3,)),  # a scalar per row
        ((4,), (2, 2), 8, (3, 4), (3, 2, 2)),
        ((2, 2), (4,), 8, (3, 2, 2), (3, 4)),
        ((-1,), (-1, 2), 8, (3, 6), (3, 3, 2)),
        ((-1, 2), (-1,), 8, (3, 5, 2), (3, 10)),
        ((1,), (), 0, (1,), ()),
        ((4,), (1, 4), 0, (4,), (1, 4)),
    ],
)
def test_reshape(
    dims: tuple[int, ...],
    reshape: tuple[int, ...],
    batch: int,
    sent: tuple[int, ...],
    expected: tuple[int, ...],
) -> None:
    binding = bind(model((TensorSpec("x", "INT32", dims, reshape),), batch), head(("x", "INT32", sent)))
    numbers = np.arange(np.prod(sent), dtype=np.int32)
    array = binding.arrays([numbers.tobytes()])["x"]
    assert array.shape == expected
    assert np.array_equal(array.ravel(), numbers)
    assert graph_shape(sent, reshape, batched=bool(batch)) == expected


def test_a_shape_that_does_not_reshape_is_refused_before_the_queue() -> None:
    spec = model((TensorSpec("x", "INT32", (-1,), (-1, 2)),))
    with pytest.raises(InvalidTensor, match=r"shape \[1, 5\] does not reshape to \[1, 2, 2\]"):
        bind(spec, head(("x", "INT32", (1, 5))))


# --- the bytes


def test_arrays_are_views_of_the_buffers() -> None:
    binding = bind(model(), head(IN0, IN1))
    buffer = bytearray(64)
    array = binding.arrays([buffer, memoryview(bytes(64))])["INPUT0"]
    buffer[0] = 7
    assert int(array[0, 0]) == 7


@pytest.mark.parametrize(
    ("buffers", "text"),
    [
        ([bytes(64), bytes(63)], "input 'INPUT1' has 63 bytes, expected 64 for INT32 [1, 16]"),
        ([bytes(64), bytes(65)], "input 'INPUT1' has 65 bytes"),
        ([bytes(64), b""], "input 'INPUT1' has 0 bytes"),
        ([bytes(64)], "expected 2 input buffers for model 'simple', got 1"),
        ([np.zeros(16, np.int32), np.zeros(15, np.int32)], "input 'INPUT1' has 15 elements, expected 16"),
        ([np.zeros(16, np.int32), np.zeros(16, np.float32)], "is an array of float32, expected int32"),
        ([np.zeros(16, np.int32), np.zeros(16, ">i4")], "is an array of >i4, expected int32"),
    ],
)
def test_refusals_of_bytes(buffers: list[Any], text: str) -> None:
    with pytest.raises(InvalidTensor) as refused:
        bind(model(), head(IN0, IN1)).arrays(buffers)
    assert text in str(refused.value)


@pytest.mark.parametrize("name", sorted(set(DATA_TYPES) - {"BYTES"}))
def test_every_type_of_fixed_size(name: str) -> None:
    row = DATA_TYPES[name]
    binding = bind(model((TensorSpec("x", name, (3,)),)), head(("x", name, (2, 3))))
    raw = bytes(range(6 * row.size))
    array = binding.arrays([raw])["x"]
    assert array.dtype == row.dtype
    assert array.shape == (2, 3)
    assert array.tobytes() == raw
    assert binding.nbytes([raw]) == len(raw)


@pytest.mark.parametrize("shape", [(1, 0), (3, 0)])
def test_no_elements_are_legal(shape: tuple[int, ...]) -> None:
    binding = bind(model((TensorSpec("x", "FP32", (-1,)), TensorSpec("t", "BYTES", (-1,)))),
                   head(("x", "FP32", shape), ("t", "BYTES", shape)))  # fmt: skip
    arrays = binding.arrays([b"", b""])
    assert arrays["x"].shape == arrays["t"].shape == shape
    with pytest.raises(InvalidTensor, match="has 4 bytes, expected 0"):
        binding.arrays([bytes(4), b""])


TEXTS = model((TensorSpec("t", "BYTES", (2,)),))


def text_binding(rows: int = 1) -> Any:
    return bind(TEXTS, head(("t", "BYTES", (rows, 2))))


def test_bytes_become_text_because_onnx_runtime_knows_no_other_strings() -> None:
    raw = encode_bytes([b"ab", "\u00e4\0\U0001f600".encode(), b"", b"d"])
    array = text_binding(2).arrays([raw])["t"]
    assert array.dtype == object
    assert array.tolist() == [["ab", "\u00e4\0\U0001f600"], ["", "d"]]


def test_bytes_may_come_as_an_array_of_either_kind() -> None:
    array = text_binding().arrays([np.array([b"ab", "\u00e4"], object)])["t"]
    assert array.tolist() == [["ab", "\u00e4"]]


@pytest.mark.parametrize(
    ("buffer", "text"),
    [
        (encode_bytes([b"ok", b"\xff\xfe"]), "not UTF-8 text"),
        (np.array(["ok", "\ud800"], object), "not UTF-8 text"),
        (np.array(["ok", 5], object), "neither bytes nor text"),
        (np.array(["ok", None], object), "neither bytes nor text"),
        (np.array([1.0, 2.0]), "neither bytes nor text"),
        (np.array(["only one"], object), "has 1 elements, expected 2"),
        (encode_bytes([b"ok"]), "has 1 BYTES elements, expected 2"),
    ],
)
def test_what_is_no_text_is_refused(buffer: Any, text: str) -> None:
    with pytest.raises(InvalidTensor, match="'t'") as refused:
        text_binding().arrays([buffer])
    assert text in str(refused.value)


def test_waiting_bytes_are_counted_by_their_length_not_by_their_pointers() -> None:
    raw = encode_bytes([b"x" * 1000, b""])
    assert text_binding().nbytes([raw]) == 1008


SHAPES = st.lists(st.integers(-1, 9) | st.sampled_from([2**31, 2**62]), max_size=4).map(tuple)
TENSORS = st.builds(
    TensorHead, st.sampled_from(["x", "y", ""]), st.sampled_from(["FP32", "BYTES", "BOOL", "no"]), SHAPES
)


@given(
    st.lists(TENSORS, max_size=3),
    st.lists(st.builds(RequestedOutput, st.sampled_from(["o", "p"]), st.integers(-1, 2)), max_size=3),
    st.lists(st.binary(max_size=40), max_size=3),
    st.sampled_from([0, 4]),
)
def test_anything_is_bound_or_refused_and_nothing_crashes(
    inputs: list[TensorHead], outputs: list[RequestedOutput], buffers: list[Buffer], max_batch_size: int
) -> None:
    spec = model(
        (
            TensorSpec("x", "FP32", (-1,), (-1, 1)),
            TensorSpec("y", "BYTES", (-1, 2), optional=True),
        ),
        max_batch_size,
        (TensorSpec("o", "FP32", (-1,)),),
    )
    try:
        arrays = bind(spec, RequestHead("simple", "", tuple(inputs), tuple(outputs))).arrays(buffers)
    except InvalidRequest:
        return
    assert "x" in arrays
