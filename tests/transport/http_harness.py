"""A real HTTP front on 127.0.0.1, port 0, over an engine and a control plane that do as a test says."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import msgspec
import numpy as np

from runtime.core.errors import Cancelled, SpillwayError
from runtime.core.inference import InferRequest, InferResult, OutputTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array, decode_bytes, element_count
from runtime.repository.index import IndexEntry
from runtime.transport.access import Gatekeeper
from runtime.transport.call import Call
from runtime.transport.http_front import HttpFront
from runtime.transport.http_settings import HttpSettings
from runtime.transport.http_tls import HttpTls
from runtime.transport.routes import CoroutineHandler
from runtime.transport.settings import AccessSettings
from runtime.transport.status_document import StatusDocument
from runtime.wire.pool import METHODS, SERVICE

Outcome = InferResult | Exception
NO_STATUS = StatusDocument(server="fake", version="0", uptime_s=0.0, ready=True, draining=False, models=())


def as_array(request: InferRequest, index: int) -> Array:
    """Input `index` as an engine would see it."""
    head, buffer = request.head.inputs[index], request.buffers[index]
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(head.shape)
    if head.datatype == BYTES:
        array = np.empty(element_count(head.shape), dtype=object)
        array[:] = decode_bytes(buffer, array.size, head.name)
        return array.reshape(head.shape)
    return np.frombuffer(buffer, DATA_TYPES[head.datatype].dtype).reshape(head.shape)


def echo(request: InferRequest) -> InferResult:
    """Every input as an output of the same name."""
    wanted = [output.name for output in request.head.outputs]
    outputs = [
        OutputTensor(head.name, head.datatype, as_array(request, index))
        for index, head in enumerate(request.head.inputs)
        if not wanted or head.name in wanted
    ]
    return InferResult(request.head.model_name, request.head.model_version or "1", outputs)


@dataclass
class FakeEngine:
    """Answers by `answer`; while `hold` is set it waits first. Implements the engine's `infer`."""

    answer: Callable[[InferRequest], Outcome] = echo
    hold: asyncio.Event | None = None
    seen: list[InferRequest] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)

    async def infer(self, request: InferRequest) -> InferResult:
        self.seen.append(request)
        self.arrived.set()
        try:
            if self.hold is not None:
                await self.hold.wait()
        except asyncio.CancelledError:
            request.cancel()
            self.cancelled.set()
            raise
        if request.cancelled:
            raise Cancelled
        outcome = self.answer(request)
        if isinstance(outcome, Exception):
            raise outcome
        return outcome


@dataclass
class FakeControl:
    """Answers every RPC of the control plane with `answers[name]` (a message, an error or a function), and records."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[Any] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)

    def rpcs(self) -> dict[str, CoroutineHandler]:
        return {path: self._handler(path) for path in METHODS}

    def _handler(self, path: str) -> CoroutineHandler:
        method = METHODS[path]

        async def handle(message: bytes, call: Call) -> bytes:
            asked = method.request.FromString(message)
            self.asked.append(asked)
            self.calls.append(call)
            answer = self.answers.get(path.removeprefix(f"/{SERVICE}/"), method.response())
            if callable(answer):
                answer = await answer(asked)
            if isinstance(answer, SpillwayError):
                raise answer
            return bytes(answer.SerializeToString())

        return handle


@dataclass
class FakeRepository:
    entries: list[IndexEntry] = field(default_factory=list)

    def index(self) -> list[IndexEntry]:
        return self.entries


@dataclass
class App:
    """What a test holds in its hands."""

    front: HttpFront
    engine: FakeEngine
    control: FakeControl
    port: int
    metrics_port: int
    session: aiohttp.ClientSession

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def get(self, path: str, **more: Any) -> tuple[int, Any]:
        return await self.ask("GET", path, **more)

    async def post(self, path: str, value: Any = None, **more: Any) -> tuple[int, Any]:
        data = value if isinstance(value, bytes) or value is None else msgspec.json.encode(value)
        return await self.ask("POST", path, data=data, **more)

    async def ask(self, verb: str, path: str, **more: Any) -> tuple[int, Any]:
        """Status, and the body: JSON read, everything else as bytes, None where there is none."""
        async with self.session.request(verb, self.url + path, **more) as reply:
            body = await reply.read()
            is_json = reply.content_type == "application/json" and "Content-Encoding" not in reply.headers
            return reply.status, msgspec.json.decode(body) if body and is_json else body or None


@asynccontextmanager
async def serving(
    engine: FakeEngine | None = None,
    control: FakeControl | None = None,
    repository: FakeRepository | None = None,
    access: AccessSettings | None = None,
    tls: HttpTls | None = None,
    scrape: Callable[[], bytes] = lambda: b"",
    **settings: Any,
) -> AsyncIterator[App]:
    engine, control = engine or FakeEngine(), control or FakeControl()
    front = HttpFront(
        engine=engine,
        rpcs=control.rpcs(),
        repository=repository or FakeRepository(),
        gatekeeper=Gatekeeper(access or AccessSettings()),
        metrics=scrape,
        status=lambda: NO_STATUS,
        settings=HttpSettings(**{"port": 0, "metrics_port": 0, **settings}),
        tls=tls,
    )
    ports = await front.start()
    try:
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            yield App(front, engine, control, ports.http, ports.metrics, session)
    finally:
        await front.stop(0.0)


async def until(met: Callable[[], object]) -> None:
    """Let the loop turn until `met`; nothing signals what a test waits for so."""
    async with asyncio.timeout(5):
        while not met():  # noqa: ASYNC110
            await asyncio.sleep(0)


def request_json(data: Any, shape: list[int], datatype: str = "FP32", **more: Any) -> dict[str, Any]:
    """A request with one input `x`."""
    return {"inputs": [{"name": "x", "shape": shape, "datatype": datatype, "data": data}], **more}
