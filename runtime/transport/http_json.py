"""The JSON of `/v2/models/M/infer` to an InferRequest's parts, and an InferResult back. Pure: no socket, no clock.

Rules
- JSON is strict: no NaN, no Infinity, no 1.0 for an integer, no 1 for a bool. What it cannot carry is refused with a
  text that names the way out, binary tensor data; nothing is rounded, clipped or replaced by null.
- Binary parts are views of the received body on the way in and of the result's arrays on the way out.
- Names, types and shapes are checked against the model by the engine; here only what is needed to read the data.
"""

import functools
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import msgspec
import numpy as np

from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.inference import InferResult, OutputTensor, Parameter, RequestHead, TensorHead
from runtime.core.tensor import BYTES, DATA_TYPES, Array, Buffer, element_count
from runtime.wire.head import MAX_RANK, check_raw_size, input_head, request_head, requested_output
from runtime.wire.parts import tensor_bytes

_BINARY_ONLY = frozenset({"FP16", "BF16"})
_NO_DATA = msgspec.Raw(b"")
_OPENING = re.compile(rb"(?:\s*\[){0,%d}" % (MAX_RANK + 1))


class _Input(msgspec.Struct):
    name: str
    datatype: str
    shape: list[int]
    parameters: dict[str, Parameter] = {}
    data: msgspec.Raw = _NO_DATA


class _Output(msgspec.Struct):
    name: str
    parameters: dict[str, Parameter] = {}


class _Request(msgspec.Struct):
    inputs: list[_Input]
    outputs: list[_Output] = []
    id: str = ""
    parameters: dict[str, Parameter] = {}


_REQUEST = msgspec.json.Decoder(_Request)


@dataclass(frozen=True, slots=True)
class BinaryChoice:
    """Which outputs the caller wants as binary data: `default`, but for those in `named`."""

    default: bool = False
    named: Mapping[str, bool] = field(default_factory=dict)

    def wants(self, name: str) -> bool:
        """Whether output `name` goes behind the JSON instead of into it."""
        return self.named.get(name, self.default)


@dataclass(frozen=True, slots=True)
class JsonRequest:
    """What a body said. `buffers[k]` belongs to `head.inputs[k]`: a view of the body, or an array read from JSON."""

    head: RequestHead
    buffers: list[Buffer | Array]
    request_id: str
    binary: BinaryChoice


def decode_request(header: Buffer, tail: memoryview, model: str, version: str) -> JsonRequest:
    """Read the JSON object `header`, and the binary tensor data `tail` behind it.

    Raises:
        InvalidRequest, InvalidTensor: not JSON, not of this form, or data that does not fit type, shape or size.
        Unsupported: tensors in shared memory.
    """
    body = _parse(header)
    inputs: list[TensorHead] = []
    buffers: list[Buffer | Array] = []
    offset = 0
    for given in body.inputs:
        tensor = input_head(given.name, given.datatype, given.shape, given.parameters)
        buffer, offset = _input_data(given, tensor, tail, offset)
        inputs.append(tensor)
        buffers.append(buffer)
    if offset != len(tail):
        raise InvalidRequest(f"{len(tail)} bytes of binary data follow the JSON, its inputs account for {offset}")
    outputs = [requested_output(wanted.name, wanted.parameters) for wanted in body.outputs]
    head = request_head(model, version, inputs, outputs, body.parameters)
    return JsonRequest(head, buffers, body.id, _binary_choice(body))


def _parse(header: Buffer) -> _Request:
    try:
        return _REQUEST.decode(header)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"failed to parse the request JSON: {error}") from error
    except RecursionError as error:
        raise InvalidRequest("failed to parse the request JSON: nested too deeply") from error


def _input_data(given: _Input, tensor: TensorHead, tail: memoryview, offset: int) -> tuple[Buffer | Array, int]:
    """One input's data, and where the next binary part begins."""
    text = bytes(given.data)
    size = given.parameters.get("binary_data_size")
    if size is None:
        if not text:
            raise InvalidTensor(f"input '{tensor.name}' has neither 'data' nor the parameter 'binary_data_size'")
        return _json_data(tensor, text), offset
    if text:
        raise InvalidTensor(f"input '{tensor.name}' has both 'data' and the parameter 'binary_data_size'")
    if type(size) is not int or size < 0:
        raise InvalidTensor(f"parameter 'binary_data_size' of input '{tensor.name}' is {size!r}, wanted bytes")
    end = offset + size
    if end > len(tail):
        raise InvalidTensor(
            f"input '{tensor.name}' wants binary data up to byte {end}, but only {len(tail)} follow the JSON "
            "(is Inference-Header-Content-Length set?)"
        )
    check_raw_size(tensor, size)
    return tail[offset:end], end


