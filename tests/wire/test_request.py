"""Requests: what is refused, what is let through, what is kept for the next one."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings

from runtime.core.errors import InvalidRequest, InvalidTensor, SpillwayError, Unsupported
from runtime.core.inference import InferRequest, RequestedOutput, TensorHead
from runtime.core.tensor import DATA_TYPES, decode_bytes
from runtime.wire import request as request_module
from runtime.wire.head import MAX_RANK
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.request import RequestDecoder, encode_request
from tests.wire.messages import DAMAGED, MESSAGES, field


def message(
    *inputs: tuple[str, str, Sequence[int]],
    raws: Sequence[bytes] | None = None,
    contents: Mapping[str, Mapping[str, Any]] | None = None,
    request_id: str = "",
) -> pb.ModelInferRequest:
    """A request for model `simple` with the given inputs."""
    built = pb.ModelInferRequest(model_name="simple", id=request_id, raw_input_contents=raws or ())
    for name, datatype, shape in inputs:
        tensor = built.inputs.add(name=name, datatype=datatype, shape=shape)
        if contents and name in contents:
            tensor.contents.CopyFrom(pb.InferTensorContents(**contents[name]))
    return built


def decode(built: pb.ModelInferRequest) -> InferRequest:
    return RequestDecoder().decode(built.SerializeToString())


def one(
    datatype: str, shape: Sequence[int], raw: bytes | None = None, /, **contents: Sequence[Any]
) -> pb.ModelInferRequest:
    """A request with the one input `x`."""
    return message(
        ("x", datatype, shape), raws=None if raw is None else [raw], contents={"x": contents} if contents else None
    )


def refused(built: pb.ModelInferRequest) -> str:
    with pytest.raises(InvalidRequest) as caught:
        decode(built)
    return str(caught.value)


def test_a_raw_request() -> None:
    built = message(("a", "FP32", [1, 2]), ("b", "BYTES", [2]), raws=[b"8bytes..", b"\x01\0\0\0x\0\0\0\0"])
    built.model_version = "3"
    built.id = "seven"
    built.outputs.add(name="y")
    encoded = built.SerializeToString()
    request = RequestDecoder().decode(encoded, 12.5)
    assert request.head.model_name == "simple"
    assert request.head.model_version == "3"
    assert request.head.inputs == (TensorHead("a", "FP32", (1, 2)), TensorHead("b", "BYTES", (2,)))
    assert request.head.outputs == (RequestedOutput("y"),)
    assert (request.request_id, request.deadline) == ("seven", 12.5)
    assert [bytes(raw) for raw in request.buffers if isinstance(raw, memoryview)] == list(built.raw_input_contents)
    assert all(isinstance(raw, memoryview) and raw.obj is encoded for raw in request.buffers)
    assert decode(built).deadline == math.inf


def test_a_head_is_parsed_once() -> None:
    decoder = RequestDecoder()
    first = decoder.decode(message(("a", "UINT8", [1]), raws=[b"1"], request_id="1").SerializeToString())
    second = decoder.decode(message(("a", "UINT8", [1]), raws=[b"2"], request_id="2").SerializeToString())
    other = decoder.decode(message(("b", "UINT8", [1]), raws=[b"2"], request_id="2").SerializeToString())
    assert first.head is second.head
    assert first.head is not other.head
    assert (first.request_id, second.request_id) == ("1", "2")


def test_heads_are_dropped_when_others_come() -> None:
    decoder = RequestDecoder(entries=2)

    def ask(name: str) -> object:
        return decoder.decode(message((name, "UINT8", [0]), raws=[b""]).SerializeToString()).head

    a, b = ask("a"), ask("b")
    assert ask("a") is a
    ask("c")  # b is the one used least recently
    assert ask("a") is a
    assert ask("b") is not b


def test_a_long_head_is_not_kept() -> None:
    built = message(("a" * 9000, "UINT8", [0]), raws=[b""])
    decoder = RequestDecoder()
    assert decoder.decode(built.SerializeToString()).head is not decoder.decode(built.SerializeToString()).head


def test_heads_are_limited_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(request_module, "CACHE_BYTES", 500)  # the real limit would take a thousand heads to reach
    decoder = RequestDecoder()
    built = [message((letter * 200, "UINT8", [0]), raws=[b""]).SerializeToString() for letter in "abc"]
    heads = [decoder.decode(each).head for each in built]
    assert decoder.decode(built[2]).head is heads[2]
    assert decoder.decode(built[0]).head is not heads[0]


def test_a_head_with_typed_contents_is_not_kept() -> None:
    encoded = one("INT32", [1], int_contents=[5]).SerializeToString()
    decoder = RequestDecoder()
    assert decoder.decode(encoded).head is not decoder.decode(encoded).head


@pytest.mark.parametrize(
    ("datatype", "field_name", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT16", "int_contents", [-(2**15), 2**15 - 1]),
        ("INT32", "int_contents", [-(2**31), 2**31 - 1]),
        ("INT64", "int64_contents", [-(2**63), 2**63 - 1]),
        ("UINT8", "uint_contents", [0, 255]),
        ("UINT16", "uint_contents", [0, 2**16 - 1]),
        ("UINT32", "uint_contents", [0, 2**32 - 1]),
        ("UINT64", "uint64_contents", [0, 2**64 - 1]),
        ("FP32", "fp32_contents", [1.5, -math.inf]),
        ("FP64", "fp64_contents", [1e300, 0.1]),
        ("BYTES", "bytes_contents", [b"a\0\0", b""]),
    ],
)
def test_typed_contents(datatype: str, field_name: str, values: list[Any]) -> None:
    (array,) = decode(one(datatype, [1, 2], None, **{field_name: values})).buffers
    assert isinstance(array, np.ndarray)
    assert array.dtype == DATA_TYPES[datatype].dtype
    assert array.shape == (1, 2)
    assert array.ravel().tolist() == values
    (scalar,) = decode(one(datatype, [], None, **{field_name: values[:1]})).buffers
    assert isinstance(scalar, np.ndarray)
    assert scalar.shape == ()
    empty = message(("x", datatype, [0, 3]), contents={"x": {}})
    empty.inputs[0].contents.SetInParent()
    (array,) = decode(empty).buffers
    assert isinstance(array, np.ndarray)
    assert (array.shape, array.dtype) == ((0, 3), DATA_TYPES[datatype].dtype)


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (one("INT32", [3], int_contents=[1, 2]), "2 int_contents, expected 3"),
        (one("INT32", [1], int_contents=[1, 2]), "2 int_contents, expected 1"),
        (one("INT32", [1], int64_contents=[1]), "INT32, wanted in int_contents, not int64_contents"),
        (one("FP32", [1], fp32_contents=[1], fp64_contents=[1]), "not fp64_contents"),
        (one("FP16", [1], fp32_contents=[1]), "FP16, which has no typed contents"),
        (one("BF16", [1], fp32_contents=[1]), "BF16, which has no typed contents"),
        (one("INT8", [1], int_contents=[300]), "holds values 300 to 300, beyond INT8"),
        (one("INT16", [2], int_contents=[0, -40000]), "beyond INT16"),
        (one("UINT8", [1], uint_contents=[256]), "beyond UINT8"),
        (one("UINT16", [1], uint_contents=[2**16]), "beyond UINT16"),
    ],
)
def test_wrong_typed_contents(built: pb.ModelInferRequest, words: str) -> None:
    assert words in refused(built)


def test_typed_elements_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.wire.contents.MAX_TYPED_ELEMENTS", 3)  # the real one takes long to build
    assert "4 typed elements, the limit is 3" in refused(one("INT32", [4], int_contents=[1] * 4))


def test_raw_and_typed_together() -> None:
    built = message(
        ("INPUT0", "INT32", [1]),
        ("INPUT1", "INT32", [1]),
        raws=[b"1234", b"1234"],
        contents={"INPUT0": {"int_contents": [1]}},
    )
    text = "contents field must not be specified when using raw_input_contents for 'INPUT0' for model 'simple'"
    assert refused(built) == text


@pytest.mark.parametrize(
    ("built", "words"),
    [
        (one("FP32", [2], b"1234"), "tensor 'x' has 4 bytes, expected 8 for FP32 of shape [2]"),
        (one("FP32", [2], b"123456789"), "has 9 bytes, expected 8"),
        (one("FP32", [0], b"1234"), "has 4 bytes, expected 0"),
        (one("FP32", [2]), "no data for input 'x'"),
        (
            message(("a", "UINT8", [1]), ("b", "UINT8", [1]), ("c", "UINT8", [1]), raws=[b"1"]),
            "no data for input 'b', 'c': 1 raw_input_contents for 3 inputs",
        ),
        (message(("a", "UINT8", [1]), ("a", "UINT8", [1]), raws=[b"1", b"2"]), "'a' of model 'simple' is given twice"),
        (one("FP8", [1], b"1"), "unknown data type 'FP8'"),
        (one("", [1], b"1"), "unknown data type ''"),
        (one("fp32", [1], b"1234"), "unknown data type 'fp32'"),
        (one("UINT8", [-1], b"1"), "negative dimension -1"),
        (one("UINT8", [2**62, 4], b""), "more than"),
        (one("UINT8", [0, 2**62], b""), "more than"),
        (one("UINT8", [1] * (MAX_RANK + 1), b"1"), f"{MAX_RANK + 1} dimensions, the limit is {MAX_RANK}"),
    ],
)
def test_wrong_tensors(built: pb.ModelInferRequest, words: str) -> None:
    assert words in refused(built)


def test_what_is_let_through() -> None:
    more = decode(message(("a", "UINT8", [1]), raws=[b"1", b"2", b"3"]))
    assert [bytes(raw) for raw in more.buffers if isinstance(raw, memoryview)] == [b"1"]
    none = decode(message(raws=[b"left over"]))
    assert list(none.buffers) == []  # that a model needs inputs is the engine's to say
    assert len(decode(one("FP32", [1] * MAX_RANK, b"1234")).buffers) == 1


def test_parameters() -> None:
    built = one("UINT8", [0], b"")
    values: dict[str, Any] = {"b": True, "i": -5, "s": "text", "d": 0.5, "u": 2**64 - 1, "sequence_id": 9}
    for name, kind in zip(values, ("bool", "int64", "string", "double", "uint64", "int64"), strict=True):
        setattr(built.parameters[name], f"{kind}_param", values[name])
    head = decode(built).head
    assert head.parameters == values
    assert [type(value) for value in head.parameters.values()] == [type(values[name]) for name in head.parameters]
    assert (head.priority, head.timeout_us) == (0, 0)


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_priority_and_timeout_are_lifted(kind: str) -> None:
    built = one("UINT8", [0], b"")
    setattr(built.parameters["priority"], kind, 2)
    setattr(built.parameters["timeout"], kind, 5000)
    head = decode(built).head
    assert (head.priority, head.timeout_us) == (2, 5000)
    assert head.parameters == {}


@pytest.mark.parametrize("name", ["priority", "timeout"])
@pytest.mark.parametrize(
    "parameter",
    [
        pb.InferParameter(string_param="2"),
        pb.InferParameter(bool_param=True),
        pb.InferParameter(double_param=2.0),
        pb.InferParameter(int64_param=-1),
        pb.InferParameter(),
    ],
)
def test_wrong_reserved_parameters(name: str, parameter: pb.InferParameter) -> None:
    built = one("UINT8", [0], b"")
    built.parameters[name].CopyFrom(parameter)
    assert f"parameter '{name}'" in refused(built)


def test_requested_outputs() -> None:
    built = one("UINT8", [0], b"")
    built.outputs.add(name="y").parameters["classification"].int64_param = 3
    built.outputs.add(name="z").parameters["binary_data"].bool_param = True
    built.outputs.add(name="y")
    assert decode(built).head.outputs == (RequestedOutput("y", 3), RequestedOutput("z"))


@pytest.mark.parametrize(
    "parameter",
    [
        pb.InferParameter(int64_param=0),
        pb.InferParameter(int64_param=-1),
        pb.InferParameter(string_param="3"),
        pb.InferParameter(bool_param=True),
    ],
)
def test_wrong_classification(parameter: pb.InferParameter) -> None:
    built = one("UINT8", [0], b"")
    built.outputs.add(name="y").parameters["classification"].CopyFrom(parameter)
    assert "parameter 'classification' of output 'y'" in refused(built)


def test_shared_memory_is_not_offered_yet() -> None:
    built = one("UINT8", [4])
    built.inputs[0].parameters["shared_memory_region"].string_param = "r"
    with pytest.raises(Unsupported, match="input 'x' has parameter 'shared_memory_region'"):
        decode(built)
    built = one("UINT8", [0], b"")
    built.outputs.add(name="y").parameters["shared_memory_byte_size"].int64_param = 4
    with pytest.raises(Unsupported, match="output 'y'"):
        decode(built)


@pytest.mark.parametrize("text", [b"\x0a\x01\xff", b"\x2a\x03\x0a\x01\xff", b"\x2a\x02\x0a\x05", b"\x0a\x05", b"junk"])
def test_malformed(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="malformed message"):
        RequestDecoder().decode(text)


@pytest.mark.slow
@given(MESSAGES | DAMAGED)
@settings(max_examples=200, deadline=None)
def test_any_message_is_decoded_or_refused(encoded: bytes) -> None:
    decoder = RequestDecoder()
    try:
        request = decoder.decode(encoded)
    except SpillwayError:
        with pytest.raises(SpillwayError):  # and is refused again when it repeats
            decoder.decode(encoded)
        return
    parsed = pb.ModelInferRequest.FromString(encoded)
    assert request.head.model_name == parsed.model_name
    assert request.request_id == parsed.id
    assert [tensor.name for tensor in request.head.inputs] == [tensor.name for tensor in parsed.inputs]
    assert len(request.buffers) == len(parsed.inputs)


def test_what_protobuf_refuses_after_the_walk() -> None:
    """An input whose own bytes are broken: only protobuf looks inside."""
    encoded = field(5, b"\x0a\x7f")
    with pytest.raises(DecodeError):
        pb.ModelInferRequest.FromString(encoded)
    with pytest.raises(InvalidRequest, match="not a ModelInferRequest"):
        RequestDecoder().decode(encoded)


def test_encode_and_decode() -> None:
    x = np.arange(6, dtype="<f4").reshape(2, 3)
    texts = np.array([b"one", "zw\N{LATIN SMALL LETTER O WITH DIAERESIS}lf"], object)
    encoded = b"".join(
        encode_request(
            "simple",
            [("x", "FP32", x.T), ("s", "BYTES", texts), ("e", "INT8", np.zeros((0, 4), "i1"))],
            outputs=[RequestedOutput("y", 3), RequestedOutput("z")],
            version="2",
            request_id="id",
            parameters={"a": 1, "b": True, "c": "t", "d": 0.5, "e": 2**64 - 1},
            priority=3,
            timeout_us=250,
        )
    )
    request = RequestDecoder().decode(encoded)
    head = request.head
    assert (head.model_name, head.model_version, request.request_id) == ("simple", "2", "id")
    assert head.outputs == (RequestedOutput("y", 3), RequestedOutput("z"))
    assert head.parameters == {"a": 1, "b": True, "c": "t", "d": 0.5, "e": 2**64 - 1}
    assert (head.priority, head.timeout_us) == (3, 250)
    raw, strings, empty = (bytes(each) for each in request.buffers if isinstance(each, memoryview))
    assert raw == x.T.tobytes()
    assert decode_bytes(strings, 2, "s") == [b"one", b"zw\xc3\xb6lf"]
    assert empty == b""


def test_encoding_does_not_copy_large_arrays() -> None:
    x = np.zeros(10_000, "<f4")
    parts = encode_request("m", [("x", "FP32", x)])
    assert any(isinstance(part, memoryview) and np.shares_memory(np.frombuffer(part, "<f4"), x) for part in parts)


def test_an_array_must_have_the_type_it_is_given_as() -> None:
    with pytest.raises(TypeError, match="array of float64 given as FP32"):
        encode_request("m", [("x", "FP32", np.zeros(3))])
    swapped = np.arange(3, dtype=">f4")
    (buffer,) = RequestDecoder().decode(b"".join(encode_request("m", [("x", "FP32", swapped)]))).buffers
    assert bytes(buffer) == swapped.astype("<f4").tobytes()


def test_errors_are_invalid_tensor_where_a_tensor_is_wrong() -> None:
    with pytest.raises(InvalidTensor):
        decode(one("FP32", [2], b"1234"))
