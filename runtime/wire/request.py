"""ModelInferRequest <-> InferRequest: decoded by servers, encoded by clients.

A client sends the same head again and again (all but the id and the tensor bytes), so heads are kept by their bytes and
a request that repeats one costs a walk and a look-up.

Rules
- Raw tensor bytes are never copied: buffers are views of the message.
- A head that carries typed contents is not kept: its tensors would stay with it.
- What only the model can tell is not checked here.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.inference import InferRequest, Parameter, RequestedOutput, RequestHead
from runtime.core.tensor import Array, Buffer
from runtime.wire.contents import parameters_of, put_parameters, typed_array
from runtime.wire.head import check_raw_size, input_head, raw_size, request_head, requested_output
from runtime.wire.parts import MAX_MESSAGE_BYTES, prefix, tensor_bytes, text_field
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.recent import Recent
from runtime.wire.walk import DELIMITED, ID_TAG, RAW_INPUTS, walk

CACHE_BYTES: Final = 2**20
"""Bytes of heads kept at most; what is made of them takes some ten times as much."""

_RAW_TAG = RAW_INPUTS << 3 | DELIMITED

_Known = tuple[RequestHead, list[int]]
"""A head, and the sizes its raw tensors should have."""


class RequestDecoder:
    """Makes requests of messages. One per event loop."""

    def __init__(self, entries: int = 1024, max_head_bytes: int = 8192) -> None:
        self._known: Recent[bytes, _Known] = Recent(entries, CACHE_BYTES)
        self._max_head_bytes = max_head_bytes

    def decode(self, message: Buffer, deadline: float = math.inf) -> InferRequest:
        """Decode one ModelInferRequest; its buffers keep `message` alive.

        Raises:
            InvalidRequest: malformed, or wrong whatever the model.
            Unsupported: it uses a part of the protocol that is not offered.
        """
        head_bytes, request_id, raws = walk(message)
        known = self._known.get(head_bytes)
        if known is None:
            parsed = _parse(head_bytes)
            head = _head_of(parsed)
            if any(tensor.HasField("contents") for tensor in parsed.inputs):
                return InferRequest(head, _typed_buffers(head, parsed, raws), request_id, deadline)
            known = head, [raw_size(tensor) for tensor in head.inputs]
            if len(head_bytes) <= self._max_head_bytes:
                self._known.put(head_bytes, known, len(head_bytes))
        head, sizes = known
        if list(map(len, raws)) != sizes:
            raws = _checked(head, raws)
        return InferRequest(head, raws, request_id, deadline)


def _parse(head_bytes: bytes) -> pb.ModelInferRequest:
    try:
        return pb.ModelInferRequest.FromString(head_bytes)
    except DecodeError as error:
        raise InvalidRequest("malformed message: not a ModelInferRequest") from error


def _head_of(message: pb.ModelInferRequest) -> RequestHead:
    return request_head(
        message.model_name,
        message.model_version,
        [input_head(each.name, each.datatype, each.shape, parameters_of(each.parameters)) for each in message.inputs],
        [requested_output(each.name, parameters_of(each.parameters)) for each in message.outputs],
        parameters_of(message.parameters),
    )


def _typed_buffers(head: RequestHead, message: pb.ModelInferRequest, raws: Sequence[Buffer]) -> list[Array]:
    arrays: list[Array] = []
    for tensor, source in zip(head.inputs, message.inputs, strict=True):
        if raws and source.HasField("contents"):  # the very sentence of Triton: clients test for it
            raise InvalidTensor(
                f"contents field must not be specified when using raw_input_contents for '{tensor.name}' "
                f"for model '{head.model_name}'"
            )
        if not raws:
            arrays.append(typed_array(tensor, source.contents))
    return arrays


def _checked(head: RequestHead, raws: list[memoryview]) -> list[memoryview]:
    """Refuse too few raw contents and wrong sizes; drop what is beyond the inputs, as Triton does."""
    wanted = len(head.inputs)
    if len(raws) < wanted:
        missing = ", ".join(f"'{tensor.name}'" for tensor in head.inputs[len(raws) :])
        raise InvalidTensor(f"no data for input {missing}: {len(raws)} raw_input_contents for {wanted} inputs")
    raws = raws[:wanted]
    for tensor, raw in zip(head.inputs, raws, strict=True):
        check_raw_size(tensor, len(raw))
    return raws


def encode_request(
    model: str,
    inputs: Sequence[tuple[str, str, Array]],
    *,
    outputs: Sequence[RequestedOutput] = (),
    version: str = "",
    request_id: str = "",
    parameters: Mapping[str, Parameter] | None = None,
    priority: int = 0,
    timeout_us: int = 0,
) -> list[Buffer]:
    """Encode a request as parts of a ModelInferRequest; the parts are views of the arrays.

    Each input is (name, data type, array); the array has the dtype of the data type (BF16: uint16, BYTES: object).

    Raises:
        InvalidRequest: it is longer than a message can be.
    """
    message = pb.ModelInferRequest(model_name=model, model_version=version)
    put_parameters(message.parameters, parameters or {})
    if priority:
        message.parameters["priority"].uint64_param = priority
    if timeout_us:
        message.parameters["timeout"].int64_param = timeout_us  # Triton reads no other type here
    raws: list[Buffer] = []
    for name, datatype, array in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=array.shape)
        raw = tensor_bytes(array, datatype)
        raws += (prefix(_RAW_TAG, len(raw)), raw)
    for output in outputs:
        target = message.outputs.add(name=output.name)
        if output.classification:
            target.parameters["classification"].int64_param = output.classification
    parts: list[Buffer] = [message.SerializeToString() + text_field(ID_TAG, request_id), *raws]
    size = sum(map(len, parts))
    if size > MAX_MESSAGE_BYTES:
        raise InvalidRequest(f"request of {size} bytes exceeds the protocol's {MAX_MESSAGE_BYTES}")
    return parts
