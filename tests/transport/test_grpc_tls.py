import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.core.errors import ConfigError
from runtime.transport.access import Gatekeeper
from runtime.transport.call import UnaryCall
from runtime.transport.grpc_front import GrpcFront
from runtime.transport.routes import Routes
from runtime.transport.services import INFER
from runtime.transport.settings import AccessSettings, GrpcSettings
from runtime.transport.tls import identity_of
from tests.fakes.authority import Authority, Pair
from tests.transport.grpc_harness import OWN_CONNECTION, Server, call, infer_request, serving, status_of

NAMED_LOCALHOST = [*OWN_CONNECTION, ("grpc.ssl_target_name_override", "localhost")]


@dataclass
class Files:
    """The PEM files of a server, and who signed them."""

    authority: Authority
    cert: Path
    key: Path
    client_ca: Path

    def settings(self, *, mutual: bool = True) -> dict[str, Any]:
        names: dict[str, Any] = {"tls_cert": str(self.cert), "tls_key": str(self.key)}
        return names | ({"tls_client_ca": str(self.client_ca)} if mutual else {})

    def spoil(self, name: str, how: str) -> None:
        """Make one file unusable."""
        path: Path = getattr(self, name)
        foreign = Authority().issue("server", for_servers=True)
        if how == "missing":
            path.unlink()
        elif how == "empty":
            path.write_bytes(b"")
        else:
            path.write_bytes({"cert": foreign.certificate, "key": foreign.key, "client_ca": foreign.key}[name])


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority = Authority()
    made = Files(authority, tmp_path / "server.pem", tmp_path / "server.key", tmp_path / "ca.pem")
    made.client_ca.write_bytes(authority.certificate)
    authority.issue("server", ["localhost"], for_servers=True).write(made.cert, made.key)
    return made


def channel_to(server: Server, authority: Authority, pair: Pair | None = None) -> grpc.aio.Channel:
    shown = (pair.key, pair.certificate) if pair else (None, None)
    credentials = grpc.ssl_channel_credentials(authority.certificate, *shown)
    return grpc.aio.secure_channel(server.address, credentials, options=NAMED_LOCALHOST)


async def test_names_on_the_certificate_are_the_identity(files: Files) -> None:
    seen: list[tuple[str, ...]] = []

    def handler(message: bytes, call: UnaryCall) -> None:
        seen.append(call.identity.names)
        call.send(())

    async with serving(routes=Routes(callbacks={INFER: handler}), **files.settings()) as server:
        for common, names in (("camera-7", ["camera-7.plant", "cam.plant"]), ("same", ["same"]), ("only", [])):
            async with channel_to(server, files.authority, files.authority.issue(common, names)) as channel:
                rpc: Any = channel.unary_unary(INFER)
                await rpc(b"")

    assert seen == [("camera-7", "camera-7.plant", "cam.plant"), ("same",), ("only",)]


async def test_a_verified_caller_without_a_name_is_not_a_local_one(files: Files) -> None:
    assert identity_of({}).names
    assert identity_of({"x509_common_name": [b""]}).names
    access = AccessSettings(identities={})
    async with (
        serving(access=access, **files.settings()) as server,
        channel_to(server, files.authority, files.authority.issue("")) as channel,
    ):
        assert (await status_of(call(channel, "ModelInfer", infer_request(1.0))))[0] == "PERMISSION_DENIED"
        assert (await call(channel, "ServerLive")).live


async def test_roles_follow_the_names(files: Files) -> None:
    access = AccessSettings(identities={"camera.plant": ("infer",), "ops": ("operate",)})
    async with serving(access=access, **files.settings()) as server:
        issue = files.authority.issue
        for pair, allowed, denied in (
            (issue("x", ["camera.plant"]), "ModelStatistics", "RepositoryIndex"),
            (issue("ops"), "RepositoryIndex", "ModelStatistics"),
        ):
            async with channel_to(server, files.authority, pair) as channel:
                assert (await status_of(call(channel, denied)))[0] == "PERMISSION_DENIED"
                await call(channel, allowed)


