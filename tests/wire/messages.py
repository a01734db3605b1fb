"""Strategies for messages: fields of a ModelInferRequest in any order, unknown ones among them, whole or damaged."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from runtime.wire.pb import inference_pb2 as pb

NAMES = st.text(max_size=5)
LONG_TEXTS = st.builds(lambda text, times: text * times, st.text(min_size=1, max_size=3), st.integers(1, 200))


def varint(value: int, padding: int = 0) -> bytes:
    """A varint, made longer than need be by `padding` bytes."""
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    for _ in range(padding):
        data[-1] |= 0x80
        data.append(0)
    return bytes(data)


def field(number: int, body: bytes, tag_padding: int = 0, length_padding: int = 0) -> bytes:
    """A length-delimited field."""
    return varint(number << 3 | 2, tag_padding) + varint(len(body), length_padding) + body


def scalars(number: int) -> SearchStrategy[bytes]:
    """A field of a wire type that is not length-delimited, groups among them."""
    tag = number << 3
    return st.one_of(
        st.builds(lambda value, pad: varint(tag) + varint(value, pad), st.integers(0, 2**64 - 1), st.integers(0, 3)),
        st.binary(min_size=8, max_size=8).map(lambda data: varint(tag | 1) + data),
        st.binary(min_size=4, max_size=4).map(lambda data: varint(tag | 5) + data),
        st.just(varint(tag | 3) + varint(tag | 4)),
        st.sampled_from([3, 4, 6, 7]).map(lambda kind: varint(tag | kind)),
    )


PARAMETERS = st.one_of(
    st.booleans().map(lambda value: pb.InferParameter(bool_param=value)),
    st.integers(-(2**63), 2**63 - 1).map(lambda value: pb.InferParameter(int64_param=value)),
    st.integers(0, 2**64 - 1).map(lambda value: pb.InferParameter(uint64_param=value)),
    st.floats().map(lambda value: pb.InferParameter(double_param=value)),
    NAMES.map(lambda value: pb.InferParameter(string_param=value)),
    st.just(pb.InferParameter()),
)
INPUTS = st.builds(
    pb.ModelInferRequest.InferInputTensor,
    name=NAMES,
    datatype=st.sampled_from(["FP32", "INT8", "BYTES", "?"]),
    shape=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    parameters=st.dictionaries(NAMES, PARAMETERS, max_size=2),
    contents=st.one_of(
        st.none(),
        st.builds(pb.InferTensorContents, fp32_contents=st.lists(st.floats(width=32), max_size=3)),
        st.builds(pb.InferTensorContents, bytes_contents=st.lists(st.binary(max_size=3), max_size=3)),
    ),
)
OUTPUTS = st.builds(
    pb.ModelInferRequest.InferRequestedOutputTensor,
    name=NAMES,
    parameters=st.dictionaries(NAMES, PARAMETERS, max_size=2),
)
_PADDING = st.sampled_from([0, 0, 0, 1, 4, 5, 9, 10])
_FIELDS = st.one_of(
    st.builds(field, st.sampled_from([1, 2, 3]), NAMES.map(str.encode), _PADDING, _PADDING),
    st.builds(field, st.sampled_from([1, 2, 3]), LONG_TEXTS.map(str.encode)),
    st.builds(field, st.sampled_from([1, 2, 3]), st.binary(max_size=4)),  # mostly not UTF-8
    st.builds(field, st.just(7), st.binary(max_size=300), _PADDING, _PADDING),
    st.dictionaries(NAMES, PARAMETERS, max_size=2).map(
        lambda values: pb.ModelInferRequest(parameters=values).SerializeToString()
    ),
    INPUTS.map(lambda tensor: field(5, tensor.SerializeToString())),
    OUTPUTS.map(lambda tensor: field(6, tensor.SerializeToString())),
    st.builds(field, st.sampled_from([8, 15, 16, 1000, 2**29 - 1]), st.binary(max_size=4), _PADDING, _PADDING),
    st.sampled_from([0, 1, 3, 5, 7, 8, 16, 2**29 - 1]).flatmap(scalars),
)
MESSAGES = st.lists(_FIELDS, max_size=8).map(b"".join)
"""Mostly valid messages."""


def _damaged(message: bytes, edits: list[tuple[float, int, int]], cut: float) -> bytes:
    data = bytearray(message)
    for place, removed, put in edits:
        start = int(place * len(data))
        data[start : start + removed] = [put]
    return bytes(data[: len(data) - int(cut * len(data))])


DAMAGED = st.builds(
    _damaged,
    MESSAGES,
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2), st.integers(0, 255)), max_size=3),
    st.one_of(st.just(0.0), st.floats(0, 1)),
)
"""Messages with a few bytes replaced, inserted or removed, and often the end cut off."""
