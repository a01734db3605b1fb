"""grpc.health.v1 and server reflection, asked by grpcio's own clients."""

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.e2e.messages import LIMIT_S, refusal

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.parametrize(
    ("service", "status"),
    [("", SERVING), ("inference.GRPCInferenceService", SERVING), ("simple", SERVING), ("misconfigured", NOT_SERVING)],
)
def test_check(channel: grpc.Channel, service: str, status: int) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    assert stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=LIMIT_S).status == status


def test_what_nobody_knows_is_not_found(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service="nobody")
    assert refusal(lambda: stub.Check(request, timeout=LIMIT_S))[0] == "NOT_FOUND"


def test_watch_begins_with_the_status_now(channel: grpc.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    watched = stub.Watch(health_pb2.HealthCheckRequest(service="simple"), timeout=LIMIT_S)
    assert next(watched).status == SERVING
    watched.cancel()


def test_reflection_shows_the_services_under_their_own_names(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert {"inference.GRPCInferenceService", "grpc.health.v1.Health"} <= set(services)
    file = database.FindFileContainingSymbol("inference.ModelInferRequest")
    assert file.package == "inference"
