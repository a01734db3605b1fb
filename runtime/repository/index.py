"""What is served now, and the state of every model version that was ever asked for.

Written by the manager, one model at a time; read by every request. Each change builds new dictionaries and replaces
the old ones, so a reader in any thread sees the state before or after, never between.

States, and when each is announced
    LOADING     work on the version begins; nothing of it answers
    READY       after its instance answers; from now on `find` returns it
    UNLOADING   before it stops answering: new requests no longer find it, those it has are finished
    UNLOADED    its memory is given back
    FAILED      loading ended with an error, which is the reason
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from runtime.core.errors import ModelNotFound, ModelNotReady, VersionNotFound
from runtime.core.inference import Scheduler
from runtime.core.model import ModelSpec
from runtime.core.names import parse_version
from runtime.core.verdict import Verdict
from runtime.repository.gate import Candidate
from runtime.wire.pb import model_config_pb2 as pb

ModelState = Literal["LOADING", "READY", "UNLOADING", "UNLOADED", "FAILED"]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One line of the repository index. `version` 0: none is known (a folder never loaded, or without versions)."""

    name: str
    version: int
    state: ModelState
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class ServedModel:
    """One version that is served. `config` is completed; `versions` are all that are ready, ascending."""

    name: str
    version: int
    versions: tuple[int, ...]
    config: pb.ModelConfig
    spec: ModelSpec
    verdict: Verdict
    scheduler: Scheduler
    candidate: Candidate


@dataclass(frozen=True, slots=True)
class Entry:
    """State of one version; `served` from READY until it is UNLOADED."""

    state: ModelState
    reason: str = ""
    served: ServedModel | None = None


class ServingIndex:
    """All entries by model and version, and the schedulers that are ready by name and version text."""

    def __init__(self) -> None:
        self._models: Mapping[str, Mapping[int, Entry]] = {}
        self._ready: Mapping[tuple[str, str], Scheduler] = {}

    def find(self, model: str, version: str) -> Scheduler:
        """Implements `core.inference.Catalogue`: one look-up where all is well."""
        scheduler = self._ready.get((model, version))
        if scheduler is not None:
            return scheduler
        return self._ready_entry(model, version).scheduler

    def describe(self, model: str, version: str) -> ServedModel:
        """Everything about a version that is ready; empty `version` means the highest. Raises as `find` does."""
        served = self._ready_entry(model, version)
        return replace(served, versions=self._ready_versions(model))

    def served(self) -> list[ServedModel]:
        """Everything about all versions that are ready, by name and version."""
        return [
            replace(entry.served, versions=self._ready_versions(name))
            for name, entries in sorted(self._models.items())
            for _, entry in sorted(entries.items())
            if entry.state == "READY" and entry.served is not None
        ]

    def entries(self, model: str) -> Mapping[int, Entry]:
        """All entries of one model; empty where it was never asked for."""
        return self._models.get(model, {})

    def serving(self, model: str) -> dict[int, ServedModel]:
        """What answers for one model, by version."""
        found = self.entries(model).items()
        return {number: entry.served for number, entry in found if entry.state == "READY" and entry.served is not None}

    def names(self) -> Iterable[str]:
        """Names of all models that were ever asked for."""
        return list(self._models)

    def listing(self, folders: Iterable[str]) -> list[IndexEntry]:
        """The whole index; `folders` are models on disk, listed with version 0 where they were never asked for."""
        known = [
            IndexEntry(name, version, entry.state, entry.reason)
            for name, entries in self._models.items()
            for version, entry in entries.items()
        ]
        never = [IndexEntry(name, 0, "UNLOADED") for name in folders if name not in self._models]
        return sorted(known + never, key=lambda each: (each.name, each.version))

    def update(self, model: str, changes: Mapping[int, Entry | None]) -> None:
        """Change entries of one model, all at once; None forgets one."""
        entries = {number: entry for number, entry in {**self.entries(model), **changes}.items() if entry is not None}
        models = {**self._models, model: entries}
        if not entries:
            del models[model]
        ready = {key: scheduler for key, scheduler in self._ready.items() if key[0] != model}
        for number, entry in sorted(entries.items()):
            if entry.state == "READY" and entry.served is not None:
                ready[model, str(number)] = entry.served.scheduler
                ready[model, ""] = entry.served.scheduler  # ascending: the highest stays
        self._models, self._ready = models, ready

    def _ready_versions(self, model: str) -> tuple[int, ...]:
        return tuple(sorted(self.serving(model)))

    def _ready_entry(self, model: str, version: str) -> ServedModel:
        number = parse_version(version)
        entries = self.entries(model)
        serving = self.serving(model)
        if number is None:
            number = max(serving, default=None)
        if number in serving:
            return serving[number]
        if number is not None:
            raise _why_no_version(model, number, entries.get(number), known=bool(entries))
        raise _why_no_model(model, entries)


def _why_no_model(model: str, entries: Mapping[int, Entry]) -> Exception:
    states = {entry.state for entry in entries.values()}
    if not states:
        return ModelNotFound(model)
    if states == {"UNLOADED"}:
        return ModelNotFound(model, ": it has no available versions")
    number, entry = max(entries.items())
    return ModelNotReady(f"model '{model}' has no ready version: {_text(number, entry)}")


def _why_no_version(model: str, number: int, entry: Entry | None, *, known: bool) -> Exception:
    if not known:
        return ModelNotFound(model)
    if entry is None or entry.state == "UNLOADED":
        return VersionNotFound(model, str(number))
    return ModelNotReady(f"model '{model}' is not ready: {_text(number, entry)}")


def _text(number: int, entry: Entry) -> str:
    reason = f" ({entry.reason})" if entry.reason else ""
    return f"version {number} is {entry.state}{reason}" if number else f"it is {entry.state}{reason}"
