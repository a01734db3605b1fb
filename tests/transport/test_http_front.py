import asyncio
import socket
from typing import Any

import aiohttp
import pytest

from runtime.core.errors import ConfigError
from runtime.transport.settings import AccessSettings
from tests.transport.http_harness import App, FakeEngine, request_json, serving, until

INFER = "/v2/models/m/infer"


async def test_port_zero_is_chosen_by_the_system_and_metrics_have_their_own() -> None:
    async with serving(scrape=lambda: b"spillway_up 1\n") as app:
        assert app.port != app.metrics_port
        for port in (app.port, app.metrics_port):
            async with app.session.get(f"http://127.0.0.1:{port}/metrics") as reply:
                assert reply.status == 200
                assert reply.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert await reply.read() == b"spillway_up 1\n"
        async with app.session.get(f"http://127.0.0.1:{app.metrics_port}/healthz") as reply:
            assert reply.status == 200
        async with app.session.get(f"http://127.0.0.1:{app.metrics_port}/v2") as reply:
            assert reply.status == 404


@pytest.mark.parametrize("which", ["port", "metrics_port"])
async def test_a_port_in_use_is_a_config_error_and_leaves_nothing_open(which: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        same: dict[str, Any] = {which: port}
        with pytest.raises(ConfigError, match=rf"cannot listen for HTTP on 127.0.0.1:{port}: Address already in use"):
            async with serving(**same):
                pass


async def test_an_address_of_another_machine_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match=r"cannot listen for HTTP on 203\.0\.113\.1:0: Cannot assign"):
        async with serving(access=AccessSettings(insecure=True), host="203.0.113.1"):
            pass


@pytest.mark.parametrize("which", ["host", "metrics_host"])
async def test_beyond_loopback_only_when_told(which: str) -> None:
    wide: dict[str, Any] = {which: "0.0.0.0"}
    with pytest.raises(ConfigError, match="beyond loopback"):
        async with serving(**wide):
            pass
    async with serving(access=AccessSettings(insecure=True), **wide) as app:
        assert (await app.get("/healthz"))[0] == 200


async def test_stop_lets_requests_in_flight_end() -> None:
    engine = FakeEngine(hold=asyncio.Event())
    async with serving(engine) as app:
        asking = asyncio.create_task(app.post(INFER, request_json([1], [1])))
        await engine.arrived.wait()
        stopping = asyncio.create_task(app.front.stop(10))
        await refuses_connections(app)
        assert not stopping.done()
        assert engine.hold is not None
        engine.hold.set()
        status, said = await asking
        assert (status, said["outputs"][0]["data"]) == (200, [1.0])
        await asyncio.wait_for(stopping, 5)


async def refuses_connections(app: App) -> None:
    """Wait until the listening socket is closed, and see that it is."""
    await until(lambda: app.front._http._server is None)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", app.port)


async def test_answers_while_stopping_end_their_connection() -> None:
    engine = FakeEngine(hold=asyncio.Event())
    async with serving(engine) as app:
        held = asyncio.create_task(ask_for_close(app))
        await engine.arrived.wait()
        stopping = asyncio.create_task(app.front.stop(10))
        await asyncio.sleep(0)
        assert engine.hold is not None
        engine.hold.set()
        assert await held == "close"
        await stopping


async def ask_for_close(app: App) -> Any:
    async with app.session.post(app.url + INFER, json=request_json([1], [1])) as reply:
        return reply.headers.get("Connection")


async def test_stop_cuts_what_takes_longer(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(hold=asyncio.Event())
    async with serving(engine) as app:
        asking = asyncio.create_task(app.post(INFER, request_json([1], [1])))
        await engine.arrived.wait()
        await asyncio.wait_for(app.front.stop(0.01), 10)
        with pytest.raises(aiohttp.ClientError):
            await asking
    assert engine.cancelled.is_set()
    assert "requests cut at stop" in caplog.text


async def test_stop_twice_and_without_start() -> None:
    async with serving() as app:
        await app.front.stop(0)
        await app.front.stop(0)
