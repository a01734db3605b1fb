"""Node.js with `@grpc/grpc-js`, which compiles `proto/inference.proto` itself (`make node` installs it)."""

import json
import shutil
import subprocess
from typing import Any

import pytest

from tests.conftest import require
from tests.e2e.daemon import ROOT, Daemon

HERE = ROOT / "tests" / "e2e" / "node"
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def got(daemon: Daemon) -> Any:
    node = shutil.which("node")
    require(node, "there is no node")
    require((HERE / "node_modules").is_dir(), f"there is no {HERE}/node_modules: make node")
    done = subprocess.run(
        [str(node), "client.js", daemon.grpc], cwd=HERE, capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_lock_names_no_host() -> None:
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("integrity" in package for name, package in lock["packages"].items() if name)


def test_health_and_metadata(got: Any) -> None:
    assert got["ready"] is True
    assert got["metadata"][0] == {"name": "INPUT0", "datatype": "INT32", "shape": ["-1", "16"]}


def test_answers(got: Any) -> None:
    assert (got["answer"], got["version"]) == (["OK", [8, -8]], ["OK", [4, -4]])


def test_codes(got: Any) -> None:
    assert got["unknown"] == ["NOT_FOUND", "Request for unknown model: 'nobody' is not found"]
    assert got["mistaken"][0] == "INVALID_ARGUMENT"
    assert got["unimplemented"][0] == "UNIMPLEMENTED"
    assert got["cancelled"] == "CANCELLED"


def test_a_deadline(got: Any) -> None:
    code, took_ms = got["late"]
    assert code == "DEADLINE_EXCEEDED"
    assert 190 <= took_ms < 1000


def test_a_stream(got: Any) -> None:
    first, second, third = got["stream"]
    assert (first, third) == (["1", 2, True], ["3", 6, True])
    assert second == ["2", "Request for unknown model: 'nobody' is not found"]
