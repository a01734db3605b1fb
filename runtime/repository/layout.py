"""Where models lie: Triton's layout, read from the repository's folders.

    REPOSITORY/MODEL/config.pbtxt        optional
    REPOSITORY/MODEL/VERSION/model.onnx  or the file that default_model_filename names;
                                         a folder of that name may hold model.onnx and its external data
    REPOSITORY/MODEL/warmup/...          data of model_warmup

Rules
- A model is a folder with a valid name (`core/names.py`); with several repositories the first that has it wins.
- A version is a folder named by a number without leading zeros. Everything else is ignored, and reported.
- Blocking: called from worker threads. Only names are looked at; contents are `files.py`'s and `config_text.py`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.core.errors import ConfigError
from runtime.core.names import valid_model_name, version_of_folder
from runtime.repository.complete import MODEL_FILE
from runtime.repository.paths import split_name
from runtime.repository.warmup import WARMUP_FOLDER

CONFIG_FILE = "config.pbtxt"


@dataclass(frozen=True, slots=True)
class Ignored:
    """Something in a repository that is not served, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class Listing:
    """What the repositories hold: the folder of each model by its name, sorted."""

    folders: Mapping[str, Path]
    ignored: tuple[Ignored, ...]


@dataclass(frozen=True, slots=True)
class Versions:
    """What a model's folder holds: its versions, ascending."""

    numbers: tuple[int, ...]
    ignored: tuple[Ignored, ...]


def list_models(directories: Sequence[str], max_models: int) -> Listing:
    """List the models of all repositories.

    Raises:
        ConfigError: a directory cannot be read, or there are too many models.
    """
    folders: dict[str, Path] = {}
    ignored: list[Ignored] = []
    for directory in directories:
        for path in _entries(directory):
            if reason := _why_no_model(path):
                ignored.append(Ignored(path, reason))
            elif path.name in folders:
                ignored.append(Ignored(path, f"model '{path.name}' is taken from {folders[path.name].parent}"))
            else:
                folders[path.name] = path
            if len(folders) > max_models:
                raise ConfigError(f"the model repositories hold more than max_models {max_models} models")
    return Listing(dict(sorted(folders.items())), tuple(ignored))


def _entries(directory: str) -> list[Path]:
    try:
        return sorted(Path(directory).iterdir())
    except OSError as error:
        raise ConfigError(f"model repository '{directory}' cannot be read: {error.strerror}") from error


def _why_no_model(path: Path) -> str:
    if not path.is_dir():
        return "not a folder"
    if not valid_model_name(path.name):
        return "not a model's name: write letters, digits, '.', '_' and '-', 128 at most, a letter or digit first"
    return ""


def find_model(directories: Sequence[str], name: str) -> Path | None:
    """Folder of one model, or None."""
    candidates = (Path(directory, name) for directory in directories)
    return next((path for path in candidates if path.is_dir()), None) if valid_model_name(name) else None


def list_versions(folder: Path) -> Versions:
    """List the versions in a model's folder.

    Raises:
        ValueError: there is none; the text says what was expected.
    """
    numbers: list[int] = []
    ignored: list[Ignored] = []
    for path in sorted(folder.iterdir()):
        if not path.is_dir() or path.name == WARMUP_FOLDER:
            continue
        number = version_of_folder(path.name)
        if number is None:
            ignored.append(Ignored(path, "not a version: write a number from 1 without leading zeros"))
        else:
            numbers.append(number)
    if not numbers:
        misplaced = f", move '{MODEL_FILE}' there" if (folder / MODEL_FILE).exists() else ""
        raise ValueError(f"it has no version: expected a folder '{folder.name}/1'{misplaced}")
    return Versions(tuple(sorted(numbers)), tuple(ignored))


def model_path(folder: Path, version: int, filename: str) -> Path:
    """Path of a version's ONNX file; `filename` empty means model.onnx.

    Raises:
        ValueError: the name leaves the folder, or there is no such file; the text says what there is instead.
    """
    name = filename or MODEL_FILE
    path = folder.joinpath(str(version), *split_name(name))
    if path.is_dir():
        path /= MODEL_FILE
        name = f"{name}/{MODEL_FILE}"
    if not path.is_file():
        there = sorted(entry.name for entry in (folder / str(version)).iterdir())[:10]
        raise ValueError(f"version {version} has no file '{name}', it has {there}")
    return path
