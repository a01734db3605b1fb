"""Protobuf values <-> plain ones: parameters, and tensors that travel as typed contents.

Typed contents are the protocol's slow road (one Python object for each element); raw contents never come here.

Rules
- One field for each data type; a tensor with elements in any other field is refused, and so is a value that its type
  cannot hold. Triton takes the low bits of such a value; a wrong answer helps nobody.
- 16-bit floats have no field: they travel raw only.
"""

from collections.abc import Mapping, MutableMapping
from typing import Any, Final

import numpy as np

from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.inference import Parameter, TensorHead
from runtime.core.tensor import BYTES, DATA_TYPES, Array, element_count
from runtime.wire.pb import inference_pb2 as pb

MAX_TYPED_ELEMENTS: Final = 2**22
"""More elements than this are refused as typed contents: they would hold up the event loop for tens of milliseconds."""

FIELDS: Final[Mapping[str, str]] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    BYTES: "bytes_contents",
}
"""Field of InferTensorContents by data type."""

_WIRE_DTYPE = {"int_contents": np.dtype("<i4"), "uint_contents": np.dtype("<u4")}


def typed_array(tensor: TensorHead, contents: pb.InferTensorContents) -> Array:
    """Return the array of `tensor` that lies in `contents`, in its full shape.

    Raises:
        InvalidTensor: the wrong field, the wrong count, or a value out of range.
    """
    field = FIELDS.get(tensor.datatype)
    if field is None:
        raise InvalidTensor(f"tensor '{tensor.name}' is {tensor.datatype}, which has no typed contents: send it raw")
    for descriptor, _ in contents.ListFields():
        if descriptor.name != field:
            raise InvalidTensor(
                f"tensor '{tensor.name}' is {tensor.datatype}, wanted in {field}, not {descriptor.name}"
            )
    elements = getattr(contents, field)
    count, expected = len(elements), element_count(tensor.shape)
    if count != expected:
        shape = list(tensor.shape)
        raise InvalidTensor(f"tensor '{tensor.name}' has {count} {field}, expected {expected} for shape {shape}")
    if count > MAX_TYPED_ELEMENTS:
        raise InvalidTensor(
            f"tensor '{tensor.name}' has {count} typed elements, the limit is {MAX_TYPED_ELEMENTS}: send it raw"
        )
    return _array(tensor, field, elements, count).reshape(tensor.shape)


def _array(tensor: TensorHead, field: str, elements: Any, count: int) -> Array:
    dtype = DATA_TYPES[tensor.datatype].dtype
    wide: Array = np.fromiter(elements, _WIRE_DTYPE.get(field, dtype), count)
    if wide.dtype == dtype or not count:
        return wide.astype(dtype, copy=False)
    limits: np.iinfo[Any] = np.iinfo(dtype)  # only integers come here
    low, high = int(wide.min()), int(wide.max())
    if low < limits.min or high > limits.max:
        raise InvalidTensor(f"tensor '{tensor.name}' holds values {low} to {high}, beyond {tensor.datatype}")
    return wide.astype(dtype)


def parameters_of(fields: Mapping[str, pb.InferParameter]) -> dict[str, Parameter]:
    """Return the values of a parameter map.

    Raises:
        InvalidRequest: a parameter without a value.
    """
    values: dict[str, Parameter] = {}
    for name, parameter in fields.items():
        choice = parameter.WhichOneof("parameter_choice")
        if choice is None:
            raise InvalidRequest(f"parameter '{name}' has no value")
        values[name] = getattr(parameter, choice)
    return values


def put_parameters(fields: MutableMapping[str, pb.InferParameter], values: Mapping[str, Parameter]) -> None:
    """Write `values` into a parameter map of a message that is being built.

    Integers go as int64, beyond its range as uint64.
    """
    for name, value in values.items():
        parameter = fields[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        elif isinstance(value, int):
            if value < 2**63:
                parameter.int64_param = value
            else:
                parameter.uint64_param = value
        elif isinstance(value, float):
            parameter.double_param = value
        else:
            parameter.string_param = value
