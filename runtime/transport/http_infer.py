"""POST /v2/models/M[/versions/V]/infer: a body in, one request to the engine, a body out. No protobuf on this road.

Rules
- The caller's time is `X-Request-Timeout-Ms`, counted from the moment the head was read; the body's way counts too.
- A client that goes away cancels its request: the server runs with handler cancellation on.
- The body is held until the answer is ready; tensors are views of it.
"""

import math
from collections.abc import Mapping
from typing import Protocol

from aiohttp import web

from runtime.core.clock import Clock, monotonic
from runtime.core.errors import InvalidRequest
from runtime.core.inference import InferRequest, InferResult
from runtime.transport.http_body import BodyReader
from runtime.transport.http_json import decode_request, encode_result
from runtime.transport.http_names import model_of, version_of
from runtime.transport.http_reply import HEADER_LENGTH, HttpRefusal, tensor_reply
from runtime.transport.http_settings import HttpSettings

TIMEOUT_HEADER = "X-Request-Timeout-Ms"
MAX_TIMEOUT_MS = 86_400_000


class Engine(Protocol):
    """What answers inference requests."""

    async def infer(self, request: InferRequest) -> InferResult:
        """Answer one request; cancelling the wait cancels the request. Raises SpillwayError."""
        ...


class HttpInfer:
    """Handles inference requests. Event loop only."""

    def __init__(self, engine: Engine, bodies: BodyReader, settings: HttpSettings, clock: Clock = monotonic) -> None:
        self._engine = engine
        self._bodies = bodies
        self._settings = settings
        self._clock = clock

    async def infer(self, request: web.Request) -> web.StreamResponse:
        """Answer one inference request."""
        deadline = self._deadline(request.headers)
        model, version = model_of(request), version_of(request)
        limit = self._settings.max_json_bytes
        if HEADER_LENGTH in request.headers:
            limit = self._settings.max_body_bytes
        async with self._bodies.body(request, limit) as body:
            split = self._header_length(request.headers, len(body))
            asked = decode_request(body[:split], body[split:], model, version)
            result = await self._engine.infer(InferRequest(asked.head, asked.buffers, asked.request_id, deadline))
        head, parts = encode_result(result, asked.request_id, asked.binary, self._settings.max_json_elements)
        return await tensor_reply(request, head, parts, self._settings.write_timeout_s)

    def _deadline(self, headers: Mapping[str, str]) -> float:
        text = headers.get(TIMEOUT_HEADER)
        if text is None:
            return math.inf
        milliseconds = _decimal(text)
        if not 1 <= milliseconds <= MAX_TIMEOUT_MS:
            raise InvalidRequest(f"{TIMEOUT_HEADER} {text[:32]!r} is not an integer in 1..{MAX_TIMEOUT_MS}")
        return self._clock() + milliseconds / 1e3

    def _header_length(self, headers: Mapping[str, str], body_length: int) -> int:
        """Where the JSON ends and binary tensor data begins."""
        text = headers.get(HEADER_LENGTH)
        if text is None:
            return body_length
        length = _decimal(text)
        if not 0 <= length <= body_length:
            raise InvalidRequest(f"{HEADER_LENGTH} {text[:32]!r} is not within the body of {body_length} bytes")
        if length > self._settings.max_json_bytes:
            raise HttpRefusal(413, f"JSON of {length} bytes exceeds the limit of {self._settings.max_json_bytes}")
        return length


def _decimal(text: str) -> int:
    """A header's number; -1 where it is none."""
    return int(text) if len(text) <= 18 and text.isascii() and text.isdecimal() else -1
