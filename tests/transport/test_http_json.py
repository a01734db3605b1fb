import contextlib
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from runtime.core.errors import InvalidRequest, InvalidTensor, SpillwayError, Unsupported
from runtime.core.inference import InferResult, OutputTensor
from runtime.core.tensor import DATA_TYPES, Array
from runtime.transport.http_json import BinaryChoice, JsonRequest, decode_request, encode_result

NO_TAIL = memoryview(b"")
ALL_BINARY = BinaryChoice(default=True)
INTEGERS = ("INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")


def decode(value: Any, tail: bytes = b"") -> JsonRequest:
    return decode_request(msgspec.json.encode(value), memoryview(tail), "m", "")


def one(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data, **more}]}


def binary(size: int, shape: list[int], datatype: str = "FP32") -> dict[str, Any]:
    parameters = {"binary_data_size": size}
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "parameters": parameters}]}


def array_of(request: JsonRequest) -> Array:
    buffer = request.buffers[0]
    assert isinstance(buffer, np.ndarray)
    return buffer.reshape(request.head.inputs[0].shape)


def result_of(datatype: str, array: Array) -> InferResult:
    return InferResult("m", "1", [OutputTensor("y", datatype, array)])


@settings(deadline=None)
@given(st.sampled_from([*INTEGERS, "FP32", "FP64", "BOOL"]), st.data(), st.booleans())
def test_what_json_says_is_what_arrives(datatype: str, data: st.DataObject, nested: bool) -> None:
    shapes = hnp.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=3)
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    array = data.draw(hnp.arrays(DATA_TYPES[datatype].dtype, shapes, elements=finite))
    values = array.tolist() if nested and 0 not in array.shape[:-1] else array.ravel().tolist()
    got = array_of(decode(one(values, list(array.shape), datatype)))
    assert got.dtype == array.dtype
    np.testing.assert_array_equal(got, array)


