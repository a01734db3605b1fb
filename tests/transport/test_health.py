import asyncio
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runtime.repository.index import IndexEntry
from runtime.wire.pool import SERVICE
from tests.fakes.manager import FakeManager, served_model
from tests.transport.grpc_harness import Server, serving, status_of

SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3


def stub(server: Server) -> Any:
    return health_pb2_grpc.HealthStub(server.channel)


async def check(server: Server, service: str = "") -> int:
    answer = await stub(server).Check(health_pb2.HealthCheckRequest(service=service))
    return int(answer.status)


@pytest.mark.parametrize("service", ["", SERVICE])
async def test_the_server_is_as_ready_as_the_daemon_says(service: str) -> None:
    async with serving() as server:
        assert await check(server, service) == SERVING
        server.readiness.ready = False
        assert await check(server, service) == NOT_SERVING


async def test_each_model_has_its_own_health() -> None:
    manager = FakeManager(others=[IndexEntry("loading", 1, "LOADING"), IndexEntry("broken", 2, "FAILED", "x")])
    async with serving(manager=manager) as server:
        assert await check(server, "digits") == SERVING
        assert await check(server, "loading") == NOT_SERVING
        assert await check(server, "broken") == NOT_SERVING
        rpc = stub(server).Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert (await status_of(rpc))[0] == "NOT_FOUND"


async def test_watch_tells_of_each_change() -> None:
    manager = FakeManager(models=[])
    async with serving(manager=manager, poll_s=0.001) as server:
        watch = stub(server).Watch(health_pb2.HealthCheckRequest(service="digits"))
        seen = [(await watch.read()).status]
        for models, others in (
            ([], [IndexEntry("digits", 1, "LOADING")]),
            ([served_model()], []),
            ([], [IndexEntry("digits", 1, "UNLOADING")]),
        ):
            manager.models, manager.others = models, others
            seen.append((await watch.read()).status)
        assert seen == [UNKNOWN, NOT_SERVING, SERVING, NOT_SERVING]
        watch.cancel()


async def test_watch_is_silent_while_nothing_changes() -> None:
    async with serving(poll_s=0.001) as server:
        watch = stub(server).Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await watch.read()


async def test_a_watch_without_a_question_ends() -> None:
    async with serving() as server:
        stream = server.stream("/grpc.health.v1.Health/Watch")
        await stream.done_writing()
        assert await stream.read() is grpc.aio.EOF
