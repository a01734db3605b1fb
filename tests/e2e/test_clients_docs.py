"""The examples of docs/clients.md, each run as the reader would run it, print what the page says."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.conftest import require
from tests.e2e.daemon import ROOT, Daemon, running
from tests.e2e.test_kserve import PYTHON as KSERVE_PYTHON

PAGE = ROOT / "docs" / "clients.md"
NODE_MODULES = ROOT / "tests" / "e2e" / "node" / "node_modules"
LIMIT_S = 120.0
BLOCKS = re.findall(r"^```(python|javascript|console)\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def digits(folder: Path) -> Iterator[Daemon]:
    with running(ROOT / "examples" / "digits" / "models", folder / "digits") as daemon:
        yield daemon


def printed(
    daemon: Daemon, command: Sequence[str | Path], program: str, more: Mapping[str, str] | None = None
) -> list[str]:
    """Lines that `command` with `program` as its last argument prints, asked of `daemon`."""
    program = program.replace("localhost:8001", daemon.grpc).replace("localhost:8000", daemon.http)
    done = subprocess.run(
        [*command, program],
        cwd=ROOT,
        env={**os.environ, **(more or {})},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def said(block: str, comment: str) -> list[str]:
    """The lines at the end of a block that show what it prints."""
    return [line.removeprefix(comment) for line in block.splitlines() if line.startswith(comment)]


def test_the_page_has_an_example_of_each() -> None:
    assert [language for language, _ in BLOCKS] == ["python"] * 4 + ["javascript", "console"]


@pytest.mark.parametrize(
    "block", [block for language, block in BLOCKS if language == "python" and "kserve" not in block]
)
def test_tritonclient(digits: Daemon, block: str) -> None:
    assert printed(digits, [sys.executable, "-c"], block) == said(block, "# ")


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if "kserve" in block])
def test_kserve(digits: Daemon, block: str) -> None:
    require(KSERVE_PYTHON.exists(), f"there is no {KSERVE_PYTHON}: make .venv/.kserve")
    assert printed(digits, [KSERVE_PYTHON, "-c"], block) == said(block, "# ")


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "javascript"])
def test_node(digits: Daemon, block: str) -> None:
    node = shutil.which("node")
    require(node and NODE_MODULES.is_dir(), f"there is no node, or no {NODE_MODULES}: make node")
    assert printed(digits, [str(node), "-e"], block, {"NODE_PATH": str(NODE_MODULES)}) == said(block, "// ")


@pytest.mark.parametrize("block", [block for language, block in BLOCKS if language == "console"])
def test_curl(digits: Daemon, block: str) -> None:
    require(shutil.which("curl"), "there is no curl")
    lines = block.splitlines()
    commands = [line.removeprefix("$ ") for line in lines if line.startswith(("$ ", "  "))]
    expected = [line for line in lines if not line.startswith(("$ ", "  "))]
    assert printed(digits, ["bash", "-euc"], "\n".join(commands)) == expected
