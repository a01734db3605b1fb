"""Walk over the top level of a ModelInferRequest, a ModelInferResponse or a ModelStreamInferResponse.

Protobuf copies tensor bytes out of a message one by one; most of what a request of 600 KB costs is that copy and its
page faults. So this walk finds them where they lie and leaves the rest, a hundred bytes or so, to protobuf.

Rules
- Never copies tensor bytes: `raws` are views of the message, which they keep alive.
- Never judges what it hands on: `head` holds every field but the id and the raw contents, unknown ones too, in their
  order. Parsing `head` and adding the two gives what protobuf makes of the whole message.
- Says `InvalidRequest` where protobuf says DecodeError, and never raises anything else. It is stricter in two places:
  groups are refused, and so is a message of more than MAX_FIELDS fields, since each costs a turn of a Python loop.
"""

from typing import Final

from runtime.core.errors import InvalidRequest
from runtime.core.tensor import Buffer

RAW_INPUTS: Final = 7
"""Field number of ModelInferRequest.raw_input_contents."""
RAW_OUTPUTS: Final = 6
"""Field number of ModelInferResponse.raw_output_contents."""
MAX_FIELDS: Final = 16_384

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5
"""Wire types, the low three bits of a tag; 3 and 4 are groups, 6 and 7 do not exist."""
ID_TAG: Final = 3 << 3 | DELIMITED
"""Tag of the id, the same in requests and responses."""

_SHORT_TAGS = frozenset(number << 3 | DELIMITED for number in range(1, 16))  # length-delimited, one byte of tag
_TAG_BYTES = 5  # protobuf reads a tag in at most this many bytes, everything else in ten
_VARINT_BYTES = 10
_MAX_TAG = 2**32 - 1
_MAX_LENGTH = 2**31 - 1
_ALL_BITS = 2**64 - 1  # what a tenth byte holds beyond them is dropped, as protobuf does

Walked = tuple[bytes, str, list[memoryview]]
"""`head`, `request_id` and `raws` of a message; without the id, a head repeats from request to request.

A plain tuple, because making a NamedTuple takes as long as walking over two fields.
"""


def walk(message: Buffer, raw_field: int = RAW_INPUTS) -> Walked:
    """Split `message`, whose tensor bytes are in field `raw_field`.

    Fields may come in any order; of several ids the last one counts, as in protobuf.

    Raises:
        InvalidRequest: protobuf would not parse this, or it is beyond the limits named above.
    """
    try:
        return _split(message, memoryview(message), raw_field << 3 | DELIMITED)
    except IndexError:
        raise InvalidRequest(f"malformed message: cut short at byte {len(message)}") from None
    except UnicodeDecodeError:
        raise InvalidRequest("malformed message: id is not UTF-8") from None


def _split(message: Buffer, view: memoryview, raw_tag: int) -> Walked:
    """Walk; an IndexError says that the message ends too early."""
    end = len(view)
    heads: list[Buffer] = []
    raws: list[memoryview] = []
    request_id = ""
    position = head_start = 0
    for _ in range(MAX_FIELDS + 1):
        if position == end:
            break
        tag, length = message[position], message[position + 1]
        if length < 0x80 and tag in _SHORT_TAGS:  # nearly every field
            body = position + 2
        else:
            tag, body, length = _field(message, position)
        after = body + length  # where it is beyond the end, the next turn finds nothing there
        if tag == raw_tag:
            raws.append(view[body:after])
        elif tag == ID_TAG:
            request_id = str(message[body:after], "utf-8")
        else:
            position = after
            continue
        if head_start < position:
            heads.append(message[head_start:position])
        position = head_start = after
    else:
        raise InvalidRequest(f"message has more than {MAX_FIELDS} fields")
    if head_start < end:
        heads.append(message[head_start:])
    return b"".join(heads), request_id, raws


def _field(message: Buffer, position: int) -> tuple[int, int, int]:
    """Read one field's tag; return it with the place and the length of what follows."""
    tag, body = _varint(message, position, _TAG_BYTES, _MAX_TAG)
    kind = tag & 7
    if tag < 8:
        raise InvalidRequest(f"malformed message: field number 0 at byte {position}")
    if kind == DELIMITED:
        length, body = _varint(message, body, _VARINT_BYTES, _MAX_LENGTH)
        return tag, body, length
    if kind == VARINT:
        return tag, body, _varint_length(message, body)
    if kind in (FIXED64, FIXED32):
        return tag, body, 8 if kind == FIXED64 else 4
    raise InvalidRequest(f"malformed message: wire type {kind} at byte {position} is not accepted")


def _varint(message: Buffer, position: int, max_bytes: int, limit: int) -> tuple[int, int]:
    """Read a tag or a length; return it with the place after it."""
    value = 0
    for shift in range(0, 7 * max_bytes, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            value &= _ALL_BITS
            if value > limit:
                break
            return value, position
    raise InvalidRequest(f"malformed message: varint before byte {position} is too long or exceeds {limit}")


def _varint_length(message: Buffer, position: int) -> int:
    """Return how many bytes a varint takes; its value is protobuf's business."""
    for length in range(_VARINT_BYTES):
        if message[position + length] < 0x80:
            return length + 1
    raise InvalidRequest(f"malformed message: varint at byte {position} has more than {_VARINT_BYTES} bytes")
