"""Answers: what protobuf reads is what was meant, whole and in a stream, and comes back as it was."""

import math
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core import errors
from runtime.core.errors import ExecutionError, SpillwayError
from runtime.core.inference import InferResult, OutputTensor, Parameter
from runtime.core.tensor import BYTES, DATA_TYPES, Array, Buffer, encode_bytes
from runtime.wire import reply as reply_module
from runtime.wire.contents import FIELDS, put_parameters
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.reply import ResponseEncoder, decode_response, decode_stream_response, encode_stream_error
from tests.wire.messages import field

SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
TEXTS = st.text(max_size=20)


@st.composite
def tensors(draw: st.DrawFn) -> OutputTensor:
    """Outputs of every data type, empty, scalar, of other byte order and with gaps in memory among them."""
    datatype = draw(st.sampled_from(list(DATA_TYPES)))
    shape = draw(SHAPES)
    size = math.prod(shape)
    array: Array
    if datatype == BYTES:
        elements = draw(st.lists(st.one_of(st.binary(max_size=5), TEXTS), min_size=size, max_size=size))
        array = np.fromiter(elements, object, size).reshape(shape)
    else:
        dtype = DATA_TYPES[datatype].dtype
        data = draw(st.binary(min_size=size * dtype.itemsize, max_size=size * dtype.itemsize))
        array = np.frombuffer(data, dtype).reshape(shape)
        if draw(st.booleans()):
            array = array.astype(dtype.newbyteorder(">"))
        if draw(st.booleans()):
            array = np.stack([array, array], axis=-1)[..., 0]  # every second element
    return OutputTensor(draw(TEXTS), datatype, array)


PARAMETERS: st.SearchStrategy[dict[str, Parameter]] = st.dictionaries(
    TEXTS,
    st.one_of(st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), TEXTS),
    max_size=2,
)
RESULTS = st.builds(InferResult, TEXTS, TEXTS, st.lists(tensors(), max_size=3), PARAMETERS)


def little_endian(output: OutputTensor) -> bytes:
    if output.datatype == BYTES:
        return encode_bytes(output.array.ravel().tolist())
    return output.array.astype(DATA_TYPES[output.datatype].dtype).tobytes()


def expected(result: InferResult, request_id: str) -> pb.ModelInferResponse:
    """The message, built as one would with protobuf alone."""
    message = pb.ModelInferResponse(model_name=result.model_name, model_version=result.model_version, id=request_id)
    put_parameters(message.parameters, result.parameters)
    for output in result.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        message.raw_output_contents.append(little_endian(output))
    return message


def join(parts: list[Buffer]) -> bytes:
    return b"".join(parts)


def assert_same(back: InferResult, result: InferResult) -> None:
    assert (back.model_name, back.model_version, back.parameters) == (
        result.model_name,
        result.model_version,
        result.parameters,
    )
    assert len(back.outputs) == len(result.outputs)
    for got, sent in zip(back.outputs, result.outputs, strict=True):
        assert (got.name, got.datatype, got.array.shape) == (sent.name, sent.datatype, sent.array.shape)
        assert got.array.dtype == DATA_TYPES[sent.datatype].dtype
        assert little_endian(got) == little_endian(sent)


@pytest.mark.slow
@given(RESULTS, TEXTS)
@settings(max_examples=300, deadline=None)
def test_protobuf_reads_what_was_meant(result: InferResult, request_id: str) -> None:
    encoder = ResponseEncoder()
    for _ in range(2):  # the second time from the cache
        encoded = join(encoder.encode(result, request_id))
        assert pb.ModelInferResponse.FromString(encoded) == expected(result, request_id)
        assert_same(decode_response(encoded), result)


