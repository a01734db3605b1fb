import asyncio
import gc
import gzip
import math
import struct
import time
import weakref
from typing import Any

import grpc
import pytest

from runtime.core.errors import Overloaded, SpillwayError
from runtime.core.inference import InferRequest, InferResult
from runtime.transport.call import Call, StreamCall, UnaryCall
from runtime.transport.reflection import REFLECTION
from runtime.transport.routes import Routes
from runtime.wire.convert import RequestDecoder
from runtime.wire.pool import SERVICE
from tests.fakes.engine import FakeEngine, echo
from tests.transport.grpc_harness import infer_request, rows_of, serving, status_of

INFER = f"/{SERVICE}/ModelInfer"
LOAD = f"/{SERVICE}/RepositoryModelLoad"
LIVE = f"/{SERVICE}/ServerLive"
STREAM = f"/{SERVICE}/ModelStreamInfer"


async def test_a_request_is_answered_with_its_id_and_version() -> None:
    async with serving() as server:
        answer = await server.call("ModelInfer", infer_request(1.5, 2.5, request_id="seven"))

    assert rows_of(answer) == [1.5, 2.5]
    assert (answer.id, answer.model_name, answer.model_version) == ("seven", "digits", "1")
    assert list(answer.outputs[0].shape) == [1, 2]


async def test_parts_of_an_answer_are_joined() -> None:
    def handler(message: bytes, call: UnaryCall) -> None:
        call.send((message[:2], memoryview(message)[2:], b"!"))

    async with serving(routes=Routes(callbacks={INFER: handler})) as server:
        assert await server.unary(INFER)(b"hello") == b"hello!"


async def test_an_answer_may_come_later() -> None:
    def handler(message: bytes, call: UnaryCall) -> None:
        asyncio.get_running_loop().call_soon(call.send, (message,))

    async with serving(routes=Routes(callbacks={INFER: handler})) as server:
        assert await server.unary(INFER)(b"later") == b"later"


async def test_many_calls_at_once_get_their_own_answers() -> None:
    async with serving() as server:
        answers = await asyncio.gather(
            *(server.call("ModelInfer", infer_request(float(n), request_id=str(n))) for n in range(200))
        )

    assert [(rows_of(answer), answer.id) for answer in answers] == [([float(n)], str(n)) for n in range(200)]


async def test_unknown_methods_are_unimplemented() -> None:
    async with serving() as server:
        for path in ("/inference.GRPCInferenceService/Nothing", "/x/y", INFER + "/", INFER.lower(), "//"):
            code, _ = await status_of(server.unary(path)(b""))
            assert code == "UNIMPLEMENTED", path


async def test_a_bug_tells_the_caller_nothing_and_the_log_everything(caplog: pytest.LogCaptureFixture) -> None:
    def answer(request: InferRequest) -> InferResult:
        return "no result"  # type: ignore[return-value]

    def callback(message: bytes, call: UnaryCall) -> None:
        raise ZeroDivisionError("secret")

    async def coroutine(message: bytes, call: Call) -> bytes:
        raise KeyError("secret")

    async def stream(call: StreamCall) -> None:
        raise TypeError("secret")

    routes = Routes(callbacks={INFER: callback}, coroutines={LIVE: coroutine}, streams={STREAM: stream})
    async with serving(routes=routes) as server:
        for rpc in (server.unary(INFER)(b""), server.unary(LIVE)(b""), server.stream(STREAM).read()):
            assert await status_of(rpc) == ("INTERNAL", "internal error")
    logged = {record.exc_info[0] for record in caplog.records if record.exc_info}
    assert logged == {ZeroDivisionError, KeyError, TypeError}

    async with serving(FakeEngine(answer)) as server:
        assert await server.status("ModelInfer", infer_request(1.0)) == ("INTERNAL", "internal error")


async def test_a_caller_that_goes_away_cancels_its_request() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server:
        rpc = asyncio.create_task(server.call("ModelInfer", infer_request(1.0)))
        await engine.holds(1)
        rpc.cancel()
        await engine.holds(0)

        assert engine.cancelled == 1
        engine.holding = False
        assert rows_of(await server.call("ModelInfer", infer_request(2.0))) == [2.0]


async def test_nothing_keeps_an_answered_request_alive() -> None:
    """Its buffers are the received message: a cycle would keep them until the collector comes by."""
    traces: list[weakref.ref[object]] = []

    def answer(request: InferRequest) -> InferResult:
        request.release = lambda: None  # a function that only this request holds
        traces.append(weakref.ref(request.release))
        return echo(request)

    gc.disable()
    try:
        async with serving(FakeEngine(answer)) as server:
            for _ in range(3):
                await server.call("ModelInfer", infer_request(1.0))
                server.engine.seen.clear()
            assert [trace() is None for trace in traces[:2]] == [True, True]
    finally:
        gc.enable()


async def test_a_deadline_reaches_the_request_and_cancels_it() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server:
        began = time.monotonic()
        code, _ = await server.status("ModelInfer", infer_request(1.0), timeout=0.05)
        await engine.holds(0)

        assert code == "DEADLINE_EXCEEDED"
        assert engine.cancelled == 1
        assert 0 < engine.seen[0].deadline - began < 0.5


async def test_without_a_deadline_there_is_none() -> None:
    async with serving() as server:
        await server.call("ModelInfer", infer_request(1.0), timeout=None)

        assert server.engine.seen[0].deadline == math.inf


