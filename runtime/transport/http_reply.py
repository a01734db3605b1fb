"""Answers of the HTTP front: JSON, errors with their status, and large bodies written without joining them.

Rules
- The status of an error comes from `wire/status.py` by way of one table here; HTTP has no list of errors of its own.
- An error's body is `{"error": text}`, as Triton's. The text of what is not our own error stays in the log.
- An answer is compressed only where `Accept-Encoding` names exactly one coding that we have: that is a wish. A list of
  what the client's library could read is none, and compressing tensors costs more than a local network.
"""

import asyncio
import logging
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import grpc
import msgspec
from aiohttp import web

from runtime.core.errors import Overloaded
from runtime.core.tensor import Buffer
from runtime.wire.status import status_of

log = logging.getLogger(__name__)

HTTP_STATUS: Final[dict[grpc.StatusCode, int]] = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.UNKNOWN: 500,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ALREADY_EXISTS: 409,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.FAILED_PRECONDITION: 400,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.OUT_OF_RANGE: 400,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DATA_LOSS: 500,
    grpc.StatusCode.UNAUTHENTICATED: 401,
}

JSON_TYPE = "application/json"
BINARY_TYPE = "application/octet-stream"
HEADER_LENGTH = "Inference-Header-Content-Length"

_JOIN_BYTES = 64 * 1024
"""Up to this size one joined write is cheaper than several; it also fits the socket's buffer, so it never waits."""
_COMPRESS_FROM_BYTES = 1024
_MAX_RETRY_AFTER_S = 3600
_WINDOW = {"gzip": 31, "deflate": 15}


class HttpRefusal(Exception):
    """A request that HTTP itself refuses, before there is an inference to speak of."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


def json_reply(value: Any, status: int = 200) -> web.Response:
    """Answer with `value` as JSON."""
    return web.Response(body=msgspec.json.encode(value), status=status, content_type=JSON_TYPE)


def error_reply(error: Exception) -> web.Response:
    """Answer with the status and the text of `error`; a busy server says when to come back."""
    if isinstance(error, HttpRefusal):
        return json_reply({"error": str(error)}, error.status)
    code, text = status_of(error)
    reply = json_reply({"error": text}, HTTP_STATUS[code])
    if isinstance(error, Overloaded):
        reply.headers["Retry-After"] = str(math.ceil(min(max(error.retry_after_s, 1), _MAX_RETRY_AFTER_S)))
    return reply


async def tensor_reply(
    request: web.Request, head: bytes, parts: Sequence[Buffer], timeout_s: float
) -> web.StreamResponse:
    """Answer with the JSON object `head` and the binary tensor data `parts` behind it.

    A client that does not take a large answer within `timeout_s` loses its connection.
    """
    headers = {"Content-Type": BINARY_TYPE, HEADER_LENGTH: str(len(head))} if parts else {"Content-Type": JSON_TYPE}
    chunks: list[Buffer] = [head, *parts]
    size = sum(map(len, chunks))
    coding = _wished_coding(request.headers)
    if coding is not None and size >= _COMPRESS_FROM_BYTES:
        chunks = await asyncio.to_thread(_deflate, chunks, coding)
        size = sum(map(len, chunks))
        headers["Content-Encoding"] = coding
    if size <= _JOIN_BYTES:
        return web.Response(body=b"".join(chunks), headers=headers)
    return await _write(request, chunks, size, headers, timeout_s)


async def _write(
    request: web.Request, chunks: Sequence[Buffer], size: int, headers: Mapping[str, str], timeout_s: float
) -> web.StreamResponse:
    response = web.StreamResponse(headers=headers)
    response.content_length = size
    try:
        async with asyncio.timeout(timeout_s):
            await response.prepare(request)
            for chunk in chunks:
                await response.write(chunk)
            await response.write_eof()
    except (TimeoutError, ConnectionError) as error:
        log.debug("answer not taken", extra={"bytes": size, "error": repr(error)})
        if request.transport is not None:
            request.transport.abort()  # closing would wait for the buffer that the client does not take
    return response


def _wished_coding(headers: Mapping[str, str]) -> str | None:
    accepted = headers.get("Accept-Encoding", "").strip().lower()
    return accepted if accepted in _WINDOW else None


def _deflate(chunks: Sequence[Buffer], coding: str) -> list[Buffer]:
    deflater = zlib.compressobj(level=1, wbits=_WINDOW[coding])
    return [*(deflater.compress(chunk) for chunk in chunks), deflater.flush()]
