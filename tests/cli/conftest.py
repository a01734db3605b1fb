"""The command, called as a person calls it but in this process, and one daemon with the digits for all tests."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest

from runtime.cli import main, output
from tests.e2e.daemon import ROOT, Daemon, running

MODELS = ROOT / "examples" / "digits" / "models"


@dataclass(frozen=True)
class Said:
    """What one call of the command left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


Spillway = Callable[..., Said]


@pytest.fixture
def spillway(capsys: pytest.CaptureFixture[str]) -> Spillway:
    def call(*words: str) -> Said:
        try:
            status = main(words)
        except SystemExit as usage:  # argparse leaves so
            status = int(usage.code or 0)
        said = capsys.readouterr()
        return Said(status, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Explicit model control; tests that unload the model load it again."""
    folder = tmp_path_factory.mktemp("cli")
    with running(MODELS, folder, "--model-control-mode", "explicit", "--load-model", "digits") as process:
        assert process.ready, process.log
        yield process
        assert process.stop() == 0, process.log


@pytest.fixture
def grpc(daemon: Daemon) -> tuple[str, str]:
    """Flags that lead a command to the daemon's gRPC listener."""
    return "--grpc", daemon.grpc


@pytest.fixture
def http(daemon: Daemon) -> tuple[str, str]:
    """Flags that lead a command to the daemon's HTTP listener."""
    return "--http", daemon.http


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let standard output count as a terminal of 120 columns, without colours."""
    monkeypatch.setattr(output, "is_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
