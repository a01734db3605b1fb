"""Health, metadata, statistics and the model repository over HTTP, by way of the same handlers that answer gRPC.

Rules
- No decision is taken here: JSON becomes the RPC's message, the RPC's answer becomes JSON.
- "Not ready" is status 400, as Triton says it; `/readyz` is for orchestrators, says 503 and names what is not ready.
- A client that goes away ends its handler, not the load it began: that is the repository's promise.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
from aiohttp import web

from runtime.core.errors import InvalidRequest
from runtime.repository.index import IndexEntry
from runtime.transport.http_body import BodyReader
from runtime.transport.http_call import call_of
from runtime.transport.http_names import model_of, version_of
from runtime.transport.http_plain import plain
from runtime.transport.http_reply import json_reply
from runtime.transport.http_settings import HttpSettings
from runtime.transport.routes import CoroutineHandler
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pool import SERVICE

_FILE = "file:"
_ReplyT = TypeVar("_ReplyT", bound=Any)
_BodyT = TypeVar("_BodyT")


class Repository(Protocol):
    """Knows the state of every model."""

    def index(self) -> Sequence[IndexEntry]:
        """All versions that are known, whatever their state."""
        ...


class _IndexBody(msgspec.Struct):
    ready: bool = False


class _ChangeBody(msgspec.Struct):
    parameters: dict[str, bool | int | str] = {}


class HttpControl:
    """Handlers of all routes but inference and metrics. Event loop only."""

    def __init__(
        self, rpcs: Mapping[str, CoroutineHandler], repository: Repository, bodies: BodyReader, settings: HttpSettings
    ) -> None:
        self._rpcs = rpcs
        self._repository = repository
        self._bodies = bodies
        self._settings = settings

    async def healthz(self, _: web.Request) -> web.StreamResponse:
        """The process answers."""
        return json_reply({"live": True})

    async def readyz(self, request: web.Request) -> web.StreamResponse:
        """200 if new requests are welcome, else 503 with the models that are on their way or failed."""
        ready = (await self._rpc(request, pb.ServerReadyRequest(), pb.ServerReadyResponse)).ready
        waiting = [
            {"model": entry.name, "version": str(entry.version), "state": entry.state}
            for entry in self._repository.index()
            if entry.state not in ("READY", "UNLOADED")
        ]
        return json_reply({"ready": ready, "not_ready": waiting}, 200 if ready else 503)

    async def live(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/health/live."""
        reply = await self._rpc(request, pb.ServerLiveRequest(), pb.ServerLiveResponse)
        return web.Response(status=200 if reply.live else 400)

    async def ready(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/health/ready."""
        reply = await self._rpc(request, pb.ServerReadyRequest(), pb.ServerReadyResponse)
        return web.Response(status=200 if reply.ready else 400)

    async def server_metadata(self, request: web.Request) -> web.StreamResponse:
        """GET /v2."""
        return json_reply(plain(await self._rpc(request, pb.ServerMetadataRequest(), pb.ServerMetadataResponse)))

    async def model_ready(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/models/M[/versions/V]/ready."""
        asked = pb.ModelReadyRequest(name=model_of(request), version=version_of(request))
        reply = await self._rpc(request, asked, pb.ModelReadyResponse)
        return web.Response(status=200 if reply.ready else 400)

    async def model_metadata(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/models/M[/versions/V]."""
        asked = pb.ModelMetadataRequest(name=model_of(request), version=version_of(request))
        return json_reply(plain(await self._rpc(request, asked, pb.ModelMetadataResponse)))

    async def model_config(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/models/M[/versions/V]/config: the configuration after completion from the graph."""
        asked = pb.ModelConfigRequest(name=model_of(request), version=version_of(request))
        return json_reply(plain((await self._rpc(request, asked, pb.ModelConfigResponse)).config))

    async def model_statistics(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/models/M[/versions/V]/stats."""
        asked = pb.ModelStatisticsRequest(name=model_of(request), version=version_of(request))
        return json_reply(plain(await self._rpc(request, asked, pb.ModelStatisticsResponse)))

    async def all_statistics(self, request: web.Request) -> web.StreamResponse:
        """GET /v2/models/stats."""
        return json_reply(plain(await self._rpc(request, pb.ModelStatisticsRequest(), pb.ModelStatisticsResponse)))

    async def index(self, request: web.Request) -> web.StreamResponse:
        """POST /v2/repository/index."""
        body = await self._read(request, _IndexBody, self._settings.max_json_bytes)
        asked = pb.RepositoryIndexRequest(ready=body.ready)
        reply = await self._rpc(request, asked, pb.RepositoryIndexResponse)
        return json_reply([plain(model) for model in reply.models])

    async def load(self, request: web.Request) -> web.StreamResponse:
        """POST /v2/repository/models/M/load; files of an override come as base64."""
        asked = pb.RepositoryModelLoadRequest(model_name=model_of(request))
        body = await self._read(request, _ChangeBody, self._settings.max_body_bytes)
        _put_parameters(asked.parameters, body.parameters)
        await self._rpc(request, asked, pb.RepositoryModelLoadResponse)
        return web.Response()

    async def unload(self, request: web.Request) -> web.StreamResponse:
        """POST /v2/repository/models/M/unload."""
        asked = pb.RepositoryModelUnloadRequest(model_name=model_of(request))
        body = await self._read(request, _ChangeBody, self._settings.max_json_bytes)
        _put_parameters(asked.parameters, body.parameters)
        await self._rpc(request, asked, pb.RepositoryModelUnloadResponse)
        return web.Response()

    async def _rpc(self, request: web.Request, message: Any, reply: type[_ReplyT]) -> _ReplyT:
        """Ask the handler of the RPC that takes `message`."""
        name = message.DESCRIPTOR.name.removesuffix("Request")
        answer: _ReplyT = reply.FromString(
            await self._rpcs[f"/{SERVICE}/{name}"](message.SerializeToString(), call_of(request))
        )
        return answer

    async def _read(self, request: web.Request, kind: type[_BodyT], limit: int) -> _BodyT:
        async with self._bodies.body(request, limit) as body:
            try:
                return msgspec.json.decode(body if len(body) else b"{}", type=kind)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise InvalidRequest(f"failed to parse the request JSON: {error}") from error


def _put_parameters(target: Any, parameters: Mapping[str, bool | int | str]) -> None:
    for name, value in parameters.items():
        if isinstance(value, bool):
            target[name].bool_param = value
        elif isinstance(value, int):
            target[name].int64_param = _int64(name, value)
        elif name.startswith(_FILE):
            target[name].bytes_param = _base64(name, value)
        else:
            target[name].string_param = value


def _int64(name: str, value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise InvalidRequest(f"parameter '{name[:64]}' is outside 64 bits")
    return value


def _base64(name: str, text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidRequest(f"parameter '{name[:64]}' is not base64: {error}") from error
