"""`config check`: what it says of a repository's mistakes, and that the config it prints is right."""

from pathlib import Path

import pytest

from runtime.core.verdict import GraphFacts, Verdict
from runtime.repository.check import ModelReport, check_repository
from runtime.repository.complete import complete
from runtime.repository.config_text import parse_text
from runtime.repository.correct import correct, to_text
from runtime.repository.disagree import disagreements
from tests.fakes.trial import MLP, graph, tensor
from tests.repository.configs import House, config


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def report_of(house: House, name: str = "m") -> ModelReport:
    reports = {model.name: model for model in check_repository(house.settings, house.gate).models}
    return reports[name]


def told(report: ModelReport, severity: str) -> dict[str, str]:
    return {each.place: each.message for each in report.findings if each.severity == severity}


def test_a_good_model_without_config_gets_one(house: House) -> None:
    house.write()
    report = report_of(house)
    assert report.is_good
    assert report.findings == []
    assert report.corrected == (
        'name: "m"\nmax_batch_size: 4\n'
        'input {\n  name: "x"\n  data_type: TYPE_FP32\n  dims: [4]\n}\n'
        'output {\n  name: "y"\n  data_type: TYPE_FP32\n  dims: [2]\n}\n'
        'dynamic_batching {\n}\nbackend: "onnxruntime"\n'
    )
    assert check_repository(house.settings, house.gate).is_good


def test_the_classic_mistake_is_told_with_its_line_and_corrected(house: House) -> None:
    text = """max_batch_size: 8
input {
  name: "x"
  data_type: TYPE_FP32
  dims: [ -1, 4 ]
}
output { name: "y" data_type: TYPE_FP64 dims: [ 2 ] }
"""
    house.write("m", {1: b"1"}, text)
    report = report_of(house)
    assert not report.is_good
    errors = told(report, "error")
    assert "with max_batch_size 8 dims leave out the batch axis, write dims: [ 4 ]" in errors["m/config.pbtxt:5"]
    assert "write data_type: TYPE_FP32" in errors["m/config.pbtxt:7"]
    assert "dims: [4]" in report.corrected
    assert "max_batch_size: 8" in report.corrected
    house.write("m", {1: b"1"}, report.corrected)
    assert report_of(house).is_good, "what it prints is what it accepts"


def test_refusals_and_contradictions_are_told_together(house: House) -> None:
    text = """name: "other"
backend: "python"
input { name: "z" }
sequence_batching { }
max_batch_size: -2
response_cache { enable: true }
"""
    house.write("m", {1: b"1"}, text)
    report = report_of(house)
    errors = told(report, "error")
    assert 'not that of the folder: write name: "m"' in errors["m/config.pbtxt:1"]
    assert "backend 'python' is not served here" in errors["m/config.pbtxt:2"]
    assert "input 'z' is not in the graph" in errors["m/config.pbtxt:3"]
    assert "sequence_batching is not supported" in errors["m/config.pbtxt:4"]
    assert "max_batch_size -2 must not be negative" in errors["m/config.pbtxt:5"]
    assert told(report, "hint") == {"m/config.pbtxt:6": "response_cache is skipped: there is no response cache"}
    house.write("m", {1: b"1"}, report.corrected)
    assert report_of(house).is_good


def test_text_that_cannot_be_read_still_gets_a_config(house: House) -> None:
    house.write("m", {1: b"1"}, "max_batch_size: 8\ninput {")
    report = report_of(house)
    assert "m/config.pbtxt:2:7" in told(report, "error")
    assert 'name: "x"' in report.corrected


def test_values_out_of_range_are_told(house: House) -> None:
    house.write("m", {1: b"1"}, "max_batch_size: 8 dynamic_batching { preferred_batch_size: 9 }")
    assert "preferred_batch_size 9 is not within" in told(report_of(house), "error")["m/config.pbtxt"]


def test_missing_files_are_told(house: House) -> None:
    house.write("m", {1: b"1"}, 'output { name: "y" label_filename: "labels.txt" }')
    (house.repository / "empty").mkdir()
    (house.repository / "no_file" / "1").mkdir(parents=True)
    (house.repository / "README").write_text("")
    whole = check_repository(house.settings, house.gate)
    assert [each.message for each in whole.ignored] == ["ignored: not a folder"]
    empty, missing, no_file = whole.models
    assert "expected a folder 'empty/1'" in told(empty, "error")["empty/"]
    assert any("file 'labels.txt' does not exist" in each.message for each in missing.findings)
    assert missing.corrected
    assert "version 1 has no file 'model.onnx'" in told(no_file, "error")["no_file/1"]
    assert not whole.is_good


def test_what_the_trial_refuses_is_told(house: House) -> None:
    folder = house.write()
    (folder / "v2").mkdir()
    house.trial.refusals[1] = Verdict(stage="check", error="not an ONNX model")
    report = report_of(house)
    assert told(report, "error") == {"m/1": "check: not an ONNX model"}
    assert told(report, "hint") == {"m/v2": "ignored: not a version: write a number from 1 without leading zeros"}
    assert report.corrected == ""


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            """max_batch_size: 8 input { name: "x" data_type: TYPE_FP32 dims: 4 }
            output { name: "y" data_type: TYPE_FP32 dims: 2 }""",
            "max_batch_size 8 without dynamic_batching",
        ),
        (
            """input { name: "x" data_type: TYPE_FP32 dims: [ -1, 4 ] }
            output { name: "y" data_type: TYPE_FP32 dims: [ -1, 2 ] }""",
            "but max_batch_size is 0",
        ),
    ],
)
def test_what_is_legal_but_rarely_meant_is_a_hint(house: House, text: str, words: str) -> None:
    house.write("m", {1: b"1"}, text)
    report = report_of(house)
    assert report.is_good
    assert any(words in each.message for each in report.findings)


def test_outputs_left_out_are_a_hint(house: House) -> None:
    house.trial.facts = graph([tensor("x", (-1, 4))], [tensor("y", (-1, 2)), tensor("z", (-1, 2))])
    text = """max_batch_size: 1 input { name: "x" data_type: TYPE_FP32 dims: 4 }
        output { name: "y" data_type: TYPE_FP32 dims: 2 }"""
    house.write("m", {1: b"1"}, text)
    assert (
        told(report_of(house), "hint")["m/config.pbtxt"]
        == "outputs ['z'] of the graph are not listed, and so not served"
    )


@pytest.mark.parametrize(
    "text",
    [
        'max_batch_size: 8 input { name: "x" dims: [ 9 ] reshape { shape: [ 3, 3 ] } }',
        'input { name: "x" } input { name: "x" } input { name: "a" } output { name: "b" } output { name: "y" }',
        'input { name: "x" data_type: TYPE_STRING optional: true dims: [ 1, 2, 3 ] }',
        "max_batch_size: 8 dynamic_batching { preferred_batch_size: 4 }",
        'input { name: "x" data_type: TYPE_FP32 dims: 4 } output { name: "y" data_type: TYPE_FP32 dims: 2 }',
    ],
)
@pytest.mark.parametrize("facts", [MLP, graph([tensor("x", (1, 4))], [tensor("y", (2,))])])
def test_a_corrected_config_agrees_with_the_graph(text: str, facts: GraphFacts) -> None:
    right = correct(config(text), facts, default_max_batch_size=4)
    assert disagreements(right, facts) == []
    written = parse_text(to_text(right).encode(), 1 << 20).config
    assert complete(written, facts, default_max_batch_size=4) == right
