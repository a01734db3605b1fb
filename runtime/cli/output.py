"""How commands speak: tables for people, JSON for programs.

Rules
- On a terminal tables are drawn; into a pipe or a file they are columns of plain text.
- Text of a server or a file goes through `clean` before a terminal sees it: no control sequences from outside.
- JSON is one document on standard output, and nothing else is printed there.
"""

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec


def is_terminal() -> bool:
    """Tell whether a person looks at standard output."""
    return sys.stdout.isatty()


def as_json(value: Any) -> None:
    """Print `value` as JSON, indented; paths are text."""
    print(msgspec.json.format(msgspec.json.encode(value, enc_hook=str), indent=2).decode())


def clean(text: str) -> str:
    """Return `text` as one printable line."""
    return "".join(char if char.isprintable() else " " for char in text)


def say(text: str = "") -> None:
    """Print one line for people."""
    print(clean(text))


def pairs(facts: Sequence[tuple[str, str]]) -> None:
    """Print facts one a line, indented, each behind its name; a name that repeats is printed once."""
    width = max((len(name) for name, _ in facts), default=0)
    last = ""
    for name, text in facts:
        print(f"  {('' if name == last else name).ljust(width)}  {clean(text)}")
        last = name


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a table; a column whose name starts with `>` is aligned to the right."""
    if title:
        say(title)
    draw = _drawn if is_terminal() else _plain
    draw([clean(name) for name in columns], [[clean(cell) for cell in row] for row in rows])


def _drawn(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - 30 ms that only a terminal needs
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    drawn = Table()
    for name in columns:
        drawn.add_column(name.removeprefix(">"), justify="right" if name.startswith(">") else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(drawn)


_STYLES = {
    "READY": "green",
    "ok": "green",
    "LOADING": "yellow",
    "UNLOADING": "yellow",
    "warn": "yellow",
    "FAILED": "red",
    "fail": "red",
    "error": "red",
}
"""Words that have a colour of their own on a terminal."""


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    names = [name.removeprefix(">") for name in columns]
    right = [name.startswith(">") for name in columns]
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, *rows):
        cells = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        print("  ".join(cells).rstrip())


def seconds(value: float) -> str:
    """A duration in the unit that suits it, three digits: `85.2 us`, `1.24 ms`, `12.0 s`."""
    for unit, scale in (("us", 1e6), ("ms", 1e3)):
        if value * scale < 1000:
            return f"{_three(value * scale)} {unit}"
    return f"{_three(value)} s"


def span(value: float) -> str:
    """How long something has lasted: `45 s`, `12 min`, `3 h 20 min`, `4 d 2 h`."""
    minutes, whole = int(value) // 60, int(value)
    if whole < 60:
        return f"{whole} s"
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60} min"
    return f"{minutes // 1440} d {minutes % 1440 // 60} h"


def size(count: int) -> str:
    """A number of bytes: `512 B`, `88.3 MiB`."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{_three(value)} {unit}"
        value /= 1024
    return f"{_three(value)} GiB"


def _three(value: float) -> str:
    """Three digits that count, without an exponent."""
    if value >= 99.95:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}"
