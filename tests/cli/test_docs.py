"""The examples of docs/cli.md, run in their order against a daemon of their own.

Figures differ from run to run, so lines are compared without them; `...` on the page stands for any lines.
"""

import re
import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime.cli import COMMANDS, server
from tests.cli.conftest import MODELS, Spillway
from tests.e2e.daemon import ROOT, running

PAGE = (ROOT / "docs" / "cli.md").read_text()
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
FAILING = ("config check broken",)
BROKEN = """max_batch_size: 8
input { name: "image" data_type: TYPE_UINT8 dims: [ -1, 8, 8 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }
"""


def examples() -> list[tuple[str, list[str]]]:
    """Each command of the page, and the lines that it prints."""
    found: list[tuple[str, list[str]]] = []
    for line in (line for block in BLOCKS for line in block.splitlines()):
        if line.startswith("$ "):
            found.append((line.removeprefix("$ spillway "), []))
        else:
            found[-1][1].append(line)
    return found


def skeleton(line: str) -> str:
    """The line without figures, paths, and what depends on how fast the machine is."""
    line = re.sub(r"/\S+", "PATH", line)
    line = re.sub(r"-?\d[\d.,:]*( (us|ms|s|min|MiB|KiB|B)\b)?", "#", line)
    line = re.sub(r"event loop|# x # threads?", "PLACE", line)
    return " ".join(line.split())


def matches(wanted: Sequence[str], said: Sequence[str]) -> bool:
    if not wanted:
        return not said
    if wanted[0] == "...":
        return any(matches(wanted[1:], said[start:]) for start in range(len(said) + 1))
    return bool(said) and skeleton(wanted[0]) == skeleton(said[0]) and matches(wanted[1:], said[1:])


def write_files(folder: Path) -> None:
    """The files that the page speaks of."""
    shutil.copytree(MODELS, folder / "models")
    shutil.copytree(MODELS, folder / "broken")
    (folder / "broken" / "digits" / "config.pbtxt").write_text(BROKEN)
    (folder / "config.json").write_text('{"name": "digits", "max_batch_size": 16, "dynamic_batching": {}}')
    with np.load(ROOT / "examples" / "digits" / "test_images.npz") as archive:
        np.save(folder / "image.npy", archive["images"][0])
        np.save(folder / "images.npy", archive["images"][:3])


def test_examples_print_what_the_page_says(spillway: Spillway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("runtime.config.DEFAULT_FILE", tmp_path / "missing.toml")
    for port in ("GRPC_PORT", "HTTP_PORT", "HTTP_METRICS_PORT"):
        monkeypatch.setenv(f"SPILLWAY_{port}", "0")
    monkeypatch.setenv("SPILLWAY_REPOSITORY_STATE_DIR", str(tmp_path / "state"))
    with running(MODELS, tmp_path / "daemon", "--model-control-mode", "explicit", "--load-model", "digits") as daemon:
        monkeypatch.setattr(server, "GRPC", daemon.grpc)
        monkeypatch.setattr(server, "HTTP", daemon.http)
        for command, wanted in examples():
            said = spillway(*shlex.split(command))
            assert said.status == (1 if command in FAILING else 0), said.err
            assert matches(wanted, said.out.splitlines()), f"{command} prints\n{said.out}"
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_has_every_verb() -> None:
    assert set(re.findall(r"^## (\w+)$", PAGE, re.MULTILINE)) == set(COMMANDS)
