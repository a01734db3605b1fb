"""InferResult <-> ModelInferResponse and ModelStreamInferResponse: encoded by servers, decoded by clients.

An answer is a header (names, types and shapes, made once by protobuf and kept), the id, and the arrays as they lie in
memory behind a tag and a length each. Parsed by protobuf it is the message one would have built.

Rules
- Output arrays are never copied here but for BYTES and for what does not lie in memory as the protocol wants it.
- Decoded arrays are read-only views of the message, BYTES excepted.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import grpc
import numpy as np
from google.protobuf.message import DecodeError

from runtime.core.errors import ExecutionError, InvalidRequest, SpillwayError
from runtime.core.inference import InferResult, OutputTensor, Parameter, TensorHead
from runtime.core.tensor import BYTES, DATA_TYPES, Array, Buffer, byte_count, decode_bytes, element_count
from runtime.wire.contents import parameters_of, put_parameters, typed_array
from runtime.wire.head import check_raw_size, tensor_head
from runtime.wire.parts import MAX_MESSAGE_BYTES, prefix, tensor_bytes, text_field
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.recent import Recent
from runtime.wire.status import error_of, status_of
from runtime.wire.walk import DELIMITED, ID_TAG, RAW_OUTPUTS, walk

FINAL_RESPONSE: Final = "triton_final_response"
"""Parameter of every answer in a stream: true on the last one to its request."""
STATUS_PARAMETER: Final = "spillway_status"
"""Parameter of an error in a stream: the name of the status code a unary call would have ended with."""

CACHE_BYTES: Final = 2**20
"""Bytes of headers kept at most."""

_RAW_TAG = RAW_OUTPUTS << 3 | DELIMITED
_INFER_RESPONSE = 2  # field of ModelStreamInferResponse
_RESPONSE_TAG = _INFER_RESPONSE << 3 | DELIMITED

_HeadKey = tuple[str, str, tuple[tuple[str, str, tuple[int, ...]], ...]]


class _Header(NamedTuple):
    """What repeats of an answer: all before the id, and the tag and length of each raw output (BYTES: empty)."""

    data: bytes
    prefixes: tuple[bytes, ...]


class ResponseEncoder:
    """Makes messages of results. One per event loop."""

    def __init__(self, entries: int = 1024) -> None:
        self._known: Recent[_HeadKey, _Header] = Recent(entries, CACHE_BYTES)

    def encode(
        self, result: InferResult, request_id: str, extra_parameters: Mapping[str, Parameter] | None = None
    ) -> list[Buffer]:
        """Encode a ModelInferResponse as parts, to be joined once; they are views of the result's arrays.

        Raises:
            ExecutionError: the answer is longer than a message can be.
        """
        parameters = {**result.parameters, **extra_parameters} if extra_parameters else result.parameters
        return self._parts(result, request_id, _parameter_field(parameters))

    def encode_stream_result(self, result: InferResult, request_id: str, *, final: bool = True) -> list[Buffer]:
        """Encode a ModelStreamInferResponse as parts; `final` says that no other answer to the request follows.

        Raises:
            ExecutionError: the answer is longer than a message can be.
        """
        parts = self._parts(result, request_id, _parameter_field({**result.parameters, FINAL_RESPONSE: final}))
        return [prefix(_RESPONSE_TAG, sum(map(len, parts))), *parts]

    def _parts(self, result: InferResult, request_id: str, parameters: bytes) -> list[Buffer]:
        key = (
            result.model_name,
            result.model_version,
            tuple([(output.name, output.datatype, output.array.shape) for output in result.outputs]),
        )
        header = self._known.get(key)
        if header is None:
            header = _header(key)
            self._known.put(key, header, len(header.data))
        parts: list[Buffer] = []
        total = 0
        before = header.data + text_field(ID_TAG, request_id) + parameters
        for output, tag_and_length in zip(result.outputs, header.prefixes, strict=True):
            raw = tensor_bytes(output.array, output.datatype)
            before += tag_and_length or prefix(_RAW_TAG, len(raw))
            parts += (before, raw)
            total += len(before) + len(raw)
            before = b""
        if total > MAX_MESSAGE_BYTES - 2**10:  # room for what a stream wraps around it
            raise ExecutionError(f"answer of {total} bytes exceeds the protocol's {MAX_MESSAGE_BYTES}")
        return parts or [before]


def _header(key: _HeadKey) -> _Header:
    model, version, outputs = key
    message = pb.ModelInferResponse(model_name=model, model_version=version)
    prefixes = []
    for name, datatype, shape in outputs:
        message.outputs.add(name=name, datatype=datatype, shape=shape)
        prefixes.append(b"" if datatype == BYTES else prefix(_RAW_TAG, byte_count(datatype, shape)))
    return _Header(message.SerializeToString(), tuple(prefixes))


def _parameter_field(values: Mapping[str, Parameter]) -> bytes:
    """The parameters alone, as bytes that may stand beside those of the other fields."""
    if not values:
        return b""
    message = pb.ModelInferResponse()
    put_parameters(message.parameters, values)
    return message.SerializeToString()


def encode_stream_error(error: BaseException, request_id: str) -> bytes:
    """Encode a ModelStreamInferResponse that says why one request failed; the stream lives on."""
    code, details = status_of(error)
    message = pb.ModelStreamInferResponse(error_message=details or code.name)
    message.infer_response.id = request_id
    put_parameters(message.infer_response.parameters, {FINAL_RESPONSE: True, STATUS_PARAMETER: code.name})
    return message.SerializeToString()


def decode_response(message: Buffer) -> InferResult:
    """Decode a ModelInferResponse; its arrays keep `message` alive.

    Raises:
        ExecutionError: the server sent something that is no answer.
    """
    return _decode(message)[0]


def decode_stream_response(message: Buffer) -> tuple[str, InferResult | SpillwayError]:
    """Decode a ModelStreamInferResponse into the request's id and its outcome.

    Raises:
        ExecutionError: the server sent something that is no answer.
    """
    try:
        head, _, responses = walk(message, _INFER_RESPONSE)
        failure = pb.ModelStreamInferResponse.FromString(head).error_message
    except (InvalidRequest, DecodeError) as error:
        raise ExecutionError(f"malformed answer: {error}") from error
    # Pieces of one submessage join to one; no server is known to send more than one.
    response = responses[0] if len(responses) == 1 else b"".join(responses)
    result, request_id = _decode(response)
    if not failure:
        return request_id, result
    name = result.parameters.get(STATUS_PARAMETER)
    code = grpc.StatusCode.__members__.get(str(name), grpc.StatusCode.UNKNOWN)
    return request_id, error_of(code, failure)


def _decode(message: Buffer) -> tuple[InferResult, str]:
    try:
        head, request_id, raws = walk(message, RAW_OUTPUTS)
        parsed = pb.ModelInferResponse.FromString(head)
        tensors = [tensor_head(each.name, each.datatype, each.shape) for each in parsed.outputs]
        if raws and len(raws) < len(tensors):
            raise InvalidRequest(f"{len(raws)} raw_output_contents for {len(tensors)} outputs")
        arrays = (
            [_raw_array(tensor, raw) for tensor, raw in zip(tensors, raws, strict=False)]
            if raws
            else [typed_array(tensor, each.contents) for tensor, each in zip(tensors, parsed.outputs, strict=True)]
        )
        parameters = parameters_of(parsed.parameters)
    except (InvalidRequest, DecodeError) as error:
        raise ExecutionError(f"malformed answer: {error}") from error
    outputs = [OutputTensor(tensor.name, tensor.datatype, array) for tensor, array in zip(tensors, arrays, strict=True)]
    return InferResult(parsed.model_name, parsed.model_version, outputs, parameters), request_id


def _raw_array(tensor: TensorHead, raw: memoryview) -> Array:
    if tensor.datatype == BYTES:
        elements = decode_bytes(raw, element_count(tensor.shape), tensor.name)
        return np.fromiter(elements, object, len(elements)).reshape(tensor.shape)
    check_raw_size(tensor, len(raw))
    return np.frombuffer(raw, DATA_TYPES[tensor.datatype].dtype).reshape(tensor.shape)
