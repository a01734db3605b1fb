"""The runner of all programs, on programs made for the purpose."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench import run

TARGETS = [
    {"what": "speed", "figure": 2.0, "relation": ">=", "bound": 1.0, "holds": True},
    {"what": "growth", "figure": 12.5, "relation": "<=", "bound": 10.0, "holds": False},
    {"what": "peer's speed", "figure": None, "relation": ">=", "bound": 1.0, "holds": None},
]
UNMEASURED = {"what": "growth", "figure": None, "relation": "<=", "bound": 10.0, "holds": False}


def program(folder: Path, name: str, status: int, report: object | None) -> Path:
    """A program that writes its command line and `report`, and ends with `status`."""
    write = f"open(sys.argv[-1], 'w').write({json.dumps(json.dumps(report))})\n" if report is not None else ""
    path = folder / f"{name}.py"
    path.write_text(f"import sys\nassert sys.argv[1:-1] == ['--quick', '--json']\n{write}sys.exit({status})\n")
    return path


@pytest.mark.parametrize(
    ("status", "report", "says"),
    [
        (0, {"targets": TARGETS[:1]}, ["all reached"]),
        (0, [1, 2], ["all reached"]),
        (1, {"targets": TARGETS}, ["missed", "growth: 12.5, wanted <= 10"]),
        (1, {"targets": [UNMEASURED]}, ["missed", "growth: not measured, wanted <= 10"]),
        (1, None, ["not measured, exit status 1"]),
        (2, None, ["not measured, exit status 2"]),
    ],
)
def test_a_program_is_judged_by_its_exit_status(
    tmp_path: Path, status: int, report: object | None, says: list[str]
) -> None:
    ran = run.run(program(tmp_path, "one", status, report), ["--quick"], tmp_path)
    assert (ran.program, ran.status, ran.report) == ("one", status, report)
    shown = io.StringIO()
    Console(file=shown, width=160).print(run.summary([ran]))
    for words in says:
        assert words in shown.getvalue()
    assert "speed" not in shown.getvalue()


def test_every_program_is_there() -> None:
    for name in run.PROGRAMS:
        assert (run.HOME / f"{name}.py").is_file(), name
