"""The files that one version of a model is made of, and their digest.

    MODEL/VERSION/**                everything, because an ONNX file may name external data beside it
    labels, MODEL/warmup/...        what the config names

Rules
- Regular files only, sorted by name; names count in the digest. Sizes and numbers are limited.
- A link that leaves the model's folder is refused unless the operator allows it (`follow_links`).
- Blocking: called from worker threads. Everything refused is a `ValueError` that names the file.
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.repository.paths import resolve_below
from runtime.repository.settings import RepositorySettings

MAX_DEPTH = 8


@dataclass(frozen=True, slots=True)
class ModelFile:
    """One file as it was when it was listed; equal stamps mean that nobody has written to it since."""

    name: str
    path: Path
    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int


@dataclass(frozen=True, slots=True)
class Digest:
    """sha256 over the names and bytes of `files`."""

    sha256: str
    files: tuple[ModelFile, ...]

    def is_current(self) -> bool:
        """Tell whether the files are still the ones that were read. A new file beside them does not count."""
        return all(_is_unchanged(file) for file in self.files)


def model_files(
    folder: Path, version: int, named: Sequence[str], settings: RepositorySettings
) -> tuple[ModelFile, ...]:
    """List the files of one version; `named` are those the config names, relative to the model's folder."""
    found: dict[str, ModelFile] = {}
    total = 0
    for path in (*_walk(folder / str(version), 0), *_named(folder, named, settings)):
        file = _stamped(folder, path, settings)
        if file.name not in found:
            found[file.name] = file
            total += file.size
        if len(found) > settings.max_version_files:
            raise ValueError(f"version {version} has more than {settings.max_version_files} files")
        if total > settings.max_version_bytes:
            raise ValueError(f"version {version} has {total} bytes or more, limit {settings.max_version_bytes}")
    return tuple(found[name] for name in sorted(found))


def digest_files(files: tuple[ModelFile, ...]) -> Digest:
    """Read all files once; the interpreter lock is released while they are hashed."""
    whole = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").digest()
        name = file.name.encode()
        whole.update(len(name).to_bytes(4, "little") + name + content)
    return Digest(whole.hexdigest(), files)


def _named(folder: Path, names: Sequence[str], settings: RepositorySettings) -> Iterator[Path]:
    for name in names:
        yield resolve_below(folder, name, follow_links=settings.follow_links)


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    if depth > MAX_DEPTH:
        raise ValueError(f"folders are nested deeper than {MAX_DEPTH} at '{folder.name}'")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                yield from _walk(Path(entry.path), depth + 1)
            else:
                yield Path(entry.path)


def _stamped(folder: Path, path: Path, settings: RepositorySettings) -> ModelFile:
    name = str(path.relative_to(folder))
    if not settings.follow_links and not path.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"file '{name}' is a link that leaves the model's folder (follow_links is off)")
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise ValueError(f"file '{name}' is a link to nothing, or vanished") from error
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"file '{name}' is not a regular file")
    return _model_file(name, path, status)


def _is_unchanged(file: ModelFile) -> bool:
    try:
        status = file.path.stat()
    except OSError:
        return False
    return file == _model_file(file.name, file.path, status)


def _model_file(name: str, path: Path, status: os.stat_result) -> ModelFile:
    return ModelFile(name, path, status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)
