"""The table of data types, element counts, and the BYTES encoding."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.errors import InvalidTensor
from runtime.core.tensor import (
    BY_CONFIG,
    BY_ONNX,
    DATA_TYPES,
    MAX_ELEMENTS,
    byte_count,
    decode_bytes,
    element_count,
    encode_bytes,
)


def test_each_type_is_found_under_each_of_its_names() -> None:
    assert len(DATA_TYPES) == len(BY_ONNX) == len(BY_CONFIG) == 14
    for row in DATA_TYPES.values():
        assert BY_ONNX[row.onnx] is row
        assert BY_CONFIG[row.config] is row
    assert BY_CONFIG["TYPE_STRING"].name == BY_ONNX["tensor(string)"].name == "BYTES"
    assert BY_ONNX["tensor(bfloat16)"].dtype == np.uint16


@pytest.mark.parametrize("name", sorted(set(DATA_TYPES) - {"BYTES"}))
def test_sizes_are_those_of_numpy(name: str) -> None:
    row = DATA_TYPES[name]
    assert row.size == row.dtype.itemsize
    assert row.dtype.byteorder in "=<|", "little endian, as on the wire"
    assert byte_count(name, (2, 3)) == 6 * row.size


@pytest.mark.parametrize(("shape", "count"), [((), 1), ((3,), 3), ((2, 3), 6), ((1, 0), 0), ((0, 5), 0)])
def test_element_count(shape: tuple[int, ...], count: int) -> None:
    assert element_count(shape) == count


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((-1,), "negative dimension -1"),
        ((2, -3), "negative dimension -3"),
        ((2**62,), "more than"),
        ((2**20, 2**20, 2), "more than"),
        ((2**62, 2**62, 2**62), "more than"),
        ((0, 2**62), "more than"),  # no elements, and yet numpy cannot make such an array
        ((0, 2**21, 2**21), "more than"),
    ],
)
def test_absurd_shapes(shape: tuple[int, ...], words: str) -> None:
    with pytest.raises(InvalidTensor, match=words):
        element_count(shape)


@given(st.lists(st.integers(-2, 2**63), max_size=6))
def test_what_is_accepted_is_a_shape_for_numpy(shape: list[int]) -> None:
    try:
        count = element_count(shape)
    except InvalidTensor:
        return
    assert 0 <= count <= MAX_ELEMENTS
    if count == 0:
        assert np.frombuffer(b"", np.float64).reshape(shape).size == 0


@given(st.lists(st.binary(max_size=40), max_size=20))
def test_round_trip(elements: list[bytes]) -> None:
    assert decode_bytes(encode_bytes(elements), len(elements), "x") == elements


@given(st.lists(st.text(max_size=20), max_size=10))
def test_text_travels_as_utf8(elements: list[str]) -> None:
    assert decode_bytes(encode_bytes(elements), len(elements), "x") == [element.encode() for element in elements]


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type) -> None:
    assert decode_bytes(kind(encode_bytes([b"ab", b""])), 2, "x") == [b"ab", b""]


@given(st.lists(st.binary(max_size=12), min_size=1, max_size=6), st.data())
def test_no_truncation_passes(elements: list[bytes], data: st.DataObject) -> None:
    encoded = encode_bytes(elements)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(InvalidTensor, match="'x'"):
        decode_bytes(encoded[:cut], len(elements), "x")


@given(st.lists(st.binary(max_size=12), max_size=6), st.binary(min_size=1, max_size=8))
def test_nothing_may_be_left_over(elements: list[bytes], rest: bytes) -> None:
    with pytest.raises(InvalidTensor, match="'x'"):
        decode_bytes(encode_bytes(elements) + rest, len(elements), "x")


@given(st.binary(max_size=64), st.integers(0, 5))
def test_any_bytes_are_decoded_or_refused(raw: bytes, count: int) -> None:
    try:
        elements = decode_bytes(raw, count, "x")
    except InvalidTensor:
        return
    assert len(elements) == count
    assert encode_bytes(elements) == raw


@pytest.mark.parametrize(
    ("raw", "count", "words"),
    [
        (b"", 1, "has 0 BYTES elements, expected 1"),
        (b"\x01", 1, "ends inside a BYTES length at byte 0 of 1"),
        (struct.pack("<I", 5) + b"abc", 1, "element of 5 bytes exceeds the 3 left"),
        (struct.pack("<I", 2**32 - 1), 1, "element of 4294967295 bytes exceeds the 0 left"),
        (struct.pack("<I", 0) * 2, 1, "more than the expected 1"),
        (struct.pack("<I", 0), 2, "has 1 BYTES elements, expected 2"),
    ],
)
def test_refusals_say_what_is_wrong(raw: bytes, count: int, words: str) -> None:
    with pytest.raises(InvalidTensor, match=words):
        decode_bytes(raw, count, "x")