@settings(deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"))))
def test_strings_arrive_as_text(texts: list[str]) -> None:
    assert array_of(decode(one(texts, [len(texts)], "BYTES"))).tolist() == texts


@pytest.mark.parametrize(
    ("data", "shape", "datatype", "phrase"),
    [
        ([1, 2, 3], [2], "FP32", "3 elements in 'data', expected 2"),
        ([[1, 2], [3]], [2, 2], "FP32", "not nested as its shape"),
        ([[1], [2]], [1, 2], "FP32", "not nested as its shape"),
        ([[1, 2]], [2], "FP32", "nested 2 deep"),
        ([[[1]]], [1, 1], "FP32", "nested 3 deep"),
        ([1, [2]], [2], "FP32", "Expected `float`"),
        (1.5, [1], "FP32", "nested 0 deep"),
        ([None], [1], "FP32", "got `null`"),
        (["1"], [1], "FP32", "got `str`"),
        ([True], [1], "FP32", "got `bool`"),
        ([1.0], [1], "INT32", "got `float`"),
        ([True], [1], "INT32", "got `bool`"),
        ([1], [1], "BOOL", "got `int`"),
        ([1], [1], "BYTES", "got `int`"),
        ([128], [1], "INT8", "outside INT8"),
        ([-1], [1], "UINT8", "outside UINT8"),
        ([2**63], [1], "INT64", "outside INT64"),
        ([2**64], [1], "UINT64", "outside UINT64"),
        ([1e39], [1], "FP32", "outside FP32"),
        ([1.0], [1], "FP16", "send it as binary"),
        ([1.0], [1], "BF16", "send it as binary"),
        ([1.0], [1], "FP8", "unknown data type"),
        ([1.0], [-1], "FP32", "negative dimension"),
        ([1.0], [2**62], "FP32", "more than"),
        ([1.0], [1] * 33, "FP32", "33 dimensions"),
    ],
)
def test_data_that_does_not_fit_is_refused(data: Any, shape: list[int], datatype: str, phrase: str) -> None:
    with pytest.raises(InvalidTensor, match=phrase):
        decode(one(data, shape, datatype))


def test_a_scalar_is_a_list_of_one() -> None:
    assert array_of(decode(one([2.5], []))) == np.float32(2.5)


def test_a_scalar_may_stand_without_brackets() -> None:
    assert array_of(decode(one(7, [], "INT32"))) == 7
    with pytest.raises(InvalidTensor, match="nested 0 deep"):
        decode(one(7, [1], "INT32"))


def test_binary_data_is_a_view_of_the_body() -> None:
    body = np.arange(4, dtype="<f4").tobytes()
    request = decode(binary(16, [4]), body)
    view = request.buffers[0]
    assert isinstance(view, memoryview)
    assert view.obj is body
    assert np.frombuffer(view, "<f4").tolist() == [0, 1, 2, 3]


def test_binary_and_json_inputs_may_stand_side_by_side() -> None:
    value = {
        "inputs": [
            {"name": "a", "shape": [2], "datatype": "INT8", "parameters": {"binary_data_size": 2}},
            {"name": "b", "shape": [1], "datatype": "INT8", "data": [7]},
            {"name": "c", "shape": [1], "datatype": "INT8", "parameters": {"binary_data_size": 1}},
        ]
    }
    a, b, c = decode(value, b"\x01\x02\x03").buffers
    assert (bytes(a), np.asarray(b).tolist(), bytes(c)) == (b"\x01\x02", [7], b"\x03")


@pytest.mark.parametrize(
    ("value", "tail", "phrase"),
    [
        (binary(16, [4]), bytes(15), "up to byte 16, but only 15"),
        (binary(16, [4]), bytes(17), "17 bytes of binary data follow the JSON, its inputs account for 16"),
        (binary(16, [3]), bytes(16), "16 bytes, expected 12"),
        (binary(-1, [4]), b"", "'binary_data_size' of input 'x' is -1"),
        (binary(True, [1]), b"\0", "'binary_data_size' of input 'x' is True"),
        (binary(2**70, [4]), b"", "up to byte"),
        (one([1], [1], parameters={"binary_data_size": 4}), bytes(4), "both 'data' and"),
        ({"inputs": [{"name": "x", "shape": [1], "datatype": "FP32"}]}, b"", "neither 'data' nor"),
        ({"inputs": []}, b"x", "1 bytes of binary data"),
        ({}, b"", "missing required field `inputs`"),
        ({"inputs": 3}, b"", "Expected `array`"),
        ([], b"", "Expected `object`"),
        (one([1], [1]) | {"id": 7}, b"", "Expected `str`"),
        (one([1], [1]) | {"parameters": {"a": None}}, b"", "got `null`"),
        (one([1], [1]) | {"parameters": {"priority": -1}}, b"", "'priority' is -1"),
        (one([1], [1]) | {"parameters": {"binary_data_output": 1}}, b"", "'binary_data_output' is 1"),
        (one([1], [1]) | {"outputs": [{"name": "y", "parameters": {"classification": 0}}]}, b"", "classification"),
        (one([1], [1]) | {"outputs": [{"name": "y", "parameters": {"binary_data": "yes"}}]}, b"", "'binary_data' is"),
    ],
)
def test_a_request_that_is_wrong_whatever_the_model_is_refused(value: Any, tail: bytes, phrase: str) -> None:
    with pytest.raises(InvalidRequest, match=phrase):
        decode(value, tail)


@pytest.mark.parametrize("text", [b"", b"{", b"nonsense", b'{"inputs": []} x', b'{"inputs": [{"name": "\xff"}]}'])
def test_what_is_no_json_is_refused(text: bytes) -> None:
    with pytest.raises(InvalidRequest, match="failed to parse the request JSON"):
        decode_request(text, NO_TAIL, "m", "")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_json_has_no_nan(value: str) -> None:
    text = json.dumps(one(["?"], [1])).replace('"?"', value).encode()
    with pytest.raises(InvalidRequest, match="failed to parse"):
        decode_request(text, NO_TAIL, "m", "")


@pytest.mark.parametrize("where", ["data", "elsewhere"])
def test_deep_nesting_is_refused(where: str) -> None:
    deep = "[" * 100_000 + "]" * 100_000
    text = json.dumps(one([], [1], "FP32")).replace('"data": []', f'"{where}": {deep}')
    with pytest.raises(InvalidRequest, match="nested"):
        decode_request(text.encode(), NO_TAIL, "m", "")


def test_nesting_below_the_parsers_limit_is_refused_by_the_rank() -> None:
    deep = "[" * 300 + "]" * 300
    text = json.dumps(one([], [1])).replace('"data": []', f'"data": {deep}')
    with pytest.raises(InvalidTensor, match="nested 33 deep"):
        decode_request(text.encode(), NO_TAIL, "m", "")


def test_shared_memory_is_not_offered() -> None:
    with pytest.raises(Unsupported, match="shared memory"):
        decode(one([1], [1], parameters={"shared_memory_region": "r"}))


def test_head_carries_what_was_asked() -> None:
    value = one([1], [1]) | {
        "id": "42",
        "parameters": {"priority": 2, "timeout": 1000, "mine": "x"},
        "outputs": [{"name": "y", "parameters": {"classification": 3}}, {"name": "z"}],
    }
    request = decode_request(msgspec.json.encode(value), NO_TAIL, "m", "7")
    head = request.head
    assert request.request_id == "42"
    assert (head.model_name, head.model_version, head.priority, head.timeout_us) == ("m", "7", 2, 1000)
    assert [(output.name, output.classification) for output in head.outputs] == [("y", 3), ("z", 0)]
    assert head.parameters["mine"] == "x"


def test_binary_choice_of_one_output_overrides_that_of_the_request() -> None:
    value = one([1], [1]) | {
        "parameters": {"binary_data_output": True},
        "outputs": [{"name": "a"}, {"name": "b", "parameters": {"binary_data": False}}],
    }
    binary_choice = decode(value).binary
    assert (binary_choice.wants("a"), binary_choice.wants("b")) == (True, False)


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=20))
def test_no_bytes_raise_anything_but_our_errors(text: bytes, tail: bytes) -> None:
    with contextlib.suppress(SpillwayError):
        decode_request(text, memoryview(tail), "m", "")


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=8,
)
FORMS = st.fixed_dictionaries(
    {
        "inputs": st.lists(
            st.fixed_dictionaries(
                {
                    "name": st.sampled_from(["x", "y"]),
                    "datatype": st.sampled_from([*DATA_TYPES, "FP8"]),
                    "shape": st.lists(st.integers(-1, 3) | st.just(2**62), max_size=3),
                },
                optional={"data": JSON_VALUES, "parameters": st.just({"binary_data_size": 4})},
            ),
            max_size=2,
        )
    },
    optional={"id": JSON_VALUES, "outputs": JSON_VALUES, "parameters": JSON_VALUES},
)


