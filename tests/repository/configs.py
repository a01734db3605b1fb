"""Short ways to write configs, model folders and managers in tests."""

from collections.abc import Mapping
from pathlib import Path

from google.protobuf import text_format

from runtime.repository.gate import Gate
from runtime.repository.manager import ModelManager
from runtime.repository.settings import RepositorySettings
from runtime.repository.verdicts import VerdictCache
from runtime.wire.pb import model_config_pb2 as pb
from tests.fakes.loader import FakeLoader
from tests.fakes.trial import FakeTrial


def config(text: str, name: str = "m") -> pb.ModelConfig:
    parsed = text_format.Parse(text, pb.ModelConfig())
    parsed.name = name
    return parsed


def write_model(
    repository: Path, name: str, versions: Mapping[int, bytes] | None = None, config_text: str | None = None
) -> Path:
    """A model's folder; `versions` are the bytes of each model.onnx."""
    folder = repository / name
    for number, content in (versions or {1: b"one"}).items():
        path = folder / str(number) / "model.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    if config_text is not None:
        (folder / "config.pbtxt").write_text(config_text)
    return folder


class House:
    """A manager over two folders of `root`, with a fake trial and a fake loader."""

    def __init__(self, root: Path, control_mode: str = "explicit", **settings: object) -> None:
        self.repository = root / "models"
        self.repository.mkdir(exist_ok=True)
        self.state = root / "state"
        self.settings = RepositorySettings(
            directories=(str(self.repository),),
            state_dir=str(self.state),
            control_mode=control_mode,  # type: ignore[arg-type] # the tests' word, checked by nobody but the reader
            **settings,  # type: ignore[arg-type]
        )
        self.trial = FakeTrial()
        self.loader = FakeLoader()
        self.gate = Gate(self.trial, VerdictCache(self.state / "verdicts", 100), self.settings, ("cpu",), 2)
        self.manager = ModelManager(self.settings, self.gate, self.loader)

    def write(
        self, name: str = "m", versions: Mapping[int, bytes] | None = None, config_text: str | None = None
    ) -> Path:
        return write_model(self.repository, name, versions, config_text)

    def states(self) -> dict[tuple[str, int], str]:
        return {(entry.name, entry.version): entry.state for entry in self.manager.index()}

    def overrides(self) -> list[Path]:
        """Files of override folders that are still there."""
        return [path for path in (self.state / "overrides").rglob("*") if path.is_file() and path.suffix != ".lock"]
