"""Starts: good ones, ones after a crash, and ones that end with a sentence about what is wrong."""

from pathlib import Path

import numpy as np
import pytest

from runtime.client import Client
from runtime.core.errors import ExecutionError
from tests.e2e import models
from tests.e2e.daemon import DaemonFailed, running
from tests.e2e.web import fetch

ONES = np.ones((1, 2), np.float32)
CONFIGURED_WRONG = 78


@pytest.fixture
def place(tmp_path: Path) -> Path:
    models.add(tmp_path / "models", "times", {1: models.times(3)})
    return tmp_path / "models"


@pytest.mark.parametrize(
    ("flags", "settings", "file", "said"),
    [
        (["--grpc-port", "70000"], {}, "", "port 70000 is outside 0..65535"),
        ([], {}, "[grpc]\nmax_message_bytes = 0", "max_message_bytes 0 is outside"),
        ([], {}, "[grpc]\nprot = 8001", "prot"),
        ([], {}, "[grpd]\nport = 8001", "grpd"),
        ([], {}, "port = ", "spillway.toml"),
        ([], {"SPILLWAY_DAEMON_DRAIN_S": "soon"}, "", "SPILLWAY_DAEMON_DRAIN_S"),
        (["--drain", "-1"], {}, "", "drain_s -1.0 is outside 0..3600"),
        (["--grpc-tls-cert", "server.pem"], {}, "", "tls_cert and tls_key belong together"),
        (["--model-repository", "/nowhere/at/all"], {}, "", "/nowhere/at/all"),
        (["--config", "/nowhere/spillway.toml"], {}, "", "/nowhere/spillway.toml"),
    ],
)
def test_a_wrong_configuration(
    place: Path, tmp_path: Path, flags: list[str], settings: dict[str, str], file: str, said: str
) -> None:
    if file:
        (tmp_path / "spillway.toml").write_text(file)
        flags = [*flags, "--config", str(tmp_path / "spillway.toml")]
    with pytest.raises(DaemonFailed) as caught, running(place, tmp_path / "daemon", *flags, settings=settings):
        pass
    assert caught.value.status == CONFIGURED_WRONG, caught.value.log
    assert said in caught.value.log
    assert "Traceback" not in caught.value.log
    assert sum("spillway: " in line for line in caught.value.log.splitlines()) == 1


def test_a_model_that_cannot_be_loaded_does_not_keep_the_others_from_serving(place: Path, tmp_path: Path) -> None:
    models.add(place, "broken", {1: b"no model"})
    with running(place, tmp_path / "daemon") as daemon, Client(daemon.grpc) as client:
        assert not daemon.ready
        assert not client.ready()
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]
        page = fetch(daemon.http, "/readyz")
        assert (page.status, page.json["not_ready"][0]["model"]) == (503, "broken")
        assert {entry.name: entry.state for entry in client.index()} == {"broken": "UNAVAILABLE", "times": "READY"}
        assert daemon.stop() == 0, daemon.log


def test_an_empty_repository_is_served(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with running(tmp_path / "models", tmp_path / "daemon") as daemon, Client(daemon.grpc) as client:
        assert client.ready()
        assert client.index() == []


def test_models_to_load_can_be_chosen(place: Path, tmp_path: Path) -> None:
    models.add(place, "other", {1: models.times(4)})
    flags = ["--model-control-mode", "explicit", "--load-model", "other"]
    with running(place, tmp_path / "daemon", *flags) as daemon, Client(daemon.grpc) as client:
        assert [client.model_ready(name) for name in ("times", "other")] == [False, True]
        assert client.ready()


def test_two_repositories(place: Path, tmp_path: Path) -> None:
    models.add(tmp_path / "second", "times", {1: models.times(5)})  # the first repository has that name already
    models.add(tmp_path / "second", "further", {1: models.times(6)})
    flags = ["--model-repository", str(tmp_path / "second")]
    with running(place, tmp_path / "daemon", *flags) as daemon, Client(daemon.grpc) as client:
        assert [client.infer(name, {"x": ONES})["y"][0, 0] for name in ("times", "further")] == [3, 6]


def test_after_a_power_cut_it_starts_again(place: Path, tmp_path: Path) -> None:
    state = tmp_path / "daemon" / "state"
    flags = ["--model-control-mode", "explicit", "--load-model", "times"]
    with running(place, tmp_path / "daemon", *flags) as daemon, Client(daemon.grpc) as client:
        client.load("times", config="{}", files={"1/model.onnx": models.times(7).SerializeToString()})
        assert list(state.rglob("model.onnx"))
        daemon.kill()
    with running(place, tmp_path / "daemon", *flags) as daemon, Client(daemon.grpc) as client:
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]  # an override lives as long as its daemon
        assert not list(state.rglob("model.onnx"))
        assert daemon.stop() == 0, daemon.log


def test_what_a_power_cut_left_of_a_verdict_is_not_believed(place: Path, tmp_path: Path) -> None:
    with running(place, tmp_path / "daemon") as daemon:
        assert daemon.stop() == 0
    verdicts = list((tmp_path / "daemon" / "state" / "verdicts").iterdir())
    assert len(verdicts) == 1
    verdicts[0].write_bytes(verdicts[0].read_bytes()[:20])
    with running(place, tmp_path / "daemon") as daemon:
        assert daemon.ready


def test_a_state_directory_that_cannot_be_written(place: Path, tmp_path: Path) -> None:
    # /proc cannot be written, not even by root; permissions would not stop it.
    flags = ["--state-dir", "/proc/spillway", "--model-control-mode", "explicit", "--load-model", "*"]
    with running(place, tmp_path / "daemon", *flags) as daemon, Client(daemon.grpc) as client:
        assert daemon.ready
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]
        with pytest.raises(ExecutionError, match="failed to load 'times'"):
            client.load("times", config="{}", files={"1/model.onnx": models.times(7).SerializeToString()})
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]
        assert daemon.stop() == 0, daemon.log
