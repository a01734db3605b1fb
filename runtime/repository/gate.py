"""The one gate for model bytes: nothing is loaded that a trial in a child process has not accepted.

    digest of the files -> cached verdict, or trial in the child -> verdict

Rules
- This process imports neither onnx nor ONNX Runtime here: the structural check, the trial load, the warm-up and the
  measurement are the child's (`Trial`).
- A verdict is kept by everything it depends on: the files' digest, which of them are links, the config, the providers,
  the thread budget, the limits, the versions of the runtime, and this machine. Kept are acceptances and refusals of the
  structural check, which are certain; a crash, a timeout, too little memory or a failed load may be the moment's, and
  is tried again.
- Files that change while they are examined are refused: the verdict would belong to neither state.
"""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Protocol

import msgspec

from runtime.core.verdict import TrialJob, Verdict
from runtime.repository.files import Digest
from runtime.repository.settings import RepositorySettings
from runtime.repository.verdicts import VerdictCache
from runtime.wire.pb import model_config_pb2 as pb

VERDICT_FORMAT = 3
"""Raised when the trial measures or checks something else than before, so that old verdicts are not believed."""

_DISTRIBUTIONS = ("onnx", "onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "spillway-runtime")


class Trial(Protocol):
    """Tries a model where a crash costs nothing. Calls come one at a time, from worker threads."""

    def try_model(self, job: TrialJob) -> Verdict:
        """Check, load, warm up and measure one model. Blocking; never raises for the model's faults."""
        ...

    def close(self) -> None:
        """End the child, if one runs; a trial that is under way ends as a crash. Idempotent, from any thread."""
        ...


@dataclass(frozen=True, slots=True)
class Candidate:
    """One version of a model as it lies on disk. `config` is what the operator wrote, with the name set."""

    model: str
    version: int
    folder: Path
    path: Path
    config: pb.ModelConfig
    digest: Digest

    @property
    def mark(self) -> str:
        """Equal for equal files and equal config: such a version need not be loaded again."""
        return f"{self.digest.sha256}:{hashlib.sha256(config_bytes(self.config)).hexdigest()}"


class Gate:
    """Examines candidates. Thread-safe; `examine` blocks for as long as a trial takes."""

    def __init__(
        self, trial: Trial, cache: VerdictCache, settings: RepositorySettings, providers: Sequence[str], threads: int
    ) -> None:
        self._trial = trial
        self._cache = cache
        self._settings = settings
        self._providers = tuple(providers)
        self._threads = threads

    def recall(self, candidate: Candidate) -> Verdict | None:
        """Return the verdict that is kept for one version, or None."""
        return self._cache.get(self._key(candidate, self._job(candidate)))

    def examine(self, candidate: Candidate) -> Verdict:
        """Return the verdict on one version, from the cache or from a trial. Never raises for the model's faults."""
        job = self._job(candidate)
        key = self._key(candidate, job)
        if (known := self._cache.get(key)) is not None:
            return known
        verdict = self._trial.try_model(job)
        if not candidate.digest.is_current():
            return Verdict(stage="check", error="the files changed while they were examined")
        if not verdict.error or verdict.stage == "check":
            self._cache.put(key, verdict)
        return verdict

    def rest(self) -> None:
        """End the idle child and give its memory back; the next trial starts another."""
        self._trial.close()

    def _job(self, candidate: Candidate) -> TrialJob:
        return TrialJob(
            model=candidate.model,
            version=candidate.version,
            path=str(candidate.path),
            folder=str(candidate.folder),
            config=config_bytes(candidate.config),
            providers=self._providers,
            thread_budget=self._threads,
            default_max_batch_size=self._settings.default_max_batch_size,
            probe_s=self._settings.probe_s,
            allow_external_links=self._settings.follow_links,
        )

    def _key(self, candidate: Candidate, job: TrialJob) -> str:
        anonymous = pb.ModelConfig()
        anonymous.CopyFrom(candidate.config)
        anonymous.ClearField("name")
        facts = (
            VERDICT_FORMAT,
            candidate.digest.sha256,
            _links(candidate),
            str(candidate.path.relative_to(candidate.folder / str(candidate.version))),
            config_bytes(anonymous),
            job.providers,
            job.thread_budget,
            job.default_max_batch_size,
            job.probe_s,
            job.allow_external_links,
            runtime_versions(),
            machine(),
        )
        return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def _links(candidate: Candidate) -> list[tuple[str, bool, int]]:
    """Files that are links, or have several hard links: the check judges that, and their digest does not show it."""
    folder = candidate.folder.resolve()
    found = [(file.name, *_link(file.path, folder / file.name)) for file in candidate.digest.files]
    return [each for each in found if each[1:] != (False, 1)]


def _link(path: Path, plain: Path) -> tuple[bool, int]:
    try:
        return path.resolve() != plain, path.stat().st_nlink
    except OSError:  # vanished: what is known of the files does not hold for what is left of them
        return False, 0


def config_bytes(config: pb.ModelConfig) -> bytes:
    """Serialize a config so that equal configs give equal bytes."""
    return config.SerializeToString(deterministic=True)


@cache
def runtime_versions() -> tuple[str, ...]:
    """Packages that decide what a trial finds, with their versions; read from their metadata, nothing is imported."""
    return tuple(f"{name} {_version(name)}" for name in _DISTRIBUTIONS)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


@cache
def machine() -> tuple[str, ...]:
    """What measurements and available providers depend on: processor, usable cores, NVIDIA driver."""
    lines = _lines(Path("/proc/cpuinfo"))
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    processor = next(names, os.uname().machine)
    return processor, str(len(os.sched_getaffinity(0))), " ".join(_lines(Path("/proc/driver/nvidia/version"))[:1])


def _lines(path: Path) -> list[str]:
    return path.read_text(errors="replace").splitlines() if path.is_file() else []
