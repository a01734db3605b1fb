"""Bodies of HTTP requests, received within limits: bytes, seconds, and memory held by all of them together.

Rules
- A limit is on the body after decompression, and what is compressed may not be larger either.
- A body that says it is too long is refused before a byte of it is read.
- Whoever reads a body holds its bytes until the `async with` ends; the sum of what is held has a limit.
"""

import asyncio
import zlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web

from runtime.core.errors import Overloaded
from runtime.transport.http_reply import HttpRefusal
from runtime.transport.http_settings import HttpSettings

_WINDOW = {"gzip": 31, "deflate": 15}
"""zlib's window bits by content coding; HTTP's `deflate` has the zlib header (RFC 9110, section 8.4.1.2)."""


class BodyReader:
    """Reads bodies and knows how much memory they hold. Event loop only."""

    def __init__(self, settings: HttpSettings) -> None:
        self._max_held = settings.max_held_bytes
        self._timeout_s = settings.body_timeout_s
        self.held_bytes = 0

    @asynccontextmanager
    async def body(self, request: web.Request, limit: int) -> AsyncIterator[memoryview]:
        """The whole body of `request`, decompressed; no larger than `limit` bytes.

        Raises:
            HttpRefusal: too large, too slow, or a content coding that is unknown or broken.
            Overloaded: all bodies together would hold more memory than the settings allow.
        """
        lease = _Lease(self)
        try:
            received = await self._receive(request, limit, lease)
            coding = request.headers.get("Content-Encoding", "identity").strip().lower()
            if coding != "identity":
                lease.add(limit)
                # In a thread: zlib releases the interpreter lock, and a bomb of the allowed size takes its time.
                received = await asyncio.to_thread(_inflate, received, coding, limit)
                lease.add(len(received) - limit)
            yield memoryview(received)
        finally:
            lease.end()

    def hold(self, count: int) -> None:
        """Count `count` more bytes as held.

        Raises:
            Overloaded: they do not fit.
        """
        if self.held_bytes + count > self._max_held:
            raise Overloaded(f"request bodies already hold {self.held_bytes} of {self._max_held} bytes", 1.0)
        self.held_bytes += count

    async def _receive(self, request: web.Request, limit: int, lease: "_Lease") -> bytes | bytearray:
        length = request.content_length
        if length is not None and length > limit:
            raise HttpRefusal(413, f"request body of {length} bytes exceeds the limit of {limit}")
        received = bytearray()
        try:
            async with asyncio.timeout(self._timeout_s):
                while chunk := await request.content.readany():
                    if len(received) + len(chunk) > limit:
                        raise HttpRefusal(413, f"request body exceeds the limit of {limit} bytes")
                    if length is not None and len(chunk) == length:
                        lease.add(length)
                        return chunk  # the usual small body came in one piece: no copy
                    lease.add(len(chunk))
                    received += chunk
                    await asyncio.sleep(0)  # a body of tiny chunks is much work: others have a turn first
        except TimeoutError:
            raise HttpRefusal(408, f"request body did not arrive within {self._timeout_s} s") from None
        return received


class _Lease:
    """The bytes that one request holds."""

    def __init__(self, reader: BodyReader) -> None:
        self._reader = reader
        self._count = 0

    def add(self, count: int) -> None:
        self._reader.hold(count)
        self._count += count

    def end(self) -> None:
        self._reader.held_bytes -= self._count
        self._count = 0


def _inflate(data: bytes | bytearray, coding: str, limit: int) -> bytes:
    """Undo one content coding; never makes more than `limit` + 1 bytes."""
    window = _WINDOW.get(coding)
    if window is None:
        raise HttpRefusal(415, f"content encoding '{coding[:32]}' is not supported, use gzip or deflate")
    inflater = zlib.decompressobj(window)
    try:
        plain = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise HttpRefusal(400, f"request body is not valid {coding}: {error}") from error
    if len(plain) > limit:
        raise HttpRefusal(413, f"request body exceeds the limit of {limit} bytes after decompression")
    if not inflater.eof:
        raise HttpRefusal(400, f"request body ends inside its {coding} stream")
    if inflater.unused_data:
        raise HttpRefusal(400, f"{len(inflater.unused_data)} bytes follow the {coding} stream of the request body")
    return plain
