"""What strangers send: nothing here may crash, hang or leak, and others are served meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transport.http_harness import App, FakeEngine, request_json, serving, until

INFER = b"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n"


@asynccontextmanager
async def raw(app: App) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", app.port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def exchange(app: App, sent: bytes) -> bytes:
    """What comes back for `sent` until the server closes or 5 s pass; the connection is half-closed by nobody."""
    async with raw(app) as (reader, writer):
        writer.write(sent)
        return await asyncio.wait_for(reader.read(-1), 5)


def status_of(reply: bytes) -> int:
    return int(reply.split(b" ", 2)[1])


async def assert_serves(app: App) -> None:
    assert (await app.post("/v2/models/m/infer", request_json([1], [1])))[0] == 200


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # a TLS hello
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        INFER + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
        INFER + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\nX\x00Y: 1\r\n\r\n",
        b"GET /v2 HTTP/1.1\r\n" + b"X: y\r\n" * 65 + b"\r\n",
        b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n",
    ],
)
async def test_malformed_heads_are_refused_and_the_connection_ends(
    sent: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving() as app:
        reply = await exchange(app, sent)
        assert status_of(reply) == 400
        await assert_serves(app)
    assert app.engine.seen[0].head.model_name == "m"
    assert "Traceback" not in caplog.text


async def test_head_that_never_ends_is_cut() -> None:
    async with serving(head_timeout_s=0.04) as app:
        async with raw(app) as (reader, writer):
            writer.write(b"GET /v2 HTTP/1.1\r\nX: ")
            assert await asyncio.wait_for(reader.read(-1), 5) == b""
        async with raw(app) as (reader, _):
            assert await asyncio.wait_for(reader.read(-1), 5) == b""  # not a byte either
        await assert_serves(app)
        assert app.front._http._silent == {}


async def test_silence_after_a_request_is_cut() -> None:
    async with serving(idle_timeout_s=0.04) as app, raw(app) as (reader, writer):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /slow")
        assert (await asyncio.wait_for(reader.read(-1), 5)).startswith(b"HTTP/1.1 200")


async def test_body_that_never_ends_is_cut() -> None:
    async with serving(body_timeout_s=0.04) as app, raw(app) as (reader, writer):
        writer.write(INFER + b"Content-Length: 100\r\n\r\n{")
        assert b" 408 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
        await assert_serves(app)


async def test_content_length_beyond_the_limit_is_refused_before_the_body() -> None:
    async with serving() as app, raw(app) as (reader, writer):
        writer.write(INFER + b"Content-Length: 9999999999999\r\n\r\n")
        assert b" 413 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)


async def test_body_shorter_than_it_said_never_reaches_the_engine() -> None:
    async with serving() as app:
        async with raw(app) as (_, writer):
            writer.write(INFER + b"Content-Length: 100\r\n\r\n" + b"{}")
            await writer.drain()
            await until(lambda: app.front._http._active)
        await until(lambda: not app.front._http._active)
        await assert_serves(app)
        assert len(app.engine.seen) == 1


async def test_what_follows_a_body_is_the_next_request() -> None:
    async with serving() as app, raw(app) as (reader, writer):
        writer.write(INFER + b"Content-Length: 2\r\n\r\n{}")
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        replies = await asyncio.wait_for(reader.read(-1), 5)
    assert replies.count(b"HTTP/1.1 400") == 1
    assert replies.count(b"HTTP/1.1 200") == 1


async def test_tiny_chunks_leave_others_their_turns() -> None:
    """A body of 40,000 one-byte chunks: many turns of the loop pass until it is read."""
    chunks = 40_000
    turns = 0
    engine = FakeEngine()
    async with serving(engine) as app, raw(app) as (reader, writer):
        writer.write(INFER + b"Inference-Header-Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(b"1\r\nx\r\n" * chunks + b"0\r\n\r\n")
        reply = asyncio.ensure_future(reader.readuntil(b"\r\n"))
        while not reply.done():
            turns += 1
            await asyncio.sleep(0)
        assert b" 400 " in reply.result()
    assert turns > chunks / 2048
    assert engine.seen == []


async def test_connections_beyond_the_limit_are_closed() -> None:
    async with serving(max_connections=2) as app:
        async with raw(app) as (first, one), raw(app) as (_, two), raw(app) as (third, _):
            assert await asyncio.wait_for(third.read(-1), 5) == b""
            one.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert (await asyncio.wait_for(first.read(-1), 5)).startswith(b"HTTP/1.1 200")
            two.close()
        await until(lambda: not app.front._http._runner.server.connections)  # type: ignore[union-attr]
        await assert_serves(app)


async def test_many_silent_connections_do_not_disturb() -> None:
    async with serving() as app:
        idle = [await asyncio.open_connection("127.0.0.1", app.port) for _ in range(50)]
        await assert_serves(app)
        for _, writer in idle:
            writer.close()


async def test_expect_continue_is_answered() -> None:
    async with serving() as app, raw(app) as (reader, writer):
        writer.write(INFER + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert b" 100 " in await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
        writer.write(b"{}")
        assert b" 400 " in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)


@pytest.mark.slow  # a server for each example
@settings(max_examples=40, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=3))
async def test_no_bytes_bring_it_down(pieces: list[bytes]) -> None:
    async with serving() as app:
        async with raw(app) as (_, writer):
            for piece in pieces:
                writer.write(piece)
        await assert_serves(app)