def _json_data(tensor: TensorHead, text: bytes) -> Array:
    """The array that 'data' holds: row-major, flat or nested as the shape says."""
    row = DATA_TYPES[tensor.datatype]
    if row.name in _BINARY_ONLY:
        raise InvalidTensor(f"input '{tensor.name}': {row.name} has no JSON form, send it as binary data")
    values = _flat_values(tensor, text)
    count = element_count(tensor.shape)
    if len(values) != count:
        raise InvalidTensor(
            f"input '{tensor.name}' has {len(values)} elements in 'data', "
            f"expected {count} for shape {list(tensor.shape)}"
        )
    try:
        with np.errstate(over="raise"):
            # Floats by way of FP64, so that one beyond FP32 raises instead of becoming infinity.
            return np.array(values, np.float64 if row.dtype.kind == "f" else row.dtype).astype(row.dtype, copy=False)
    except (OverflowError, FloatingPointError) as error:
        raise InvalidTensor(f"input '{tensor.name}' has a value outside {row.name}: {error}") from error


def _flat_values(tensor: TensorHead, text: bytes) -> list[Any]:
    """The elements of 'data', every axis of nested lists checked against the shape."""
    depth = _depth(text)
    if depth == 0 and not tensor.shape:  # a scalar may stand without brackets
        text, depth = b"[%b]" % text, 1
    if depth not in (1, len(tensor.shape)):
        raise InvalidTensor(
            f"'data' of input '{tensor.name}' is nested {depth} deep, expected a flat list or {len(tensor.shape)}"
        )
    try:
        values = _list_decoder(_element_type(tensor.datatype), depth).decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidTensor(f"'data' of input '{tensor.name}' ({tensor.datatype}): {error}") from error
    for axis in range(1, depth):
        wanted = tensor.shape[axis]
        if len(values) != math.prod(tensor.shape[:axis]) or any(len(inner) != wanted for inner in values):
            raise InvalidTensor(f"'data' of input '{tensor.name}' is not nested as its shape {list(tensor.shape)} says")
        values = list(chain.from_iterable(values))
    return values


def _depth(text: bytes) -> int:
    """How many lists open before the first element; no more than one beyond the limit are looked at."""
    opening = _OPENING.match(text)
    return opening[0].count(b"[") if opening else 0


@functools.lru_cache(maxsize=4 * MAX_RANK)  # four element types
def _list_decoder(element: type, depth: int) -> msgspec.json.Decoder[list[Any]]:
    kind: Any = element
    for _ in range(depth):
        kind = list[kind]
    return msgspec.json.Decoder(kind)


def _element_type(datatype: str) -> type:
    if datatype == BYTES:
        return str
    return {"b": bool, "f": float}.get(DATA_TYPES[datatype].dtype.kind, int)


def _binary_choice(body: _Request) -> BinaryChoice:
    named = {
        wanted.name: _flag(wanted.parameters, "binary_data")
        for wanted in body.outputs
        if "binary_data" in wanted.parameters
    }
    return BinaryChoice(_flag(body.parameters, "binary_data_output"), named)


def _flag(parameters: Mapping[str, Parameter], name: str) -> bool:
    value = parameters.get(name, False)
    if not isinstance(value, bool):
        raise InvalidRequest(f"parameter '{name}' is {value!r}, expected true or false")
    return value


def encode_result(
    result: InferResult, request_id: str, binary: BinaryChoice, max_elements: int
) -> tuple[bytes, list[Buffer]]:
    """The JSON object of an answer, and the binary parts behind it in the order of its outputs.

    Raises:
        InvalidRequest: an output asked for as JSON has no JSON form (NaN, Infinity, 16-bit floats, bytes that are no
            text), or more than `max_elements` elements.
    """
    parts: list[Buffer] = []
    outputs: list[dict[str, Any]] = []
    for output in result.outputs:
        entry: dict[str, Any] = {
            "name": output.name,
            "datatype": output.datatype,
            "shape": output.array.shape,
        }
        if binary.wants(output.name):
            part = tensor_bytes(output.array, output.datatype)
            parts.append(part)
            entry["parameters"] = {"binary_data_size": len(part)}
        else:
            entry["data"] = _json_values(output, max_elements)
        outputs.append(entry)
    answer: dict[str, Any] = {"id": request_id} if request_id else {}
    answer |= {"model_name": result.model_name, "model_version": result.model_version}
    if result.parameters:
        answer["parameters"] = result.parameters
    answer["outputs"] = outputs
    return msgspec.json.encode(answer), parts


def _json_values(output: OutputTensor, max_elements: int) -> list[Any]:
    array = output.array
    if array.size > max_elements:
        raise _no_json(output, f"has {array.size} elements, the limit for JSON is {max_elements}")
    if output.datatype in _BINARY_ONLY:
        raise _no_json(output, f"is {output.datatype}, which has no JSON form")
    if output.datatype == BYTES:
        try:
            return [item if isinstance(item, str) else bytes(item).decode() for item in array.ravel().tolist()]
        except UnicodeDecodeError as error:
            raise _no_json(output, "holds bytes that are not UTF-8 text") from error
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise _no_json(output, "holds NaN or Infinity, which JSON has no word for")
    values: list[Any] = array.ravel().tolist()
    return values


def _no_json(output: OutputTensor, why: str) -> InvalidRequest:
    return InvalidRequest(f"output '{output.name}' {why}; ask for it with the parameter 'binary_data' true")
