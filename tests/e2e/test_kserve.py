"""The `kserve` package's gRPC client, in its own environment (`make .venv/.kserve`), with our client beside it."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import require
from tests.e2e.daemon import ROOT, Daemon

PYTHON = Path(os.environ.get("SPILLWAY_KSERVE_PYTHON") or ROOT / ".venv" / "kserve" / "bin" / "python")
LIMIT_S = 120.0  # importing kserve takes seconds where nothing is cached


@pytest.fixture(scope="module")
def got(daemon: Daemon) -> Any:
    require(PYTHON.exists(), f"there is no {PYTHON}: make .venv/.kserve")
    done = subprocess.run(
        [PYTHON, ROOT / "tests" / "e2e" / "kserve_client.py", daemon.grpc],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_health(got: Any) -> None:
    assert (got["live"], got["ready"], got["models"]) == (True, True, [True, False])


@pytest.mark.parametrize("way", ["raw", "typed"])
def test_tensors_come_back_as_they_were(got: Any, way: str) -> None:
    assert len(got[way]) >= 7
    assert all(got[way].values()), got[way]


def test_version_and_output_can_be_chosen(got: Any) -> None:
    assert got["chosen"] == ["1", [["z", [[1, 1]]]]]


def test_errors(got: Any) -> None:
    assert got["unknown"] == ["NOT_FOUND", "Request for unknown model: 'nobody' is not found"]
    code, text = got["mistaken"]
    assert (code, "missing required input(s)" in text) == ("INVALID_ARGUMENT", True)


def test_our_client_beside_it_in_one_process(got: Any) -> None:
    assert got["ours beside it"] == [[2, 2]]