@pytest.mark.slow
@given(RESULTS, TEXTS, st.booleans())
@settings(max_examples=200, deadline=None)
def test_protobuf_reads_what_was_meant_in_a_stream(result: InferResult, request_id: str, final: bool) -> None:
    encoded = join(ResponseEncoder().encode_stream_result(result, request_id, final=final))
    message = pb.ModelStreamInferResponse.FromString(encoded)
    meant = expected(result, request_id)
    put_parameters(meant.parameters, {"triton_final_response": final})
    assert not message.error_message
    assert message.infer_response == meant
    back_id, back = decode_stream_response(encoded)
    assert back_id == request_id
    assert isinstance(back, InferResult)
    parameters = {**result.parameters, "triton_final_response": final}
    assert_same(back, InferResult(result.model_name, result.model_version, result.outputs, parameters))


def result_of(array: Array, datatype: str = "FP32", **parameters: Parameter) -> InferResult:
    return InferResult("m", "1", [OutputTensor("y", datatype, array)], parameters)


def test_the_header_is_kept_by_names_types_and_shapes() -> None:
    encoder = ResponseEncoder(entries=2)
    for shape in ((1, 2), (2, 1), (2,), (1, 2)):
        for datatype in ("FP32", "INT32"):
            array = np.ones(shape, DATA_TYPES[datatype].dtype)
            (output,) = decode_response(join(encoder.encode(result_of(array, datatype), ""))).outputs
            assert (output.array.shape, output.datatype, output.array.tolist()) == (shape, datatype, array.tolist())


def test_bytes_of_other_length_under_the_same_header() -> None:
    encoder = ResponseEncoder()
    for text in (b"", b"longer", b"x" * 300):
        array = np.array([text], object)
        (output,) = decode_response(join(encoder.encode(result_of(array, BYTES), ""))).outputs
        assert output.array.tolist() == [text]


def test_extra_parameters_are_added() -> None:
    result = result_of(np.zeros(1, "<f4"), a=1, b=2)
    encoded = join(ResponseEncoder().encode(result, "", {"b": 3, "degraded": True}))
    assert decode_response(encoded).parameters == {"a": 1, "b": 3, "degraded": True}


def test_large_arrays_are_not_copied() -> None:
    array = np.zeros((100, 100), "<f4")
    parts = ResponseEncoder().encode(result_of(array), "id")
    assert any(isinstance(part, memoryview) and np.shares_memory(np.frombuffer(part, "<f4"), array) for part in parts)


def test_decoded_arrays_are_views() -> None:
    encoded = join(ResponseEncoder().encode(result_of(np.arange(1000, dtype="<f4")), "id"))
    (output,) = decode_response(encoded).outputs
    assert np.shares_memory(output.array, np.frombuffer(encoded, np.uint8))


def test_an_array_of_another_type_is_a_bug_and_not_an_answer() -> None:
    with pytest.raises(TypeError, match="array of float64 given as FP32"):
        ResponseEncoder().encode(result_of(np.zeros(2)), "")


def test_answers_longer_than_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reply_module, "MAX_MESSAGE_BYTES", 2**12)  # the real limit takes 2 GiB
    with pytest.raises(ExecutionError, match="exceeds"):
        ResponseEncoder().encode(result_of(np.zeros(1000, "<f4")), "")


