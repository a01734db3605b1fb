"""Everything of a request but its bytes: checks that need no model, over plain values.

The protobuf message and the JSON of the HTTP front both come through here, so both refuse the same requests with the
same words. Pure.

Rules
- What depends on the model (which inputs, their types and shapes) is the engine's to check, not ours.
- `priority` and `timeout` are lifted out of the parameters; every other parameter is let through, unknown ones too.
"""

from collections.abc import Iterable, Mapping, Sequence

from runtime.core.errors import InvalidRequest, InvalidTensor, Unsupported
from runtime.core.inference import Parameter, RequestedOutput, RequestHead, TensorHead
from runtime.core.tensor import BYTES, DATA_TYPES, byte_count, element_count

MAX_RANK = 32
"""More dimensions than this no tensor has; numpy stops at 64."""
ANY_SIZE = -1
"""Raw size of a tensor whose shape does not tell it: BYTES."""

_SHARED_MEMORY = "shared_memory_"


def input_head(name: str, datatype: str, shape: Sequence[int], parameters: Mapping[str, Parameter]) -> TensorHead:
    """Check one input as its sender describes it.

    Raises:
        InvalidTensor: see `tensor_head`.
        Unsupported: its data is said to be in shared memory.
    """
    _refuse_shared_memory("input", name, parameters)
    return tensor_head(name, datatype, shape)


def tensor_head(name: str, datatype: str, shape: Sequence[int]) -> TensorHead:
    """Check the description of one tensor.

    Raises:
        InvalidTensor: unknown data type, or a shape that no tensor can have.
    """
    if datatype not in DATA_TYPES:
        raise InvalidTensor(f"tensor '{name}' has unknown data type '{datatype}'")
    if len(shape) > MAX_RANK:
        raise InvalidTensor(f"tensor '{name}' has {len(shape)} dimensions, the limit is {MAX_RANK}")
    try:
        element_count([dim or 1 for dim in shape])  # with zeros as ones: [0, 2**62] is refused as well
    except InvalidTensor as error:
        raise InvalidTensor(f"tensor '{name}': {error}") from None
    return TensorHead(name, datatype, tuple(shape))


def requested_output(name: str, parameters: Mapping[str, Parameter]) -> RequestedOutput:
    """Check one requested output.

    Raises:
        InvalidRequest: `classification` is not a positive integer.
        Unsupported: it is to be put into shared memory.
    """
    _refuse_shared_memory("output", name, parameters)
    top = parameters.get("classification")
    if top is None:
        return RequestedOutput(name)
    if not isinstance(top, int) or isinstance(top, bool) or top <= 0:
        raise InvalidRequest(f"parameter 'classification' of output '{name}' is {top!r}, wanted a positive integer")
    return RequestedOutput(name, top)


def request_head(
    model: str,
    version: str,
    inputs: Sequence[TensorHead],
    outputs: Iterable[RequestedOutput],
    parameters: Mapping[str, Parameter],
) -> RequestHead:
    """Put checked parts together. An output asked for twice is answered once, as first asked.

    Raises:
        InvalidRequest: an input is there twice, or a reserved parameter has the wrong type or a negative value.
    """
    seen: set[str] = set()
    for tensor in inputs:
        if tensor.name in seen:
            raise InvalidRequest(f"input '{tensor.name}' of model '{model}' is given twice")
        seen.add(tensor.name)
    once: dict[str, RequestedOutput] = {}
    for output in outputs:
        once.setdefault(output.name, output)
    left = dict(parameters)
    priority, timeout_us = (_take_count(left, name) for name in ("priority", "timeout"))
    return RequestHead(
        model, version, tuple(inputs), tuple(once.values()), left, priority=priority, timeout_us=timeout_us
    )


def raw_size(tensor: TensorHead) -> int:
    """Bytes of the tensor on the wire, or ANY_SIZE."""
    return ANY_SIZE if tensor.datatype == BYTES else byte_count(tensor.datatype, tensor.shape)


def check_raw_size(tensor: TensorHead, got: int) -> None:
    """Refuse raw data whose size is not that of the shape.

    Raises:
        InvalidTensor: with both sizes.
    """
    expected = raw_size(tensor)
    if expected not in (ANY_SIZE, got):
        raise InvalidTensor(
            f"tensor '{tensor.name}' has {got} bytes, expected {expected} "
            f"for {tensor.datatype} of shape {list(tensor.shape)}"
        )


def _take_count(parameters: dict[str, Parameter], name: str) -> int:
    value = parameters.pop(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise InvalidRequest(f"parameter '{name}' is {value!r}, wanted an integer of 0 or more")
    return value


def _refuse_shared_memory(what: str, name: str, parameters: Mapping[str, Parameter]) -> None:
    for key in parameters:
        if key.startswith(_SHARED_MEMORY):
            raise Unsupported(f"{what} '{name}' has parameter '{key}': shared memory is not offered by this server")
