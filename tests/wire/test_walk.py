"""The walk against protobuf's own parser: the same answer, or both refuse."""

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import InvalidRequest
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.walk import MAX_FIELDS, walk
from tests.wire.messages import DAMAGED, MESSAGES, field, varint

GROUP = "wire type 3"


def parsed(message: bytes) -> pb.ModelInferRequest | None:
    try:
        return pb.ModelInferRequest.FromString(message)
    except DecodeError:
        return None


def same(message: bytes) -> None:
    """Hold the walk, and protobuf on what it leaves, to what protobuf makes of the whole."""
    whole = parsed(message)
    refusal = ""
    try:
        head, request_id, raws = walk(message)
    except InvalidRequest as error:
        refusal = str(error)
    mine = parsed(head) if not refusal else None
    if mine is None:
        assert whole is None or GROUP in refusal, f"refused what protobuf takes: {refusal}"
        return
    assert whole is not None, "took what protobuf refuses"
    assert not mine.id
    assert not mine.raw_input_contents
    assert all(raw.obj is message for raw in raws)
    mine.id = request_id
    mine.raw_input_contents.extend(map(bytes, raws))
    # Bytes, not ==, which passes over unknown fields and says that NaN differs from itself.
    assert mine.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


@pytest.mark.slow
@given(MESSAGES)
@settings(max_examples=400, deadline=None)
def test_fields_in_any_order(message: bytes) -> None:
    same(message)


@pytest.mark.slow
@given(DAMAGED)
@settings(max_examples=800, deadline=None)
def test_damaged_messages(message: bytes) -> None:
    same(message)


@pytest.mark.slow
@given(st.binary(max_size=40))
@settings(max_examples=400, deadline=None)
def test_any_bytes(message: bytes) -> None:
    same(message)


def test_every_truncation_of_a_request() -> None:
    request = pb.ModelInferRequest(model_name="m", id="7", raw_input_contents=[b"x" * 200, b""])
    request.inputs.add(name="a", datatype="UINT8", shape=[200]).parameters["p"].int64_param = 300
    message = request.SerializeToString() + varint(9 << 3) + varint(2**64 - 1) + field(3, b"8")
    for end in range(len(message) + 1):
        same(message[:end])


@pytest.mark.parametrize(
    "message",
    [
        varint(3 << 3 | 2, padding=3) + b"\x01a",  # tag of four bytes
        varint(3 << 3 | 2, padding=4) + b"\x01a",  # of five
        varint(3 << 3 | 2, padding=5) + b"\x01a",  # of six, which protobuf refuses
        b"\x9a\x80\x80\x80\x10\x01a",  # beyond 32 bits
        b"\x1a" + varint(1, padding=4) + b"a",
        b"\x1a" + varint(1, padding=5) + b"a",
        b"\x1a" + varint(1, padding=9) + b"a",
        b"\x1a" + varint(1, padding=10) + b"a",
        b"\x1a\x81" + b"\x80" * 8 + b"\x01" + b"a",
        b"\x1a\x81" + b"\x80" * 8 + b"\x02" + b"a",  # bit 64, which is dropped
        b"\x3a" + varint(2**31 - 1),
        b"\x3a" + varint(2**31),
        b"\x3a" + varint(2**64 - 1),
        b"\x38" + b"\xff" * 9 + b"\x01",
        b"\x38" + b"\xff" * 9 + b"\x7f",  # more than 64 bits
        b"\x38" + b"\xff" * 10 + b"\x01",
        b"\x02\x00",  # field number 0
        b"\x00\x00",
        b"\x1a\x02\xed\xa0",  # half of a surrogate
        b"\x1a\x03\xed\xa0\x80",
        field(3, b"\xff") + field(3, b"fine"),  # a later id does not excuse it
        field(3, b"first") + field(3, b"last"),
        field(3, b"first") + field(3, b""),
        b"",
    ],
)
def test_edges_of_the_encoding(message: bytes) -> None:
    same(message)


@pytest.mark.parametrize("message", [b"\x0b\x0c", b"\x5b\x08\x01\x5c", b"\x0c\x00"])
def test_groups_are_refused(message: bytes) -> None:
    with pytest.raises(InvalidRequest, match="wire type"):
        walk(message)


def test_head_is_the_same_whatever_the_id_and_the_data() -> None:
    def message(request_id: str, data: bytes) -> bytes:
        request = pb.ModelInferRequest(model_name="m", id=request_id, raw_input_contents=[data])
        request.inputs.add(name="a", datatype="UINT8", shape=[-1])
        return request.SerializeToString()

    one, other = walk(message("", b"1")), walk(message("long-id" * 40, b"2" * 1000))
    assert one[0] == other[0]
    assert (one[1], other[1]) == ("", "long-id" * 40)


def test_raws_of_a_view_are_views() -> None:
    """A front that receives into its own buffer hands in a memoryview."""
    buffer = bytearray(field(3, b"id") + field(7, b"data"))
    _, request_id, (raw,) = walk(memoryview(buffer))
    buffer[-1:] = b"X"
    assert bytes(raw) == b"datX"
    assert request_id == "id"


def test_number_of_fields_is_limited() -> None:
    assert len(walk(b"\x3a\x00" * MAX_FIELDS)[2]) == MAX_FIELDS
    with pytest.raises(InvalidRequest, match="more than 16384 fields"):
        walk(b"\x3a\x00" * (MAX_FIELDS + 1))
