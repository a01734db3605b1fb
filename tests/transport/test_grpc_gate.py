from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from runtime.core.errors import PollFailed
from runtime.transport.access import GRPC_ROLES
from runtime.transport.routes import Routes
from runtime.transport.settings import AccessSettings
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pool import METHODS, SERVICE
from tests.fakes.manager import FakeManager
from tests.transport.grpc_harness import Server, infer_request, serving, status_of


def paths_of(routes: Routes) -> set[str]:
    return {*routes.callbacks, *routes.coroutines, *routes.streams, *routes.watches}


async def reflected(server: Server) -> set[str]:
    """Paths of all methods that a running server shows."""
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(server.channel)

    async def ask(**question: str) -> Any:
        stream = stub.ServerReflectionInfo()
        await stream.write(reflection_pb2.ServerReflectionRequest(**question))
        await stream.done_writing()
        return await stream.read()

    listed = await ask(list_services="")
    paths = set()
    for service in listed.list_services_response.service:
        answer = await ask(file_containing_symbol=service.name)
        for data in answer.file_descriptor_response.file_descriptor_proto:
            file = FileDescriptorProto.FromString(data)
            paths |= {
                f"/{file.package}.{each.name}/{method.name}"
                for each in file.service
                for method in each.method
                if f"{file.package}.{each.name}" == service.name
            }
    return paths


async def test_every_method_of_a_running_server_has_a_role() -> None:
    async with serving() as server:
        shown = await reflected(server)

        assert len(shown) == 20 + 2 + 1
        assert shown == set(GRPC_ROLES), "a method without a role, or a role without a method"
        assert shown == paths_of(server.routes), "reflection shows what is served"


async def test_whoever_has_no_role_gets_to_public_methods_only() -> None:
    async with serving(access=AccessSettings(local_roles=())) as server:
        for path in (path for path, role in GRPC_ROLES.items() if role != "public"):
            stream = server.stream(path)
            with suppress(grpc.aio.AioRpcError):  # as soon as the refusal is there
                await stream.write(b"")
                assert await stream.read() == b"", "what grpc.aio sends before an error"
            assert await stream.code() is grpc.StatusCode.UNAUTHENTICATED, path
        assert (await server.call("ServerLive")).live
        assert not server.manager.loads
        assert not server.engine.seen


async def test_a_method_that_is_served_without_a_role_is_denied() -> None:
    async def coroutine(message: bytes, call: object) -> bytes:
        raise AssertionError("reached")

    async with serving(routes=Routes(coroutines={"/new.Service/Method": coroutine})) as server:
        code, details = await status_of(server.unary("/new.Service/Method")(b""))
        assert (code, details) == ("PERMISSION_DENIED", "no role may use /new.Service/Method")


@pytest.mark.parametrize(
    "name", ["TraceSetting", "LogSettings", *(n for p in METHODS if "SharedMemory" in (n := p.rpartition("/")[2]))]
)
async def test_what_is_not_offered_says_so(name: str) -> None:
    async with serving() as server:
        code, details = await server.status(name)
        assert code == "UNIMPLEMENTED"
        assert details.startswith(f"{name}: ")
        assert "this server" in details


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "..", ".", "/etc/passwd", "a\0b", "\uff41", "%2e%2e", "a/b", "-x", "n" * 10_000, "\u202e"],
)
async def test_names_that_are_no_models_find_nothing(name: str) -> None:
    manager = FakeManager(failure=PollFailed("x", "not a model's name"))
    async with serving(manager=manager) as server:
        expected = {
            "ModelMetadata": (pb.ModelMetadataRequest(name=name), "NOT_FOUND"),
            "ModelConfig": (pb.ModelConfigRequest(name=name), "NOT_FOUND"),
            "ModelStatistics": (pb.ModelStatisticsRequest(name=name), "INVALID_ARGUMENT"),
            "RepositoryModelLoad": (pb.RepositoryModelLoadRequest(model_name=name), "INTERNAL"),
        }
        for method, (request, code) in expected.items():
            assert (await server.status(method, request))[0] == code, method
        for version in ("../1", "1/../2", "\0", "\uff11", "-1", "0", "9" * 1000):
            request = pb.ModelMetadataRequest(name="digits", version=version)
            assert (await server.status("ModelMetadata", request))[0] == "INVALID_ARGUMENT", version
        assert not (await server.call("ModelReady", pb.ModelReadyRequest(name=name))).ready
        health: Any = health_pb2_grpc.HealthStub(server.channel)
        rpc = health.Check(health_pb2.HealthCheckRequest(service=name))
        assert (await status_of(rpc))[0] == "NOT_FOUND"


async def test_our_service_has_its_wire_name() -> None:
    assert SERVICE == "inference.GRPCInferenceService"
    async with serving() as server:
        await server.call("ModelInfer", infer_request(1.0))
