"""Files that came with a load call, in private folders that go away with what was loaded from them.

    STATE_DIR/overrides/<process>.lock     held while the process lives
    STATE_DIR/overrides/<process>/<n>/MODEL/VERSION/...

Rules
- Names are `file:VERSION/PATH` (or without `file:`); anything else is refused, nothing is repaired (`paths.py`).
- Number and bytes are limited before anything is written. Only this user may enter the folder (0700); files are new.
- What a crashed process left is removed by the next one that starts. Blocking: called from worker threads.
"""

import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from runtime.core.names import version_of_folder
from runtime.core.tensor import Buffer
from runtime.repository.paths import split_name
from runtime.repository.settings import RepositorySettings

log = logging.getLogger(__name__)

PREFIX = "file:"


class OverrideStore:
    """The override folders of this process. Calls for one model come one at a time."""

    def __init__(self, settings: RepositorySettings) -> None:
        self._settings = settings
        self._root = Path(settings.state_dir, "overrides")
        self._lock: int | None = None
        self._own: Path | None = None
        self._folders: dict[str, set[Path]] = {}

    def write(self, model: str, files: Mapping[str, Buffer]) -> Path:
        """Write the files of one load call; returns the model's folder.

        Raises:
            ValueError: a name is refused or a limit exceeded.
            OSError: the state folder cannot be written.
        """
        names = _checked_names(files, self._settings)
        folder = Path(tempfile.mkdtemp(dir=self._own_folder()), model)
        self._folders.setdefault(model, set()).add(folder)
        for name, parts in names.items():
            path = folder.joinpath(*parts)
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as stream:
                stream.write(files[name])
        return folder

    def keep_only(self, model: str, in_use: Collection[Path]) -> None:
        """Remove the folders of `model` that nothing is served from any more."""
        for folder in self._folders.get(model, set()) - set(in_use):
            shutil.rmtree(folder.parent)
            self._folders[model].discard(folder)

    def sweep(self) -> None:
        """Remove what crashed processes left behind."""
        for lock_file in self._root.glob("*.lock") if self._root.is_dir() else ():
            handle = os.open(lock_file, os.O_RDWR)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock_file.with_suffix(""), ignore_errors=True)
                lock_file.unlink()
            except BlockingIOError:  # its process lives
                continue
            finally:
                os.close(handle)

    def close(self) -> None:
        """Remove everything this process wrote. Idempotent."""
        if self._own is not None and self._lock is not None:
            shutil.rmtree(self._own, ignore_errors=True)
            self._own.with_suffix(".lock").unlink(missing_ok=True)
            os.close(self._lock)
            self._own = self._lock = None
            self._folders.clear()

    def _own_folder(self) -> Path:
        if self._own is None:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock, name = tempfile.mkstemp(dir=self._root, suffix=".lock")
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            self._own = Path(name).with_suffix("")
            self._own.mkdir(mode=0o700)
        return self._own


def _checked_names(files: Mapping[str, Buffer], settings: RepositorySettings) -> dict[str, tuple[str, ...]]:
    if len(files) > settings.max_override_files:
        raise ValueError(f"{len(files)} override files, limit {settings.max_override_files}")
    if (total := sum(len(content) for content in files.values())) > settings.max_override_bytes:
        raise ValueError(f"override files have {total} bytes, limit {settings.max_override_bytes}")
    names = {name: split_name(name.removeprefix(PREFIX)) for name in files}
    taken = set(names.values())
    if len(taken) != len(names):
        raise ValueError("two override files have the same name")
    for name, parts in names.items():
        if len(parts) < 2 or version_of_folder(parts[0]) is None:
            raise ValueError(f"override file '{name}' is not named {PREFIX}VERSION/PATH, such as {PREFIX}1/model.onnx")
        if any(parts[:length] in taken for length in range(1, len(parts))):
            raise ValueError(f"override file '{name}' lies below another file")
    return names
