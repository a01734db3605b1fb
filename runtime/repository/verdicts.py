"""Verdicts of trials, kept on disk so that a model seen before starts at once.

Rules
- One JSON file for each key, written beside its place and renamed: a reader sees the old, the new or none.
- An entry that cannot be read or decoded does not exist. A folder that cannot be written is said once; then the node
  goes on without.
- At most `max_entries`, the oldest go first.
"""

import contextlib
import logging
import os
import tempfile
from pathlib import Path

import msgspec

from runtime.core.verdict import Verdict

log = logging.getLogger(__name__)

MAX_ENTRY_BYTES = 16 << 20


class VerdictCache:
    """A folder of verdicts by key. Thread-safe as far as the file system is: writers of one key replace each other."""

    def __init__(self, folder: Path, max_entries: int) -> None:
        self._folder = folder
        self._max_entries = max_entries
        self._told = False

    def get(self, key: str) -> Verdict | None:
        """Return the verdict kept under `key`, or None."""
        path = self._path(key)
        try:
            if path.stat().st_size > MAX_ENTRY_BYTES:
                raise ValueError(f"{path.stat().st_size} bytes, limit {MAX_ENTRY_BYTES}")
            return msgspec.json.decode(path.read_bytes(), type=Verdict)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
            log.warning("cached verdict ignored", extra={"path": str(path), "reason": str(error)})
            return None

    def put(self, key: str, verdict: Verdict) -> None:
        """Keep a verdict; does nothing but say so once where the folder cannot be written."""
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._write(key, msgspec.json.encode(verdict))
            self._evict()
        except OSError as error:
            if not self._told:
                self._told = True
                log.warning("verdicts are not cached", extra={"path": str(self._folder), "reason": str(error)})

    def _path(self, key: str) -> Path:
        return self._folder / f"{key}.json"

    def _write(self, key: str, content: bytes) -> None:
        handle, name = tempfile.mkstemp(dir=self._folder, suffix=".new")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(name).replace(self._path(key))
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _evict(self) -> None:
        entries = []
        for path in self._folder.glob("*.json"):
            with contextlib.suppress(FileNotFoundError):  # another process on the same folder was first
                entries.append((path.stat().st_mtime_ns, path))
        for _, path in sorted(entries)[: -self._max_entries]:
            path.unlink(missing_ok=True)