ERRORS: list[SpillwayError] = [
    errors.InvalidTensor("input 'x' is wrong"),
    errors.ModelNotFound("m"),
    errors.DeadlineExpired("in the queue"),
    errors.Overloaded("too much"),
    errors.ModelNotReady("loading"),
    errors.ExecutionError("node 3 failed"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_in_a_stream(error: SpillwayError) -> None:
    encoded = encode_stream_error(error, "seven")
    message = pb.ModelStreamInferResponse.FromString(encoded)
    assert message.error_message == str(error)
    assert message.infer_response.id == "seven"
    assert message.infer_response.parameters["triton_final_response"].bool_param
    request_id, back = decode_stream_response(encoded)
    assert request_id == "seven"
    assert isinstance(back, SpillwayError)
    assert str(back) == str(error)
    assert isinstance(error, type(back))


def test_an_error_of_another_server_in_a_stream() -> None:
    """Triton sends no code there, so nothing more than a failure can be told."""
    message = pb.ModelStreamInferResponse(error_message="went wrong")
    message.infer_response.id = "1"
    request_id, back = decode_stream_response(message.SerializeToString())
    assert request_id == "1"
    assert isinstance(back, ExecutionError)
    assert str(back) == "went wrong"


def test_a_bug_in_a_stream_tells_nothing() -> None:
    message = pb.ModelStreamInferResponse.FromString(encode_stream_error(KeyError("secret"), ""))
    assert message.error_message == "internal error"


@pytest.mark.parametrize("datatype", list(FIELDS))
def test_answers_with_typed_contents(datatype: str) -> None:
    """Ours are always raw; other servers answer so."""
    values: list[Any] = [b"x", b""] if datatype == BYTES else [1, 0]
    message = pb.ModelInferResponse(model_name="m")
    output = message.outputs.add(name="y", datatype=datatype, shape=[2])
    getattr(output.contents, FIELDS[datatype]).extend(values)
    (back,) = decode_response(message.SerializeToString()).outputs
    assert back.array.tolist() == values
    assert back.array.dtype == DATA_TYPES[datatype].dtype


def answer(datatype: str, shape: list[int], *raws: bytes) -> bytes:
    message = pb.ModelInferResponse(raw_output_contents=raws)
    message.outputs.add(name="y", datatype=datatype, shape=shape)
    return message.SerializeToString()


@pytest.mark.parametrize(
    ("encoded", "words"),
    [
        (b"junk", "malformed answer"),
        (field(5, b"\x0a\x7f"), "malformed answer"),
        (answer("FP32", [2], b"1234"), "tensor 'y' has 4 bytes, expected 8"),
        (answer("FP32", [2]), "0 fp32_contents, expected 2"),
        (answer("FP7", [2], b"1234"), "unknown data type 'FP7'"),
        (answer("FP32", [-1], b"1234"), "negative dimension"),
        (answer("BYTES", [2], b"\x01\0\0\0x"), "1 BYTES elements, expected 2"),
        (
            pb.ModelInferResponse(outputs=[{"datatype": "INT8"}] * 2, raw_output_contents=[b"1"]).SerializeToString(),
            "1 raw_output_contents for 2 outputs",
        ),
    ],
)
def test_malformed_answers(encoded: bytes, words: str) -> None:
    with pytest.raises(ExecutionError, match="malformed answer") as caught:
        decode_response(encoded)
    assert words in str(caught.value)
    with pytest.raises(ExecutionError, match="malformed answer"):
        decode_stream_response(field(2, encoded))


def test_malformed_stream_messages() -> None:
    for encoded in (b"\x0a\x05", field(1, b"\xff"), b"\x0b\x0c"):
        with pytest.raises(ExecutionError, match="malformed answer"):
            decode_stream_response(encoded)


@pytest.mark.slow
@given(st.binary(max_size=30), RESULTS, st.integers(0, 50))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_an_answer_or_refused(junk: bytes, result: InferResult, cut: int) -> None:
    whole = join(ResponseEncoder().encode(result, "id"))
    for encoded in (junk, whole[: max(0, len(whole) - cut)], whole[cut:]):
        try:
            parsed = pb.ModelInferResponse.FromString(encoded)
        except DecodeError:
            parsed = None
        try:
            back = decode_response(encoded)
        except ExecutionError:
            continue
        assert parsed is not None
        assert [output.name for output in back.outputs] == [output.name for output in parsed.outputs]


def test_a_response_in_pieces_is_one() -> None:
    """Protobuf merges the pieces of a submessage."""
    first = pb.ModelInferResponse(model_name="m", id="1").SerializeToString()
    second = pb.ModelInferResponse(model_version="2").SerializeToString()
    request_id, back = decode_stream_response(field(2, first) + field(2, second))
    assert request_id == "1"
    assert isinstance(back, InferResult)
    assert (back.model_name, back.model_version) == ("m", "2")


def test_status_parameter_names_a_code() -> None:
    message = pb.ModelStreamInferResponse.FromString(encode_stream_error(errors.Draining(), ""))
    name = message.infer_response.parameters[reply_module.STATUS_PARAMETER].string_param
    assert grpc.StatusCode[name] is grpc.StatusCode.UNAVAILABLE
