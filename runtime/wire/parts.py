"""Writing messages by hand: a message is a list of parts that the transport joins once.

So the bytes of a tensor are copied once on their way out, by that join.
"""

from typing import Final

import numpy as np

from runtime.core.tensor import BYTES, DATA_TYPES, Array, Buffer, encode_bytes

MAX_MESSAGE_BYTES: Final = 2**31 - 1
"""Protobuf parses no longer message than this."""

_SMALL_BYTES = 2048  # up to here a copy is cheaper than a view


def prefix(tag: int, length: int) -> bytes:
    """Tag and length of a length-delimited field; `tag` below 128."""
    if length < 0x80:
        return bytes((tag, length))
    data = bytearray((tag,))
    while length >= 0x80:
        data.append(length & 0x7F | 0x80)
        length >>= 7
    data.append(length)
    return bytes(data)


def text_field(tag: int, text: str) -> bytes:
    """A string field, or nothing where `text` is empty, which is proto3's default."""
    if not text:
        return b""
    data = text.encode()
    return prefix(tag, len(data)) + data


def tensor_bytes(array: Array, datatype: str) -> Buffer:
    """Bytes of `array` as the protocol wants them; a view of it where it lies so in memory already.

    Raises:
        TypeError: the array's dtype is not that of `datatype`, which is a mistake of the caller.
    """
    if datatype == BYTES:
        return encode_bytes(array.ravel().tolist())
    wanted = DATA_TYPES[datatype].dtype
    if array.dtype != wanted:
        if array.dtype.newbyteorder("<") != wanted:
            raise TypeError(f"array of {array.dtype} given as {datatype}")
        array = array.astype(wanted)
    if array.nbytes <= _SMALL_BYTES:
        return array.tobytes()
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
