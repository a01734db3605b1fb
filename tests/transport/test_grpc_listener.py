import os
import socket
import stat
from pathlib import Path

import grpc
import pytest

from runtime.core.errors import ConfigError
from runtime.transport.access import Gatekeeper
from runtime.transport.grpc_front import GrpcFront
from runtime.transport.routes import Routes
from runtime.transport.settings import AccessSettings, GrpcSettings
from tests.transport.grpc_harness import OWN_CONNECTION, call, serving


def front(**settings: object) -> GrpcFront:
    return GrpcFront(Routes(), Gatekeeper(AccessSettings()), GrpcSettings(**{"port": 0, **settings}))  # type: ignore[arg-type]


async def test_the_bound_port_is_told() -> None:
    async with serving() as one, serving() as two:
        assert 0 < one.port != two.port > 0


@pytest.mark.parametrize("host", ["::1", "[::1]", "localhost"])
async def test_hosts_in_their_spellings(host: str) -> None:
    async with serving(host=host) as server:
        assert server.port > 0


async def test_a_port_in_use_is_said_so() -> None:
    async with serving() as server:
        with pytest.raises(ConfigError, match=rf"cannot listen on 127.0.0.1:{server.port}: Address already in use"):
            await front(port=server.port).start()


async def test_a_host_that_is_not_ours_is_said_so() -> None:
    # 198.51.100.0/24 is for documentation: no machine has it.
    with pytest.raises(ConfigError, match=r"cannot listen on 198.51.100.1:0: Cannot assign requested address"):
        await GrpcFront(
            Routes(), Gatekeeper(AccessSettings(insecure=True)), GrpcSettings(host="198.51.100.1", port=0)
        ).start()


async def test_beyond_loopback_it_does_not_start_unless_told() -> None:
    with pytest.raises(ConfigError, match="beyond loopback"):
        await front(host="0.0.0.0").start()
    async with serving(host="0.0.0.0", access=AccessSettings(insecure=True)) as server:
        assert (await server.call("ServerLive")).live


async def test_the_unix_socket_serves_its_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    mask = os.umask(0)  # the most generous one
    try:
        async with serving(uds=str(path)) as server:
            assert os.umask(0) == 0, "the mask is as it was"
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            async with grpc.aio.insecure_channel(f"unix:{path}", options=OWN_CONNECTION) as channel:
                assert (await call(channel, "ServerLive")).live
            assert (await server.call("ServerLive")).live
    finally:
        os.umask(mask)
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    async with (
        serving(uds=str(path)),
        grpc.aio.insecure_channel(f"unix:{path}", options=OWN_CONNECTION) as channel,
    ):
        assert (await call(channel, "ServerLive")).live


async def test_a_socket_in_use_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    async with serving(uds=str(path)):
        with pytest.raises(ConfigError, match="in use by another server"):
            await front(uds=str(path)).start()
        async with grpc.aio.insecure_channel(f"unix:{path}", options=OWN_CONNECTION) as channel:
            assert (await call(channel, "ServerLive")).live


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError, match="is no socket"):
        await front(uds=str(path)).start()
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "complaint"), [("x" * 108, "exceeds 107"), ("missing/s.sock", "No such file or directory")]
)
async def test_a_socket_that_cannot_be_is_said_so(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        await front(uds=str(tmp_path / name)).start()


async def test_starting_after_a_failure_works(tmp_path: Path) -> None:
    path = tmp_path / "spillway.sock"
    path.write_text("")
    failing = front(uds=str(path))
    with pytest.raises(ConfigError):
        await failing.start()
    await failing.stop(0)
    path.unlink()
    assert await failing.start() > 0
    await failing.stop(0)
    await failing.stop(0)
