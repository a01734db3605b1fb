"""A repository without a disk: what is served stands in a list, loads and unloads are only recorded."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from runtime.core.errors import ModelNotFound, SpillwayError, VersionNotFound
from runtime.core.inference import Scheduler
from runtime.core.model import ModelSpec
from runtime.core.names import parse_version
from runtime.core.tensor import Buffer, TensorSpec
from runtime.core.verdict import Verdict
from runtime.repository.index import IndexEntry, ServedModel
from runtime.serving.statistics import Statistics
from runtime.wire.pb import model_config_pb2
from tests.fakes.loader import FakeScheduler


class CountingScheduler(FakeScheduler):
    """A scheduler that has counters, as the batcher does."""

    def __init__(self, spec: ModelSpec) -> None:
        super().__init__(spec)
        self.statistics = Statistics()


def served_model(name: str = "digits", version: int = 1, *, max_batch_size: int = 8, **config: Any) -> ServedModel:
    """One version with an input `x` FP32 [2] and an output `y` INT64 [1]."""
    inputs, outputs = (TensorSpec("x", "FP32", (2,)),), (TensorSpec("y", "INT64", (1,)),)
    spec = ModelSpec(name, version, Path("model.onnx"), inputs, outputs, max_batch_size)
    return ServedModel(
        name=name,
        version=version,
        versions=(version,),
        config=model_config_pb2.ModelConfig(name=name, max_batch_size=max_batch_size, **config),
        spec=spec,
        verdict=Verdict(),
        scheduler=CountingScheduler(spec),
        candidate=cast("Any", None),  # the repository's own affair
    )


@dataclass
class FakeManager:
    """Does what the transports ask of `repository.manager.ModelManager`. `failure` is raised by load and unload."""

    models: list[ServedModel] = field(default_factory=lambda: [served_model()])
    others: list[IndexEntry] = field(default_factory=list)
    failure: SpillwayError | None = None
    loads: list[tuple[str, str | None, Mapping[str, Buffer]]] = field(default_factory=list)
    unloads: list[str] = field(default_factory=list)
    scans: int = 0

    async def rescan(self) -> None:
        self.scans += 1

    def index(self) -> list[IndexEntry]:
        return [IndexEntry(each.name, each.version, "READY") for each in self.models] + self.others

    def describe(self, model: str, version: str) -> ServedModel:
        number = parse_version(version)
        found = [each for each in self.models if each.name == model]
        if not found:
            raise ModelNotFound(model)
        chosen = [each for each in found if number in (None, each.version)]
        if not chosen:
            raise VersionNotFound(model, version)
        return max(chosen, key=lambda each: each.version)

    def find(self, model: str, version: str) -> Scheduler:
        return self.describe(model, version).scheduler

    def served(self) -> list[ServedModel]:
        return self.models

    def is_ready(self, model: str, version: str) -> bool:
        try:
            self.describe(model, version)
        except ModelNotFound:
            return False
        return True

    async def load(self, name: str, config_json: str | None = None, files: Mapping[str, Buffer] | None = None) -> None:
        self.loads.append((name, config_json, files or {}))
        if self.failure is not None:
            raise self.failure

    async def unload(self, name: str) -> None:
        self.unloads.append(name)
        if self.failure is not None:
            raise self.failure
