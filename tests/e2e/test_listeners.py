"""Where the daemon listens and whom it lets in: mutual TLS, a unix socket, and when it refuses to start."""

import json
import ssl
import stat
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from runtime.client import Client
from runtime.core.errors import AccessDenied, CapacityError, Overloaded
from tests.e2e import models
from tests.e2e.daemon import OWN_CONNECTION, Daemon, DaemonFailed, running
from tests.fakes.authority import Authority

ONES = np.ones((1, 2), np.float32)
CONFIGURED_WRONG = 78


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one model."""
    repository = tmp_path_factory.mktemp("one")
    models.add(repository, "times", {1: models.times(3)})
    return repository


def refused(place: Path, folder: Path, *flags: str) -> str:
    """What the daemon says when it refuses to start for want of a right configuration."""
    with pytest.raises(DaemonFailed) as caught, running(place, folder / "refused", *flags):
        pass
    assert caught.value.status == CONFIGURED_WRONG, caught.value.log
    return caught.value.log


# Mutual TLS


@dataclass
class Secured:
    """A daemon that wants certificates, and files to show to it."""

    daemon: Daemon
    folder: Path

    def files(self, name: str) -> dict[str, Path]:
        """Arguments of our client for one identity."""
        return {"ca": self.folder / "ca.pem", "cert": self.folder / f"{name}.pem", "key": self.folder / f"{name}.key"}

    def client(self, name: str) -> Client:
        """Our client with one identity."""
        return Client(self.daemon.grpc.replace("0.0.0.0", "localhost"), **self.files(name))


@pytest.fixture(scope="module")
def secured(place: Path, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    """Beyond loopback with mutual TLS on gRPC and HTTP; `camera` may infer, `operator` everything."""
    files = tmp_path_factory.mktemp("certificates")
    ours, other = Authority("ours"), Authority("other")
    (files / "ca.pem").write_bytes(ours.certificate)
    ours.issue("server", ["localhost"], for_servers=True).write(files / "server.pem", files / "server.key")
    for name in ("camera", "operator", "guest"):
        ours.issue(name).write(files / f"{name}.pem", files / f"{name}.key")
    other.issue("operator").write(files / "stranger.pem", files / "stranger.key")
    ours.issue("operator", expired=True).write(files / "late.pem", files / "late.key")
    (files / "spillway.toml").write_text('[access.identities]\ncamera = ["infer"]\noperator = ["infer", "operate"]\n')
    flags = ["--host", "0.0.0.0", "--model-control-mode", "explicit", "--load-model", "*"]
    flags += ["--config", str(files / "spillway.toml"), "--grpc-tls-cert", str(files / "server.pem")]
    flags += ["--grpc-tls-key", str(files / "server.key"), "--grpc-tls-client-ca", str(files / "ca.pem")]
    with running(place, folder / "secured", *flags) as daemon:
        yield Secured(daemon, files)
        assert daemon.stop() == 0, daemon.log


def test_a_certificate_of_ours_gets_answers(secured: Secured) -> None:
    with secured.client("camera") as client:
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]


def test_roles_follow_from_the_certificate(secured: Secured) -> None:
    with secured.client("camera") as camera, pytest.raises(AccessDenied, match="role 'operate' is needed"):
        camera.load("times")
    with secured.client("guest") as guest:
        assert guest.ready()
        with pytest.raises(AccessDenied, match="role 'infer' is needed"):
            guest.infer("times", {"x": ONES})
    with secured.client("operator") as operator:
        operator.load("times")


@pytest.mark.parametrize("name", ["stranger", "late"])
def test_other_certificates_get_no_connection(secured: Secured, name: str) -> None:
    with secured.client(name) as client, pytest.raises(CapacityError):
        client.live(deadline_s=5)


def test_no_certificate_gets_no_connection(secured: Secured) -> None:
    address = secured.daemon.grpc.replace("0.0.0.0", "localhost")
    with Client(address, ca=secured.folder / "ca.pem") as nobody, pytest.raises(CapacityError):
        nobody.live(deadline_s=5)
    with Client(address) as plain, pytest.raises(CapacityError):
        plain.live(deadline_s=5)


def test_tritonclient_over_mutual_tls(secured: Secured) -> None:
    files = secured.files("camera")
    tensor = triton.InferInput("x", [1, 2], "FP32")
    tensor.set_data_from_numpy(ONES)
    with triton.InferenceServerClient(
        secured.daemon.grpc.replace("0.0.0.0", "localhost"),
        ssl=True,
        root_certificates=str(files["ca"]),
        certificate_chain=str(files["cert"]),
        private_key=str(files["key"]),
        channel_args=OWN_CONNECTION,
    ) as client:
        assert client.infer("times", [tensor]).as_numpy("y").tolist() == [[3, 3]]
        with pytest.raises(InferenceServerException) as caught:
            client.unload_model("times")
    assert caught.value.status() == "StatusCode.PERMISSION_DENIED"


def test_http_wants_the_same_certificates(secured: Secured) -> None:
    files = secured.files("camera")
    port = secured.daemon.http.rpartition(":")[2]
    context = ssl.create_default_context(cafile=files["ca"])
    with pytest.raises(OSError, match=r"certificate required|reset|closed|EOF"):
        urllib.request.urlopen(f"https://localhost:{port}/v2", context=context, timeout=5).close()
    context.load_cert_chain(files["cert"], files["key"])
    with urllib.request.urlopen(f"https://localhost:{port}/v2/models/times", context=context, timeout=5) as page:
        assert json.load(page)["name"] == "times"


def test_metrics_stay_on_loopback(secured: Secured) -> None:
    assert secured.daemon.metrics.startswith("127.0.0.1:")


# Unix socket


def test_a_unix_socket(place: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    with running(place, folder / "uds", "--uds", str(path)) as daemon:
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        with Client(f"unix:{path}") as client:
            assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]
        with triton.InferenceServerClient(f"unix:{path}", channel_args=OWN_CONNECTION) as client:
            assert client.is_model_ready("times")
        assert daemon.stop() == 0
    assert not path.exists()


def test_the_socket_of_a_daemon_that_was_killed_is_replaced(place: Path, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    with running(place, folder / "uds", "--uds", str(path)) as daemon:
        assert "is in use by another server" in refused(place, folder, "--uds", str(path))
        daemon.kill()
    assert path.exists()
    with running(place, folder / "uds", "--uds", str(path)), Client(f"unix:{path}") as client:
        assert client.live()


# Refusals


def test_listening_beyond_loopback_needs_certificates_or_a_word(place: Path, folder: Path) -> None:
    said = refused(place, folder, "--host", "0.0.0.0")
    assert "host '0.0.0.0' is beyond loopback" in said
    assert "--grpc-tls-client-ca" in said
    assert "--insecure" in said
    assert "Traceback" not in said
    with running(place, folder / "insecure", "--host", "0.0.0.0", "--insecure") as daemon:
        port = daemon.grpc.rpartition(":")[2]
        with Client(f"127.0.0.1:{port}") as client:
            assert client.ready()


def test_a_port_that_is_taken(place: Path, folder: Path) -> None:
    with running(place, folder / "first") as first:
        for listener, address in (("grpc", first.grpc), ("http", first.http), ("metrics", first.metrics)):
            said = refused(place, folder, f"--{listener}-port", address.rpartition(":")[2]).splitlines()[-1]
            assert said.startswith("spillway: cannot listen")
            assert said.endswith(f"on {address}: Address already in use")


def test_messages_beyond_the_limit_are_refused(place: Path, folder: Path) -> None:
    settings = {"SPILLWAY_GRPC_MAX_MESSAGE_BYTES": "100000"}
    with running(place, folder / "small", settings=settings) as daemon, Client(daemon.grpc) as client:
        with pytest.raises(Overloaded, match="this method takes 100000"):
            client.infer("times", {"x": np.zeros((1, 50_000), np.float32)})
        assert client.infer("times", {"x": ONES})["y"].tolist() == [[3, 3]]


def test_control_calls_are_off_by_default(place: Path, folder: Path) -> None:
    with running(place, folder / "none") as daemon, grpc.insecure_channel(daemon.grpc) as channel:
        request: Any = triton.service_pb2.RepositoryModelLoadRequest(model_name="times")
        method: Any = channel.unary_unary("/inference.GRPCInferenceService/RepositoryModelLoad")
        with pytest.raises(grpc.RpcError) as caught:
            method(request.SerializeToString(), timeout=5)
        assert isinstance(caught.value, grpc.Call)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "not allowed with model control mode 'none'" in (caught.value.details() or "")
