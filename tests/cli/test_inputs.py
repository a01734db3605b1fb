from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given as holds_for
from hypothesis import strategies as st

from runtime.cli.inputs import RANDOM_INTEGERS, given, made_up, with_batch_axis
from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array, encode_bytes


@dataclass(frozen=True)
class Tensor:
    name: str = "x"
    datatype: str = "FP32"
    shape: tuple[int, ...] = (-1, 3)


def one(text: str, tensor: Tensor | None = None) -> Array:
    return given([f"x={text}"], [tensor or Tensor()])["x"]


@pytest.mark.parametrize(
    ("text", "datatype", "wanted"),
    [
        ("[[1, 2.5, 3]]", "FP32", [[1, 2.5, 3]]),
        ("[1, 2.5, 3]", "FP32", [[1, 2.5, 3]]),
        ("[[1, 2, 3], [4, 5, 6]]", "INT64", [[1, 2, 3], [4, 5, 6]]),
        ("[255, 0, 1]", "UINT8", [[255, 0, 1]]),
        ("[18446744073709551615, 0, 1]", "UINT64", [[2**64 - 1, 0, 1]]),
        ("[true, false, true]", "BOOL", [[True, False, True]]),
        ('["a", "", "\\u00fc"]', "BYTES", [["a", "", "ü"]]),
        ("[]", "INT32", []),
    ],
)
def test_json_takes_the_data_type_of_the_model(text: str, datatype: str, wanted: list[Any]) -> None:
    array = one(text, Tensor(datatype=datatype))
    assert array.dtype == DATA_TYPES[datatype].dtype
    assert array.reshape(np.shape(wanted)).tolist() == wanted


@pytest.mark.parametrize(
    ("text", "datatype", "words"),
    [
        ("[1.5, 2, 3]", "INT32", "input 'x' is INT32: 1.5 does not fit"),
        ("[256, 2, 3]", "UINT8", "out of bounds"),
        ("[-1, 2, 3]", "UINT64", "out of bounds"),
        ("[1, 0, 1]", "BOOL", "1 does not fit"),
        ("[1e40, 2, 3]", "FP32", "overflow"),
        ("[1e40, 2, 3]", "FP16", "overflow"),
        ('["1", "2", "3"]', "FP32", "'1' does not fit"),
        ("[1, 2, null]", "FP32", "None does not fit"),
        ("[[1, 2], [3]]", "FP32", r"\[1, 2\] does not fit"),
        ("[1, 2, 3]", "BYTES", "1 does not fit"),
    ],
)
def test_json_that_would_change_is_refused(text: str, datatype: str, words: str) -> None:
    with pytest.raises(InvalidTensor, match=words):
        one(text, Tensor(datatype=datatype))