@settings(deadline=None)
@given(FORMS, st.binary(max_size=8))
def test_no_json_raises_anything_but_our_errors(value: dict[str, Any], tail: bytes) -> None:
    try:
        request = decode_request(json.dumps(value).encode("utf-8", "surrogatepass"), memoryview(tail), "m", "")
    except SpillwayError:
        return
    for head, buffer in zip(request.head.inputs, request.buffers, strict=True):
        if isinstance(buffer, np.ndarray):
            assert buffer.size == math.prod(head.shape)
            assert buffer.dtype == DATA_TYPES[head.datatype].dtype


@settings(deadline=None)
@given(st.sampled_from([*INTEGERS, "FP32", "FP64", "BOOL"]), st.data())
def test_json_outputs_keep_every_value(datatype: str, data: st.DataObject) -> None:
    shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)
    finite = {"allow_nan": False, "allow_infinity": False} if datatype.startswith("FP") else None
    array = data.draw(hnp.arrays(DATA_TYPES[datatype].dtype, shapes, elements=finite))
    head, parts = encode_result(result_of(datatype, array), "", BinaryChoice(), 10**6)
    output = json.loads(head)["outputs"][0]
    assert parts == []
    assert output["shape"] == list(array.shape)
    np.testing.assert_array_equal(np.array(output["data"], array.dtype).reshape(array.shape), array)


def test_binary_outputs_follow_in_order_without_a_copy() -> None:
    first, second = np.arange(6000, dtype="<i4").reshape(2, 3000), np.array([True, False])
    result = InferResult("m", "3", [OutputTensor("a", "INT32", first), OutputTensor("b", "BOOL", second)])
    head, parts = encode_result(result, "id", ALL_BINARY, 1)
    said = json.loads(head)
    assert [output["parameters"]["binary_data_size"] for output in said["outputs"]] == [24_000, 2]
    assert (said["id"], said["model_name"], said["model_version"]) == ("id", "m", "3")
    assert b"".join(parts) == first.tobytes() + second.tobytes()
    assert np.shares_memory(np.frombuffer(parts[0], np.uint8), first)


def test_only_what_is_asked_for_is_binary() -> None:
    array = np.zeros(1, "<f4")
    result = InferResult("m", "1", [OutputTensor("a", "FP32", array), OutputTensor("b", "FP32", array)])
    head, parts = encode_result(result, "", BinaryChoice(named={"b": True}), 10)
    a, b = json.loads(head)["outputs"]
    assert a["data"] == [0.0]
    assert b["parameters"] == {"binary_data_size": 4}
    assert len(parts) == 1


def test_bytes_outputs() -> None:
    array = np.array([b"one", "zw\u00f6lf"], dtype=object)
    head, _ = encode_result(result_of("BYTES", array), "", BinaryChoice(), 10)
    assert json.loads(head)["outputs"][0]["data"] == ["one", "zw\u00f6lf"]
    _, parts = encode_result(result_of("BYTES", array), "", ALL_BINARY, 10)
    assert b"".join(parts) == b"\3\0\0\0one\6\0\0\0zw\xc3\xb6lf"


@pytest.mark.parametrize(
    ("datatype", "array", "phrase"),
    [
        ("FP32", np.array([math.nan], "<f4"), "NaN or Infinity"),
        ("FP64", np.array([-math.inf]), "NaN or Infinity"),
        ("FP16", np.array([1], "<f2"), "FP16, which has no JSON form"),
        ("BF16", np.array([1], "<u2"), "BF16, which has no JSON form"),
        ("BYTES", np.array([b"\xff"], dtype=object), "not UTF-8 text"),
        ("INT8", np.zeros(11, "<i1"), "11 elements, the limit for JSON is 10"),
    ],
)
def test_what_json_cannot_carry_names_the_way_out(datatype: str, array: Array, phrase: str) -> None:
    result = result_of(datatype, array)
    with pytest.raises(InvalidRequest, match=f"{phrase}.*ask for it with the parameter 'binary_data' true"):
        encode_result(result, "", BinaryChoice(), 10)
    encode_result(result, "", ALL_BINARY, 10)


def test_parameters_of_the_answer_are_told() -> None:
    result = InferResult("m", "1", [], {"degraded": True})
    assert json.loads(encode_result(result, "", ALL_BINARY, 10)[0])["parameters"] == {"degraded": True}
