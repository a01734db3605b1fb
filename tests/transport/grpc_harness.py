"""A real gRPC front on 127.0.0.1, port 0, over an engine and a repository that do as a test says."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from runtime.transport.access import Gatekeeper
from runtime.transport.control import ControlHandlers
from runtime.transport.grpc_front import GrpcFront
from runtime.transport.health import HealthHandlers
from runtime.transport.inference import InferenceHandlers
from runtime.transport.routes import Routes
from runtime.transport.services import grpc_routes
from runtime.transport.settings import AccessSettings, GrpcSettings
from runtime.wire.convert import RequestDecoder, ResponseEncoder
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pool import METHODS, SERVICE
from tests.fakes.engine import FakeEngine
from tests.fakes.manager import FakeManager

# Channels of one process share connections by default; a test wants its own.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


@dataclass
class Readiness:
    """The daemon's word on whether the server is ready."""

    ready: bool = True

    def __call__(self) -> bool:
        return self.ready


@dataclass
class Server:
    """What a test holds in its hands."""

    front: GrpcFront
    engine: FakeEngine
    manager: FakeManager
    readiness: Readiness
    routes: Routes
    port: int
    channel: grpc.aio.Channel

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def unary(self, path: str) -> Any:
        """An RPC of any path, over bytes."""
        return self.channel.unary_unary(path)

    def stream(self, path: str) -> Any:
        """A running stream of any path, over bytes."""
        rpc: Any = self.channel.stream_stream(path)
        return rpc()

    async def call(self, name: str, request: Any = None, **more: Any) -> Any:
        """One unary RPC of the inference service."""
        return await call(self.channel, name, request, **more)

    async def status(self, name: str, request: Any = None, **more: Any) -> tuple[str, str]:
        """Code and details with which that RPC fails."""
        return await status_of(self.call(name, request, **more))


async def call(channel: grpc.aio.Channel, name: str, request: Any = None, **more: Any) -> Any:
    method = METHODS[f"/{SERVICE}/{name}"]
    rpc: Any = channel.unary_unary(
        f"/{SERVICE}/{name}", lambda message: message.SerializeToString(), method.response.FromString
    )
    return await rpc(method.request() if request is None else request, **{"timeout": 10, **more})


async def status_of(rpc: Any) -> tuple[str, str]:
    """Code and details of an RPC that is expected to fail."""
    try:
        answer = await rpc
    except grpc.aio.AioRpcError as error:
        return error.code().name, error.details() or ""
    raise AssertionError(f"the call succeeded with {answer!r}")


@asynccontextmanager
async def serving(
    engine: FakeEngine | None = None,
    manager: FakeManager | None = None,
    access: AccessSettings | None = None,
    routes: Routes | None = None,
    poll_s: float = 0.01,
    **settings: Any,
) -> AsyncIterator[Server]:
    engine, manager, readiness = engine or FakeEngine(), manager or FakeManager(), Readiness()
    chosen = GrpcSettings(**{"port": 0, "drain_settle_s": 0.0, **settings})
    if routes is None:
        inference = InferenceHandlers(
            engine,
            RequestDecoder(),
            ResponseEncoder(),
            max_in_flight_per_stream=chosen.max_in_flight_per_stream,
        )
        control = ControlHandlers(manager, readiness, "1.2.3")
        routes = grpc_routes(inference, control, HealthHandlers(manager, readiness, poll_s), chosen)
    front = GrpcFront(routes, Gatekeeper(access or AccessSettings()), chosen)
    port = await front.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OWN_CONNECTION) as channel:
            yield Server(front, engine, manager, readiness, routes, port, channel)
    finally:
        await front.stop(0.0)


def infer_request(
    *rows: float, model: str = "digits", request_id: str = "", parameters: Mapping[str, int] | None = None
) -> pb.ModelInferRequest:
    """A request with one raw input `x` FP32 [1, n]."""
    data = np.array(rows, "<f4")
    request = pb.ModelInferRequest(model_name=model, id=request_id, raw_input_contents=[data.tobytes()])
    request.inputs.add(name="x", datatype="FP32", shape=[1, data.size])
    for name, value in (parameters or {}).items():
        request.parameters[name].int64_param = value
    return request


def rows_of(response: pb.ModelInferResponse) -> list[float]:
    """The first output of an answer to `infer_request`."""
    rows: list[float] = np.frombuffer(response.raw_output_contents[0], "<f4").tolist()
    return rows
