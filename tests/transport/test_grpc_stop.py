import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from runtime.core.inference import InferRequest, InferResult
from runtime.transport.health import WATCH
from runtime.transport.services import STREAM_INFER
from runtime.wire.pb import inference_pb2 as pb
from tests.fakes.engine import FakeEngine, echo
from tests.transport.grpc_harness import OWN_CONNECTION, Server, call, infer_request, rows_of, serving, status_of

REFUSED = ("UNAVAILABLE", "server is stopping, new requests are not accepted")


def stream_request(row: float) -> bytes:
    return infer_request(row, request_id=str(row)).SerializeToString()


async def begin_stop(server: Server, grace_s: float = 10) -> "asyncio.Task[None]":
    stopping = asyncio.create_task(server.front.stop(grace_s))
    await asyncio.sleep(0)
    return stopping


async def test_what_is_in_flight_finishes_and_what_is_new_is_refused() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine, drain_settle_s=0.05) as server:
        early = [asyncio.create_task(server.call("ModelInfer", infer_request(float(n)))) for n in range(20)]
        await engine.holds(20)
        stopping = await begin_stop(server)
        late = [
            asyncio.create_task(server.status("ModelInfer", infer_request(1.0))),
            asyncio.create_task(server.status("ServerLive")),
            asyncio.create_task(status_of(server.stream(STREAM_INFER).read())),
        ]
        engine.answer_all()
        assert [rows_of(answer) for answer in await asyncio.gather(*early)] == [[float(n)] for n in range(20)]
        assert await asyncio.gather(*late) == [REFUSED] * 3
        await stopping

        assert len(engine.seen) == 20
        assert (await server.status("ServerLive", timeout=1))[0] == "UNAVAILABLE"


async def test_the_grace_is_a_limit(caplog: pytest.LogCaptureFixture) -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server:
        stuck = asyncio.create_task(server.status("ModelInfer", infer_request(1.0)))
        await engine.holds(1)
        async with asyncio.timeout(5):
            await server.front.stop(0.05)

        assert (await stuck)[0] in ("CANCELLED", "UNAVAILABLE")
        assert engine.cancelled == 1


async def ask(numbers: Iterator[int], channels: list[grpc.aio.Channel], answers: Counter[float]) -> None:
    """Ask for one number after the other; when a server refuses, ask the next one from then on."""
    for number in numbers:
        while True:
            asked = channels[0]
            try:
                answer = await call(asked, "ModelInfer", infer_request(float(number)))
                break
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    raise
                if asked is channels[0]:
                    channels.pop(0)
        answers[rows_of(answer)[0]] += 1


async def test_nothing_is_lost_while_clients_move_to_another_server() -> None:
    """Clients that ask again as soon as they are answered: some of them always race with the stop."""
    total = 1500
    third = asyncio.Event()

    def answer(request: InferRequest) -> InferResult:
        if len(old.engine.seen) >= total // 3:
            third.set()
        return echo(request)

    async with AsyncExitStack() as stack:
        old = await stack.enter_async_context(serving(FakeEngine(answer), drain_settle_s=0.05))
        new = await stack.enter_async_context(serving())
        numbers, answers = iter(range(total)), Counter[float]()
        asking = []
        for _ in range(4):
            pair = [grpc.aio.insecure_channel(server.address, options=OWN_CONNECTION) for server in (old, new)]
            for channel in pair:
                await stack.enter_async_context(channel)
            asking += [asyncio.create_task(ask(numbers, list(pair), answers)) for _ in range(8)]
        await third.wait()
        await old.front.stop(10)
        await asyncio.gather(*asking)

    assert answers == Counter({float(number): 1 for number in range(total)})
    assert len(old.engine.seen) + len(new.engine.seen) == total, "each request ran once"
    assert new.engine.seen


async def test_callers_that_wait_for_no_answer_lose_nothing_if_they_can_go_elsewhere() -> None:
    async with serving(drain_settle_s=0.05) as old, serving() as new:
        answers, asking = Counter[float](), []
        async with grpc.aio.insecure_channel(new.address, options=OWN_CONNECTION) as other:
            channels = [old.channel, other]
            stopping = None
            for number in range(400):
                asking.append(asyncio.create_task(ask(iter((number,)), channels, answers)))
                await asyncio.sleep(0.0005)
                if number == 200:
                    stopping = asyncio.create_task(old.front.stop(10))
            await asyncio.gather(*asking)
            assert stopping is not None
            await stopping

    assert answers == Counter({float(number): 1 for number in range(400)})
    assert len(old.engine.seen) + len(new.engine.seen) == 400


async def test_streams_are_answered_then_closed() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server:
        stream, idle = server.stream(STREAM_INFER), server.stream(STREAM_INFER)
        for row in (1.0, 2.0, 3.0):
            await stream.write(stream_request(row))
        await idle.write(stream_request(9.0))
        await engine.holds(4)
        stopping = await begin_stop(server)
        engine.answer_all()

        answers = [pb.ModelStreamInferResponse.FromString(await stream.read()) for _ in range(3)]
        assert [rows_of(answer.infer_response) for answer in answers] == [[1.0], [2.0], [3.0]]
        assert await status_of(stream.read()) == REFUSED
        assert pb.ModelStreamInferResponse.FromString(await idle.read()).infer_response.id == "9.0"
        assert await status_of(idle.read()) == REFUSED
        await stopping


async def test_a_stream_that_ended_by_itself_ends_well() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server:
        stream = server.stream(STREAM_INFER)
        await stream.write(stream_request(1.0))
        await stream.done_writing()
        await engine.holds(1)
        await server.call("ServerLive")  # what was sent before on this connection has arrived
        stopping = await begin_stop(server)
        engine.answer_all()

        assert [len(answer) > 0 async for answer in stream] == [True]
        assert await stream.code() is grpc.StatusCode.OK
        await stopping


async def test_watchers_do_not_hold_a_stop_up() -> None:
    async with serving() as server:
        watch = server.stream(WATCH)
        await watch.write(b"")
        await watch.done_writing()
        assert await watch.read() == b"\x08\x01"
        async with asyncio.timeout(5):
            await server.front.stop(60)

        assert await status_of(watch.read()) == REFUSED


async def test_a_caller_that_leaves_during_a_stop_takes_nobody_along() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine, drain_settle_s=0.2) as server:
        leaving = asyncio.create_task(server.call("ModelInfer", infer_request(1.0)))
        staying = asyncio.create_task(server.call("ModelInfer", infer_request(2.0)))
        await engine.holds(2)
        stopping = await begin_stop(server)
        engine.answer_all()  # both answers are held back for now
        await asyncio.sleep(0.01)
        leaving.cancel()

        assert rows_of(await staying) == [2.0]
        await stopping


async def test_the_unix_socket_is_gone_after_a_stop(tmp_path: Path) -> None:
    path = tmp_path / "s.sock"
    async with serving(uds=str(path)) as server:
        await server.front.stop(1)
        assert not path.exists()


async def test_stop_before_start_and_twice() -> None:
    async with serving() as server:
        stops: list[Any] = [server.front.stop(0), server.front.stop(0)]
        await asyncio.gather(*stops)
