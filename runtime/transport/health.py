"""grpc.health.v1: is the server ready, is one model ready.

The empty service and the inference service stand for the server; any other service is a model's name.

Rules
- `Check` of a name that nobody knows is NOT_FOUND; `Watch` says SERVICE_UNKNOWN and goes on watching.
- Nothing tells this module of a change: each watcher looks every `poll_s` seconds, which costs one look-up.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2

from runtime.core.errors import InvalidRequest, ModelNotFound
from runtime.repository.index import IndexEntry
from runtime.transport.call import Call, StreamCall
from runtime.wire.pool import SERVICE

CHECK = "/grpc.health.v1.Health/Check"
WATCH = "/grpc.health.v1.Health/Watch"

_Status = health_pb2.HealthCheckResponse


class Models(Protocol):
    """Knows which models there are and which answer."""

    def is_ready(self, model: str, version: str) -> bool:
        """Tell whether a version, or any where `version` is empty, is ready."""
        ...

    def index(self) -> Sequence[IndexEntry]:
        """All versions that are known."""
        ...


class HealthHandlers:
    """Handlers of both RPCs. `ready` is the server's own readiness."""

    def __init__(self, models: Models, ready: Callable[[], bool], poll_s: float = 1.0) -> None:
        self._models = models
        self._ready = ready
        self._poll_s = poll_s

    async def check(self, message: bytes, _: Call) -> bytes:
        """Answer with the status now."""
        service = _service_of(message)
        status = self._status(service)
        if status == _Status.SERVICE_UNKNOWN:
            raise ModelNotFound(service)
        return _answer(status)

    async def watch(self, call: StreamCall) -> None:
        """Send the status now, and each time it changes; never ends by itself."""
        message = await anext(call.receive(), None)
        if message is None:
            return
        service, last = _service_of(message), None
        while True:
            status = self._status(service)
            if status != last:
                await call.send((_answer(status),))
                last = status
            await asyncio.sleep(self._poll_s)

    def _status(self, service: str) -> Any:
        if service in ("", SERVICE):
            ready = self._ready()
        elif self._models.is_ready(service, ""):
            ready = True
        elif any(entry.name == service for entry in self._models.index()):
            ready = False
        else:
            return _Status.SERVICE_UNKNOWN
        return _Status.SERVING if ready else _Status.NOT_SERVING


def _service_of(message: bytes) -> str:
    try:
        return str(health_pb2.HealthCheckRequest.FromString(message).service)
    except DecodeError as error:
        raise InvalidRequest("malformed message: not a HealthCheckRequest") from error


def _answer(status: Any) -> bytes:
    return bytes(_Status(status=status).SerializeToString())