@pytest.mark.parametrize("case", ["no certificate", "expired", "other authority", "a server's", "plain text"])
async def test_who_is_not_verified_does_not_get_in(files: Files, case: str) -> None:
    pairs = {
        "expired": files.authority.issue("camera", expired=True),
        "other authority": Authority("other").issue("camera"),
        "a server's": files.authority.issue("camera", for_servers=True),
    }
    async with serving(**files.settings()) as server:
        if case == "plain text":
            channel = grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION)
        else:
            channel = channel_to(server, files.authority, pairs.get(case))
        async with channel:
            assert (await status_of(call(channel, "ServerLive", timeout=5)))[0] == "UNAVAILABLE"


async def test_the_unix_socket_asks_for_no_certificate_but_has_the_roles_of_local_callers(
    files: Files, tmp_path: Path
) -> None:
    path = tmp_path / "s.sock"
    access = AccessSettings(local_roles=("infer",))
    async with (
        serving(access=access, uds=str(path), **files.settings()),
        grpc.aio.insecure_channel(f"unix:{path}", options=OWN_CONNECTION) as channel,
    ):
        await call(channel, "ModelInfer", infer_request(1.0))
        assert (await status_of(call(channel, "RepositoryIndex")))[0] == "UNAUTHENTICATED"


async def test_without_a_client_authority_callers_are_local(files: Files) -> None:
    async with (
        serving(**files.settings(mutual=False)) as server,
        channel_to(server, files.authority) as channel,
    ):
        await call(channel, "ModelInfer", infer_request(1.0))


async def test_mutual_tls_may_listen_everywhere_server_tls_may_not(files: Files) -> None:
    async with serving(host="0.0.0.0", **files.settings()) as server:
        assert server.port > 0
    with pytest.raises(ConfigError, match="beyond loopback"):
        async with serving(host="0.0.0.0", **files.settings(mutual=False)):
            pass


async def test_a_new_certificate_is_shown_without_a_restart_and_no_call_fails(files: Files) -> None:
    """Rotation under load: the old connection goes on, new ones see the new certificate."""
    newer = Authority("newer")
    client = files.authority.issue("camera")
    async with serving(**files.settings()) as server, channel_to(server, files.authority, client) as old:
        await call(old, "ServerLive")
        rotated = asyncio.Event()

        async def keep_asking() -> int:
            answers = 0
            while not rotated.is_set():
                answers += (await call(old, "ServerLive")).live
            return answers

        asking = asyncio.create_task(keep_asking())
        newer.issue("server", ["localhost"], for_servers=True).write(files.cert, files.key)
        async with channel_to(server, newer, client) as fresh:
            assert (await call(fresh, "ServerLive")).live
        async with channel_to(server, files.authority, client) as stale:
            assert (await status_of(call(stale, "ServerLive", timeout=5)))[0] == "UNAVAILABLE"
        rotated.set()
        assert await asking > 0


async def test_a_key_that_does_not_fit_yet_changes_nothing(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    fitting = files.authority.issue("server", ["localhost"], for_servers=True)
    client = files.authority.issue("camera")
    async with serving(**files.settings()) as server:
        files.cert.write_bytes(fitting.certificate)  # the key comes later
        async with channel_to(server, files.authority, client) as channel:
            assert (await call(channel, "ServerLive")).live
        assert "certificate not renewed" in caplog.text
        files.key.write_bytes(fitting.key)
        async with channel_to(server, files.authority, client) as channel:
            assert (await call(channel, "ServerLive")).live


@pytest.mark.parametrize("broken", ["cert", "key", "client_ca"])
@pytest.mark.parametrize("how", ["missing", "empty", "foreign"])
async def test_files_that_cannot_be_used_are_said_so(files: Files, broken: str, how: str) -> None:
    files.spoil(broken, how)
    front = GrpcFront(Routes(), Gatekeeper(AccessSettings()), GrpcSettings(port=0, **files.settings()))

    with pytest.raises(ConfigError, match="certificate files") as failure:
        await front.start()
    assert "PRIVATE" not in str(failure.value)