async def test_handlers_see_peer_and_metadata() -> None:
    calls: list[tuple[str, str | None, bool]] = []

    def handler(message: bytes, call: UnaryCall) -> None:
        calls.append((call.peer, call.metadata.get("x-tenant"), "x-bin" in call.metadata))
        call.send(())

    async with serving(routes=Routes(callbacks={INFER: handler})) as server:
        await server.unary(INFER)(b"", metadata=(("x-tenant", "a"), ("x-bin", b"\x00")))

    assert calls[0][0].startswith("ipv4:127.0.0.1:")
    assert calls[0][1:] == ("a", False)


async def test_overload_tells_when_to_come_back() -> None:
    def refuse(_: InferRequest) -> SpillwayError:
        return Overloaded("full, limit 3", retry_after_s=0.0251)

    async with serving(FakeEngine(refuse)) as server:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await server.call("ModelInfer", infer_request(1.0))

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.value.details() == "full, limit 3"
    assert dict(failure.value.trailing_metadata() or ()) == {"grpc-retry-pushback-ms": "26"}


async def test_messages_beyond_a_limit_are_refused_and_the_connection_lives() -> None:
    async with serving(max_message_bytes=100_000, max_load_bytes=50_000, max_control_bytes=1000) as server:
        for path, limit in ((INFER, 100_000), (LOAD, 50_000), (LIVE, 1000)):
            # These are no messages of any kind, so what passes the limit is told so.
            code, _ = await status_of(server.unary(path)(b"\xff" * limit))
            assert code == "INVALID_ARGUMENT", path
            code, _ = await status_of(server.unary(path)(b"\xff" * (limit + 1)))
            assert code == "RESOURCE_EXHAUSTED", path
        assert (await server.call("ServerLive")).live


async def test_messages_in_a_stream_have_the_limit_of_their_method() -> None:
    async with serving(max_control_bytes=1000) as server:
        stream = server.stream(REFLECTION)
        await stream.write(b"x" * 1001)

        code, details = await status_of(stream.read())
        assert code == "RESOURCE_EXHAUSTED"
        assert "1001 bytes" in details


async def test_the_limit_counts_after_decompression() -> None:
    async with serving(max_message_bytes=1_000_000, max_load_bytes=1_000_000) as server:
        channel: Any = grpc.aio.insecure_channel(server.address, compression=grpc.Compression.Gzip)
        async with channel:
            bomb = bytes(5_000_000)
            assert len(gzip.compress(bomb)) < 10_000
            assert (await status_of(channel.unary_unary(INFER)(bomb)))[0] == "RESOURCE_EXHAUSTED"
        assert (await server.call("ServerLive")).live


@pytest.mark.parametrize("size", [12_000, 40_000])
async def test_a_header_bomb_is_refused_every_time(size: int) -> None:
    async with serving(max_metadata_bytes=8192) as server:
        for _ in range(3):
            code, _ = await server.status("ServerLive", metadata=(("x-bomb", "a" * size),))
            assert code == "RESOURCE_EXHAUSTED"
        assert (await server.call("ServerLive")).live


async def test_garbage_on_the_socket_harms_nobody() -> None:
    settings_frame = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    async with serving() as server:
        for data in (
            b"GET / HTTP/1.1\r\n\r\n",
            bytes(range(256)) * 8,
            preface[:10],
            preface + b"\xff" * 64,
            preface + settings_frame + struct.pack(">I", 2**24 - 1)[1:] + b"\x01\x04\x00\x00\x00\x01" + b"\xff" * 99,
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(data)
            writer.write_eof()
            await reader.read()  # the server closes: this ends
            writer.close()
        assert rows_of(await server.call("ModelInfer", infer_request(3.0))) == [3.0]


async def test_silent_connections_are_closed_and_disturb_nobody() -> None:
    async with serving(handshake_timeout_s=0.1) as server:
        silent = [await asyncio.open_connection("127.0.0.1", server.port) for _ in range(50)]
        assert rows_of(await server.call("ModelInfer", infer_request(3.0))) == [3.0]
        for reader, writer in silent:
            async with asyncio.timeout(5):
                await reader.read()  # b"": closed by the server
            writer.close()


async def test_too_many_calls_at_once_are_refused() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine, max_concurrent_calls=2) as server:
        waiting = [asyncio.create_task(server.call("ModelInfer", infer_request(1.0))) for _ in range(2)]
        await engine.holds(2)

        assert (await server.status("ModelInfer", infer_request(1.0)))[0] == "RESOURCE_EXHAUSTED"
        engine.answer_all()
        await asyncio.gather(*waiting)


async def test_an_old_connection_is_replaced_and_its_calls_finish() -> None:
    engine = FakeEngine(holding=True)
    peers: set[str] = set()

    async def live(message: bytes, call: Call) -> bytes:
        peers.add(call.peer)
        return b""

    def infer(message: bytes, call: UnaryCall) -> None:
        engine.submit(RequestDecoder().decode(message), lambda _: call.send((b"late",)))

    routes = Routes(callbacks={INFER: infer}, coroutines={LIVE: live})
    async with serving(routes=routes, connection_age_s=0.05) as server:
        old = server.unary(INFER)(infer_request(1.0).SerializeToString())
        await engine.holds(1)
        async with asyncio.timeout(10):
            while len(peers) < 3:  # every connection is asked to go after 50 ms; no call fails for that
                await server.call("ServerLive")
        engine.answer_all()
        assert await old == b"late"


async def test_a_ping_flood_is_told_to_calm_down() -> None:
    frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    ping = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00" + bytes(8)
    async with serving() as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(frames + ping * 50)
        async with asyncio.timeout(5):
            received = await reader.read()
        writer.close()

    assert b"too_many_pings" in received
