from pathlib import Path

import numpy as np
import pytest

from runtime.cli import answers
from runtime.cli.infer import wish
from runtime.client import Answer
from runtime.core.errors import InvalidRequest
from runtime.core.inference import InferResult, OutputTensor
from runtime.core.tensor import BYTES, Array
from tests.cli.conftest import Spillway
from tests.e2e.daemon import ROOT

Flags = tuple[str, str]


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three digits (8, 4, 0) as three.npy, the first one alone as one.npy."""
    folder = tmp_path_factory.mktemp("images")
    with np.load(ROOT / "examples" / "digits" / "test_images.npz") as archive:
        np.save(folder / "three.npy", archive["images"][:3])
        np.save(folder / "one.npy", archive["images"][0])
        assert archive["labels"][:3].tolist() == [8, 4, 0]
    return folder


def test_the_answer_in_words(spillway: Spillway, grpc: Flags, images: Path) -> None:
    said = spillway("infer", "digits", "--input", f"image=@{images}/one.npy", *grpc)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("digits version 1 answered in ")
    assert "probabilities  FP32 [1, 10]" in lines
    assert lines[lines.index("digit  INT64 [1, 1]") + 1] == "[[8]]"
    assert said.err == ""


def test_top_classes(spillway: Spillway, grpc: Flags, images: Path) -> None:
    flags = ("--output", "probabilities:2", "--version", "1")
    said = spillway("infer", "digits", "--input", f"image=@{images}/three.npy", *flags, *grpc)
    lines = said.out.splitlines()
    assert "probabilities  BYTES [3, 2]" in lines
    assert [line.split(":")[1] for line in lines[-3:]] == ["8", "4", "0"]
    assert "0.995238:8:eight" in lines[-3]
    assert "digit " not in said.out


def test_the_answer_as_json_and_as_files(spillway: Spillway, grpc: Flags, images: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    said = spillway("infer", "digits", "--input", f"image=@{images}/three.npy", "--out", str(folder), "--json", *grpc)
    assert said.json["model"] == "digits"
    assert said.json["version"] == "1"
    outputs = {each["name"]: each for each in said.json["outputs"]}
    assert outputs["digit"] == {"name": "digit", "datatype": "INT64", "shape": [3, 1], "data": [[8], [4], [0]]}
    assert np.load(folder / "digit.npy").tolist() == [[8], [4], [0]]
    assert np.allclose(np.load(folder / "probabilities.npy"), outputs["probabilities"]["data"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digits", "--input", "image=[[1, 2]]"), "unexpected shape for input 'image'"),
        (("digits", "--input", "image=[300]"), "input 'image' is UINT8: Python integer 300 out of bounds"),
        (("digits", "--input", "image=@missing.npy"), "missing.npy: No such file or directory"),
        (("digits", "--input", "image=@ONE", "--output", "digits"), "unexpected inference output 'digits'"),
        (("digits", "--input", "image=@ONE", "--version", "7"), "version 7"),
        (("digitz", "--input", "image=1"), "Request for unknown model: 'digitz' is not found"),
    ],
)
def test_errors_are_one_line(
    spillway: Spillway, grpc: Flags, images: Path, words: tuple[str, ...], message: str
) -> None:
    said = spillway("infer", *(word.replace("@ONE", f"@{images}/one.npy") for word in words), *grpc)
    assert said.status == 1
    assert said.out == ""
    assert said.err.startswith("spillway: ")
    assert message in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("digit", ("digit", 0)),
        ("digit:3", ("digit", 3)),
        ("softmax:0", ("softmax:0", 0)),
        ("softmax:0:5", ("softmax:0", 5)),
        ("softmax:1", ("softmax:1", 0)),
        ("digit:x", ("digit:x", 0)),
    ],
)
def test_classes_and_colons(text: str, wanted: tuple[str, int]) -> None:
    assert wish(text, ["digit", "softmax:0", "softmax:1"]) == wanted


def answer(datatype: str, array: Array, name: str = "y") -> Answer:
    return Answer(InferResult("m", "2", [OutputTensor(name, datatype, array)], {"note": "said"}))


def test_text_and_half_floats_are_readable(capsys: pytest.CaptureFixture[str]) -> None:
    text = answer(BYTES, np.array([["ü".encode(), b"\xff"]], object))
    answers.show(text, 0.001)
    assert capsys.readouterr().out.splitlines() == [
        "m version 2 answered in 1.00 ms",
        "parameter note: said",
        "",
        "y  BYTES [1, 2]",
        "[[ü \\xff]]",
    ]
    assert answers.as_values(text, 0.1)["outputs"][0]["data"] == [["ü", "\\xff"]]
    half = answer("BF16", np.array([0x3FC0, 0xC000], np.uint16))
    assert answers.as_values(half, 0.1)["outputs"][0]["data"] == [1.5, -2.0]


def test_a_large_answer_is_cut_on_the_screen_only(capsys: pytest.CaptureFixture[str]) -> None:
    large = answer("FP32", np.zeros((1000, 1000), np.float32))
    answers.show(large, 0.1)
    assert len(capsys.readouterr().out) < 1000
    assert len(answers.as_values(large, 0.1)["outputs"][0]["data"]) == 1000


def test_names_of_files(tmp_path: Path) -> None:
    answers.save(answer("FP32", np.zeros(2, np.float32), "../a/b"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".._a_b.npy"]
    answers.save(answer(BYTES, np.array([b"ab", b""], object)), tmp_path)
    assert np.load(tmp_path / "y.npy").tolist() == [b"ab", b""]
    with pytest.raises(InvalidRequest, match="end with NUL"):
        answers.save(answer(BYTES, np.array([b"a\0"], object)), tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidRequest, match="file"):
        answers.save(answer("FP32", np.zeros(2, np.float32)), tmp_path / "file")
