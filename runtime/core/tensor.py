"""Data types and tensor specifications, and the BYTES encoding of the Open Inference Protocol.

Rules
- One table says what each data type is called in the protocol, in `config.pbtxt`, in ONNX and in numpy.
- Tensor bytes are little endian, row-major, as the protocol says. BF16 has no numpy type of its own: its arrays
  are uint16 holding the bit patterns. BYTES arrays are numpy object arrays (of `bytes` or `str`).
- Nothing here copies tensor data but the BYTES codec, which must.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from runtime.core.errors import InvalidTensor

Array = NDArray[np.generic]
Buffer = bytes | bytearray | memoryview

BYTES = "BYTES"
MAX_ELEMENTS = 2**40
"""No tensor has more elements than this; larger products of dimensions are refused before any arithmetic on them."""


@dataclass(frozen=True, slots=True)
class DataType:
    """One element type under its four names. `size` is bytes per element, 0 for BYTES."""

    name: str  # in the protocol: FP32
    config: str  # in config.pbtxt: TYPE_FP32
    onnx: str  # as ONNX Runtime prints it: tensor(float)
    dtype: np.dtype[np.generic]
    size: int


def _row(name: str, onnx: str, dtype: str, size: int, config: str = "") -> DataType:
    return DataType(name, config or f"TYPE_{name}", f"tensor({onnx})", np.dtype(dtype), size)


DATA_TYPES: dict[str, DataType] = {
    row.name: row
    for row in (
        _row("BOOL", "bool", "?", 1),
        _row("UINT8", "uint8", "<u1", 1),
        _row("UINT16", "uint16", "<u2", 2),
        _row("UINT32", "uint32", "<u4", 4),
        _row("UINT64", "uint64", "<u8", 8),
        _row("INT8", "int8", "<i1", 1),
        _row("INT16", "int16", "<i2", 2),
        _row("INT32", "int32", "<i4", 4),
        _row("INT64", "int64", "<i8", 8),
        _row("FP16", "float16", "<f2", 2),
        _row("FP32", "float", "<f4", 4),
        _row("FP64", "double", "<f8", 8),
        _row("BF16", "bfloat16", "<u2", 2),
        _row(BYTES, "string", "O", 0, config="TYPE_STRING"),
    )
}
BY_ONNX: dict[str, DataType] = {row.onnx: row for row in DATA_TYPES.values()}
BY_CONFIG: dict[str, DataType] = {row.config: row for row in DATA_TYPES.values()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output of a model, as its clients see it.

    `dims` has no batch axis when the model batches (`max_batch_size` > 0); -1 stands for any size.
    `reshape` is the shape the graph wants instead of `dims` (also without the batch axis), or None.
    `labels` are the class names of an output, for the classification extension.
    """

    name: str
    datatype: str
    dims: tuple[int, ...]
    reshape: tuple[int, ...] | None = None
    optional: bool = False
    labels: tuple[str, ...] = ()


def element_count(shape: Sequence[int]) -> int:
    """Number of elements of `shape`; refuses negative dimensions and absurd products (InvalidTensor)."""
    count = bound = 1
    for dim in shape:
        if dim < 0:
            raise InvalidTensor(f"shape {list(shape)} has negative dimension {dim}")
        count *= dim
        bound *= dim or 1  # numpy refuses [0, 2^62] too
        if bound > MAX_ELEMENTS:
            raise InvalidTensor(f"shape {list(shape)} has more than {MAX_ELEMENTS} elements")
    return count


def byte_count(datatype: str, shape: Sequence[int]) -> int:
    """Bytes of a tensor of fixed-size elements on the wire."""
    return math.prod(shape) * DATA_TYPES[datatype].size


def encode_bytes(elements: Iterable[bytes | str]) -> bytes:
    """BYTES elements as the protocol sends them: each behind its length, 4 bytes little endian."""
    parts: list[bytes] = []
    for element in elements:
        data = element.encode() if isinstance(element, str) else bytes(element)
        parts.append(struct.pack("<I", len(data)))
        parts.append(data)
    return b"".join(parts)


def decode_bytes(data: Buffer, count: int, name: str) -> list[bytes]:
    """Split `data` into exactly `count` BYTES elements of tensor `name`.

    Raises:
        InvalidTensor: cut short, too few or too many elements, or bytes left over.
    """
    view = memoryview(data)
    elements: list[bytes] = []
    offset, end = 0, len(view)
    while offset < end:
        if len(elements) == count:
            raise InvalidTensor(f"input '{name}' has more than the expected {count} BYTES elements")
        if end - offset < 4:
            raise InvalidTensor(f"input '{name}' ends inside a BYTES length at byte {offset} of {end}")
        (length,) = struct.unpack_from("<I", view, offset)
        offset += 4
        if length > end - offset:
            raise InvalidTensor(f"input '{name}': BYTES element of {length} bytes exceeds the {end - offset} left")
        elements.append(bytes(view[offset : offset + length]))
        offset += length
    if len(elements) != count:
        raise InvalidTensor(f"input '{name}' has {len(elements)} BYTES elements, expected {count}")
    return elements
