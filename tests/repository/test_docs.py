"""docs/model-configuration.md says what the code does."""

import re
from pathlib import Path

from runtime.repository.config_text import parse_text
from runtime.repository.fields import HINTS, REFUSED, SUPPORTED

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "model-configuration.md").read_text()


def test_the_tables_are_those_of_the_code() -> None:
    for name, reason in {**REFUSED, **HINTS}.items():
        assert f"| `{name}` | {reason} |" in PAGE
    for name in {path.partition(".")[0] for path in SUPPORTED}:
        assert f"`{name}" in PAGE


def test_the_configs_on_the_page_are_accepted() -> None:
    blocks = re.findall(r"```\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert parse_text(block.encode(), 1 << 20).hints == ()
