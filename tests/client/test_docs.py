"""The examples of docs/client.md, run in their order against the tests' server."""

import re
from pathlib import Path
from typing import Any

import pytest

from tests.client.server import Server

PAGE = Path(__file__).parents[2] / "docs" / "client.md"
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_examples_print_what_they_say(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(BLOCKS) >= 6
    names: dict[str, Any] = {}
    for block in BLOCKS:
        said = [line.removeprefix("# ") for line in block.splitlines() if line.startswith("# ")]
        exec(compile(block.replace("127.0.0.1:8001", server.address), str(PAGE), "exec"), names)
        assert capsys.readouterr().out.splitlines() == said, block
