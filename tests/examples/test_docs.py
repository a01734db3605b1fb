"""What the operators' pages show is accepted by the daemon's own parsers."""

import os
import re
import shlex
from pathlib import Path

import pytest

from runtime.cli import build_parser
from runtime.cli.serve import flags_of
from runtime.config import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "docs" / "operations.md", ROOT / "systemd" / "README.md", ROOT / "containers" / "README.md"]


def toml_blocks() -> list[str]:
    return [
        block
        for page in PAGES
        for block in re.findall(r"^```toml\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    ]


def serve_commands() -> list[str]:
    """The arguments of every `spillway serve` (or image and `serve`) that stands on a line of its own."""
    lines = "\n".join(re.sub(r"\\\n\s*", " ", page.read_text()) for page in PAGES)
    return re.findall(r"^ *(?:podman|spillway)\b.*?\b(serve --.*)$", lines, re.MULTILINE)


def test_there_is_something_to_check() -> None:
    assert len(toml_blocks()) == 2
    assert len(serve_commands()) == 2


@pytest.mark.parametrize("block", toml_blocks())
def test_a_configuration_is_accepted(block: str, tmp_path: Path) -> None:
    (tmp_path / "spillway.toml").write_text(block)
    load_config(tmp_path / "spillway.toml", environment={})


@pytest.mark.parametrize("command", serve_commands())
def test_a_command_is_accepted(command: str) -> None:
    parsed = build_parser("serve").parse_args(shlex.split(command))
    load_config(Path(os.devnull), flags_of(parsed), environment={})


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
