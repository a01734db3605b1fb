"""Local files that a command reads and writes: their errors in one line, with the path."""

from pathlib import Path

from runtime.core.errors import InvalidRequest


def read_file(path: str) -> bytes:
    """Read a whole file.

    Raises:
        InvalidRequest: it cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from error


def write_file(path: Path, content: bytes) -> None:
    """Write a whole file; missing folders above it are made.

    Raises:
        InvalidRequest: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    except OSError as error:
        raise InvalidRequest(f"{path}: {error.strerror}") from error