def test_files(tmp_path: Path) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.save(tmp_path / "x.npy", array)
    assert np.array_equal(one(f"@{tmp_path}/x.npy"), array)
    array.tofile(tmp_path / "x.bin")
    for shape in ("2x3", "2,3"):
        assert np.array_equal(one(f"@{tmp_path}/x.bin:FP32:{shape}"), array)
    (tmp_path / "a:b").write_bytes(b"\x07")
    assert one(f"@{tmp_path}/a:b:UINT8:", Tensor(shape=())).tolist() == 7
    (tmp_path / "text").write_bytes(encode_bytes([b"a", b"\xff"]))
    assert one(f"@{tmp_path}/text:BYTES:1x2", Tensor(datatype=BYTES)).tolist() == [[b"a", b"\xff"]]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[1", "neither @FILE nor JSON"),
        ("cat.png", "neither @FILE nor JSON"),
        ("@missing.npy", "missing.npy: No such file"),
        ("@short.bin:FP32:2x3", "the file has 3 bytes, FP32 \\[2, 3\\] has 24"),
        ("@short.bin:FP33:2x3", "is no .npy file; for raw bytes write"),
        ("@short.bin", "is no .npy file; for raw bytes write"),
        ("@short.npy", "short.npy is no .npy file of plain values"),
        ("@objects.npy", "objects.npy is no .npy file of plain values"),
        ("@short.bin:BYTES:1", "ends inside a BYTES length"),
        ("@short.bin:UINT8:4294967296x4294967296", "elements|bytes"),
    ],
)
def test_what_cannot_be_read_says_why(text: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("short.bin", "short.npy"):
        Path(name).write_bytes(b"abc")
    np.save("objects.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises((InvalidRequest, InvalidTensor), match=words):
        one(text)


def test_flags_of_another_form() -> None:
    with pytest.raises(InvalidRequest, match="is not NAME="):
        given(["x"], [Tensor()])
    with pytest.raises(InvalidTensor, match=r"no input 'y', the model has \['x'\]"):
        given(["y=1"], [Tensor()])


def test_bits_of_bf16_are_marked(tmp_path: Path) -> None:
    values = np.array([[1.5, -2, 3]], ml_dtypes.bfloat16)
    np.save(tmp_path / "typed.npy", values)  # numpy writes it as |V2
    np.save(tmp_path / "bits.npy", values.view(np.uint16))
    values.tofile(tmp_path / "raw")
    tensor = Tensor(datatype="BF16")
    for text in ("[1.5, -2, 3]", f"@{tmp_path}/typed.npy", f"@{tmp_path}/bits.npy", f"@{tmp_path}/raw:BF16:1x3"):
        array = one(text, tensor)
        assert array.dtype.name == "bfloat16"
        assert array.astype(np.float32).tolist() == [[1.5, -2, 3]]


@pytest.mark.parametrize(
    ("shape", "wanted", "result"),
    [
        ((3,), (-1, 3), (1, 3)),
        ((2, 3), (-1, 3), (2, 3)),
        ((), (-1,), (1,)),
        ((3,), (1, 3), (3,)),
        ((3,), (-1, 2, 3), (3,)),
        ((), (), ()),
    ],
)
def test_only_a_batch_axis_is_added(shape: tuple[int, ...], wanted: tuple[int, ...], result: tuple[int, ...]) -> None:
    assert with_batch_axis(np.zeros(shape), wanted).shape == result


@holds_for(datatype=st.sampled_from(sorted(DATA_TYPES)), rows=st.integers(1, 4), zeros=st.booleans())
def test_made_up_inputs_fit(datatype: str, rows: int, zeros: bool) -> None:
    tensors = [Tensor("x", datatype), Tensor("ids", datatype, (-1, -1)), Tensor("fixed", datatype, (2,))]
    arrays = made_up(tensors, rows=rows, shapes={"ids": (-1, 5)}, zeros=zeros)
    assert {name: array.shape for name, array in arrays.items()} == {"x": (rows, 3), "ids": (rows, 5), "fixed": (2,)}
    for array in arrays.values():
        name = "bfloat16" if datatype == "BF16" else DATA_TYPES[datatype].dtype.name
        assert array.dtype.name == name
        if datatype != BYTES:
            assert np.all(array.astype(np.float64) < RANDOM_INTEGERS)
            assert not (zeros and array.any())
    again = made_up(tensors, rows=rows, shapes={"ids": (-1, 5)}, zeros=zeros)
    assert all(np.array_equal(array, again[name]) for name, array in arrays.items())


def test_a_data_type_of_the_future() -> None:
    with pytest.raises(InvalidTensor, match="input 'x' has data type FP8, known are"):
        one("[1]", Tensor(datatype="FP8"))


def test_free_sizes_are_asked_for() -> None:
    with pytest.raises(InvalidRequest, match=r"input 'ids' has shape \[-1, -1\]: give --shape ids=4x\?"):
        made_up([Tensor("ids", "INT64", (-1, -1))], rows=4, shapes={}, zeros=False)
    with pytest.raises(InvalidRequest, match=r"--shape is for \['id'\], the model has \['ids'\]"):
        made_up([Tensor("ids")], rows=1, shapes={"id": (1, 2)}, zeros=False)
