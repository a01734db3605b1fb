"""Line numbers in text protobuf, for messages about fields of a config that parsed well.

The protobuf library forgets where a field stood. This reads the text a second time, only as far as names, braces and
lists go. It relies on the text being valid; on one that is not it finds nothing, and never raises.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from runtime.repository.fields import FieldPath

_TOKEN = re.compile(
    r"""(?P<skip>\s+|\#[^\n]*)|(?P<text>"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')|(?P<word>[\w.+-]+)|(?P<mark>.)"""
)
_OPENING = {"{": "}", "<": ">", "[": "]"}


@dataclass(slots=True)
class _Node:
    """One occurrence of a field: its line, its plain value if it has one, its own fields if it is a message."""

    name: str
    line: int
    value: str = ""
    fields: list["_Node"] = field(default_factory=list)


def line_of(text: str, path: FieldPath) -> int:
    """Line (from 1) of the field at `path`; 0 where it is not found."""
    tokens = list(_tokens(text))
    try:
        nodes = _fields(iter(tokens), "")
    except (StopIteration, RecursionError):
        return 0
    line = 0
    for name, selector in path:
        node = _select([node for node in nodes if node.name == name], selector)
        if node is None:
            return line
        line, nodes = node.line, node.fields
        if isinstance(selector, str):
            nodes = [inner for each in nodes if each.name == "value" for inner in each.fields]
    return line


def _select(nodes: list[_Node], selector: int | str | None) -> _Node | None:
    if isinstance(selector, str):
        nodes = [node for node in nodes if any(each.name == "key" and each.value == selector for each in node.fields)]
        selector = None
    index = selector or 0
    return nodes[index] if index < len(nodes) else None


def _tokens(text: str) -> Iterator[tuple[str, int]]:
    line = 1
    for match in _TOKEN.finditer(text):
        if match.lastgroup != "skip":
            yield match.group(), line
        line += match.group().count("\n")


def _fields(tokens: Iterator[tuple[str, int]], closing: str) -> list[_Node]:
    """Read fields up to the closing brace, or to the end where there is none."""
    nodes: list[_Node] = []
    for piece, line in tokens:
        if piece == closing:
            return nodes
        if piece in (",", ";") or piece[0] in "\"'":  # a string here continues the value before it
            continue
        _value(tokens, piece, line, nodes)
    return nodes


def _value(tokens: Iterator[tuple[str, int]], name: str, line: int, nodes: list[_Node]) -> None:
    """Read what follows a field's name; a list becomes one node for each element."""
    piece, at = next(tokens)
    if piece == ":":
        piece, at = next(tokens)
    if piece != "[":
        nodes.append(_element(tokens, name, piece, line))
        return
    for piece, at in tokens:
        if piece == "]":
            return
        if piece != ",":
            nodes.append(_element(tokens, name, piece, at))


def _element(tokens: Iterator[tuple[str, int]], name: str, piece: str, line: int) -> _Node:
    if piece in ("{", "<"):
        return _Node(name, line, fields=_fields(tokens, _OPENING[piece]))
    if piece == "-":
        piece += next(tokens)[0]
    return _Node(name, line, value=piece.strip("\"'"))
