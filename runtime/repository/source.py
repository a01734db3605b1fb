"""A model as it lies on disk now: its config, and the versions that should be served. Blocking.

Everything that is wrong before a trial - no folder, no version, a config that cannot be read or is refused, an
override that is refused - is a `PollFailed` here.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from runtime.core.errors import PollFailed
from runtime.core.names import valid_model_name
from runtime.core.tensor import Buffer
from runtime.repository.config_text import WrittenConfig, parse_json, parse_text, with_name
from runtime.repository.files import digest_files, model_files
from runtime.repository.gate import Candidate
from runtime.repository.layout import CONFIG_FILE, find_model, list_versions, model_path
from runtime.repository.overrides import OverrideStore
from runtime.repository.policy import wanted_versions
from runtime.repository.settings import RepositorySettings
from runtime.repository.warmup import WARMUP_FOLDER
from runtime.wire.pb import model_config_pb2 as pb

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Override:
    """What a load call brought: a config in JSON that replaces config.pbtxt, and files that replace the folder."""

    config_json: str
    files: Mapping[str, Buffer] = field(default_factory=dict)


class Source:
    """Reads models from the repositories, or from override folders."""

    def __init__(self, settings: RepositorySettings, overrides: OverrideStore) -> None:
        self._settings = settings
        self._overrides = overrides

    def read(self, model: str, override: Override | None = None) -> dict[int, Candidate]:
        """Return the versions of `model` that should be served, each digested.

        Raises:
            PollFailed: see the module.
        """
        with poll_errors(model[:128]):
            if not valid_model_name(model):
                raise ValueError("not a model's name")
            folder = self._folder(model, override)
            written = self._config(folder, override)
            config = with_name(written.config, model)
            for hint in written.hints:
                extra = {"model": model, "field": hint.name, "line": hint.line, "reason": hint.reason}
                log.info("config field skipped", extra=extra)
            versions = list_versions(folder)
            for each in versions.ignored:
                log.warning("folder ignored", extra={"path": str(each.path), "reason": each.reason})
            wanted = wanted_versions(config.version_policy, versions.numbers)
            return {version: make_candidate(model, folder, version, config, self._settings) for version in wanted}

    def _folder(self, model: str, override: Override | None) -> Path:
        folder = find_model(self._settings.directories, model)
        if override is not None and override.files:
            return self._overrides.write(model, override.files)
        if folder is None:
            raise ValueError("not found in any model repository")
        return folder

    def _config(self, folder: Path, override: Override | None) -> WrittenConfig:
        limit = self._settings.max_config_bytes
        if override is not None:
            return parse_json(override.config_json, limit)
        return read_config(folder, limit)


def make_candidate(
    model: str, folder: Path, version: int, config: pb.ModelConfig, settings: RepositorySettings
) -> Candidate:
    """Digest one version; `config` carries the model's name.

    Raises:
        ValueError, OSError: a file is missing, refused or unreadable.
    """
    path = model_path(folder, version, config.default_model_filename)
    files = model_files(folder, version, named_files(config), settings)
    return Candidate(model, version, folder, path, config, digest_files(files))


def read_config(folder: Path, max_bytes: int) -> WrittenConfig:
    """Read a folder's config.pbtxt; an empty config where there is none.

    Raises:
        ValueError, OSError: it is refused or unreadable.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return WrittenConfig(pb.ModelConfig())
    with path.open("rb") as stream:
        return parse_text(stream.read(max_bytes + 1), max_bytes)


def named_files(config: pb.ModelConfig) -> list[str]:
    """Files beside the version folder that the config names, relative to the model's folder."""
    labels = [output.label_filename for output in config.output if output.label_filename]
    inputs = (entry for sample in config.model_warmup for entry in sample.inputs.values())
    return labels + [f"{WARMUP_FOLDER}/{entry.input_data_file}" for entry in inputs if entry.input_data_file]


@contextmanager
def poll_errors(model: str) -> Iterator[None]:
    """Turn what is wrong with a folder into `PollFailed`; paths of this machine stay out of the text."""
    try:
        yield
    except ValueError as error:
        raise PollFailed(model, str(error)) from error
    except OSError as error:
        name = Path(error.filename).name if isinstance(error.filename, str) else ""
        raise PollFailed(model, f"{error.strerror or type(error).__name__} ('{name}')") from error
