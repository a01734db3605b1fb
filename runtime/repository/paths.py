"""File names that others wrote (configs, override calls), turned into paths that stay below a folder.

Rule: a name is refused, never repaired. `split_name` is pure; `resolve_below` looks at the disk and follows links.
"""

from pathlib import Path

MAX_COMPONENT_BYTES = 255
MAX_NAME_BYTES = 1024


def split_name(name: str) -> tuple[str, ...]:
    """Components of a relative file name.

    Raises:
        ValueError: empty, absolute, too long, or a component that is empty, `.`, `..` or holds a backslash or a
            control character.
    """
    shown = name if len(name) <= 64 else f"{name[:64]}..."
    try:
        size = len(name.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"file name {shown!r} is not valid text") from error
    if not 0 < size <= MAX_NAME_BYTES:
        raise ValueError(f"file name {shown!r} has {size} bytes, not within 1..{MAX_NAME_BYTES}")
    parts = tuple(name.split("/"))
    for part in parts:
        if part in ("", ".", ".."):
            raise ValueError(f"file name {shown!r} is not a plain relative path")
        if "\\" in part or not part.isprintable():
            raise ValueError(f"file name {shown!r} holds a backslash or a control character")
        if len(part.encode()) > MAX_COMPONENT_BYTES:
            raise ValueError(f"file name {shown!r} has a part longer than {MAX_COMPONENT_BYTES} bytes")
    return parts


def resolve_below(folder: Path, name: str, *, follow_links: bool = False) -> Path:
    """Path of the regular file `name` below `folder`, links followed.

    Raises:
        ValueError: the name is refused, there is no such regular file, or a link leads out of `folder` and
            `follow_links` is off.
    """
    path = folder.joinpath(*split_name(name))
    real = path.resolve()
    if not follow_links and not real.is_relative_to(folder.resolve()):
        raise ValueError(f"file '{name}' is a link that leaves the model's folder")
    if real.is_dir():
        raise ValueError(f"file '{name}' is a directory")
    if not real.is_file():
        raise ValueError(f"file '{name}' does not exist")
    return path
