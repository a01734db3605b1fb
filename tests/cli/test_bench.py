import importlib.util
from pathlib import Path
from typing import Any

import pytest

from runtime.cli import bench, plot
from runtime.cli.loadgen import Figures
from runtime.core.errors import InvalidRequest
from tests.cli.conftest import Spillway

Flags = tuple[str, str]
SHORT = ("--duration", "0.1", "--warm-up", "0.02")


def figures(load: str = "1 client", **changes: Any) -> Figures:
    whole: dict[str, Any] = {
        "load": load,
        "clients": 1,
        "offered_per_s": 0.0,
        "window_s": 1.0,
        "answered": 100,
        "answered_per_s": 100.0,
        "errors": (),
        "mean_s": 0.01,
        "p50_s": 0.01,
        "p90_s": 0.02,
        "p99_s": 0.03,
        "max_s": 0.04,
        "average_batch": 1.0,
        "generator_share": 0.5,
        "generator_limit_per_s": 200.0,
        "machine_share": 0.5,
        "late_p99_s": 0.0,
    }
    return Figures(**{**whole, **changes})


def test_closed_and_open_loop(spillway: Spillway, grpc: Flags) -> None:
    said = spillway("bench", "digits", "--concurrency", "1,4", "--rate", "50", *SHORT, "--json", *grpc)
    assert said.status == 0, said.err
    assert [load["load"] for load in said.json["loads"]] == ["1 client", "4 clients", "50/s"]
    for load in said.json["loads"]:
        assert load["answered"] > 0
        assert load["errors"] == []
        assert load["p50_s"] <= load["p90_s"] <= load["p99_s"] <= load["max_s"]
        assert load["average_batch"] >= 1
        assert load["generator_share"] > 0
        assert 0 <= load["machine_share"] <= 1


def test_table_and_remark(spillway: Spillway, grpc: Flags) -> None:
    flags = ("--concurrency", "2", "--rows", "4", "--zeros", *SHORT)
    lines = spillway("bench", "digits", *flags, *grpc).out.splitlines()
    assert lines[0].startswith("digits on 127.0.0.1:")
    assert lines[1].split()[:2] == ["load", "answers/s"]
    assert lines[2].startswith("2 clients")
    assert any("The load generator is Python and took up to" in line for line in lines[3:])


def test_inputs_of_the_caller(spillway: Spillway, grpc: Flags) -> None:
    image = str([[0] * 8] * 8)
    said = spillway("bench", "digits", "--input", f"image={image}", "--concurrency", "1", *SHORT, *grpc)
    assert said.status == 0, said.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digitz",), "Request for unknown model: 'digitz' is not found"),
        (("digits", "--input", "image=[1]"), "unexpected shape"),
        (("digits", "--rows", "100"), "batch-size 100 must be"),
        (("digits", "--shape", "picture=1x2"), "--shape is for ['picture'], the model has ['image']"),
    ],
)
def test_a_wrong_request_is_told_before_any_load(
    spillway: Spillway, grpc: Flags, words: tuple[str, ...], message: str
) -> None:
    said = spillway("bench", *words, *grpc)
    assert (said.status, said.out) == (1, "")
    assert message in said.err
    assert said.err.count("\n") == 1


def test_plot(spillway: Spillway, grpc: Flags, tmp_path: Path) -> None:
    path = tmp_path / "plot.svg"
    said = spillway("bench", "digits", "--concurrency", "1,2", *SHORT, "--plot", str(path), *grpc)
    assert said.status == 0, said.err
    assert path.read_text().startswith("<?xml")


def test_a_plot_of_loads_without_answers(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    silent = figures("8 clients", answered_per_s=0.0, p50_s=None, p90_s=None, p99_s=None, average_batch=None)
    plot.draw([figures(), figures(), silent], "m", path)
    assert path.read_bytes().startswith(b"\x89PNG")
    for bad in (tmp_path / "plot.docx", tmp_path / "missing" / "plot.png"):
        with pytest.raises(InvalidRequest, match="plot"):
            plot.draw([figures()], "m", bad)


def test_without_matplotlib_nothing_is_measured(spillway: Spillway, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plot, "find_spec", lambda name: None)  # an environment without the extra
    assert importlib.util.find_spec("matplotlib") is not None
    said = spillway("bench", "digits", "--plot", "plot.png", "--grpc", "127.0.0.1:1")
    assert (said.status, said.err) == (
        1,
        "spillway: --plot needs matplotlib: pip install 'spillway-runtime[plot]'\n",
    )


def test_remarks_name_the_generator_as_the_limit() -> None:
    (line,) = bench.remarks([figures(), figures("8 clients", generator_share=0.6, generator_limit_per_s=300.0)])
    assert "took up to 60 % of one core" in line
    assert "near 300 answers/s" in line
    _, limit = bench.remarks([figures(), figures("32 clients", generator_share=0.97)])
    assert limit.startswith("It was the limit at 32 clients: ")
    assert bench.remarks([figures(generator_limit_per_s=None)]) == []


def test_remarks_name_a_busy_machine() -> None:
    _, busy = bench.remarks([figures(), figures("8 clients", machine_share=0.96)])
    assert busy == "This machine was busy to 96 % at 8 clients: its cores are part of the figures."
