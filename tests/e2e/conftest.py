"""One repository of tiny models and one daemon for all tests that leave both as they are."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from tests.e2e import models
from tests.e2e.daemon import Daemon, channel_to, running

NEVER_LOADED = ("broken", "misconfigured")


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the daemons of this session have their files."""
    return tmp_path_factory.mktemp("daemons")


@pytest.fixture(scope="session")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The models of models.py. Read-only."""
    directory = tmp_path_factory.mktemp("models")
    models.write_repository(directory)
    return directory


@pytest.fixture(scope="session")
def daemon(repository: Path, folder: Path) -> Iterator[Daemon]:
    """A daemon with explicit model control that serves every model that can be loaded."""
    names = sorted(each.name for each in repository.iterdir() if each.name not in NEVER_LOADED)
    loads = [word for name in names for word in ("--load-model", name)]
    with running(repository, folder / "shared", "--model-control-mode", "explicit", *loads) as process:
        assert process.ready
        yield process
        assert process.stop() == 0, process.log


@pytest.fixture
def channel(daemon: Daemon) -> Iterator[grpc.Channel]:
    """A connection to `daemon` that no other test has used."""
    with channel_to(daemon.grpc) as connection:
        yield connection
