"""grpc.reflection.v1alpha: what this server serves, told to tools such as grpcurl.

Shows the descriptors of `wire/pool.py`, under the names on the wire; takes no part in serving them.
"""

from collections.abc import AsyncIterator

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from runtime.core.errors import InvalidRequest
from runtime.transport.call import StreamCall
from runtime.wire.pool import SERVICE, reflection_pool

REFLECTION = f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"
SERVICES = (SERVICE, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)


class ReflectionHandler:
    """Answers questions with grpcio-reflection's own servicer, fed with bytes."""

    def __init__(self) -> None:
        self._servicer = reflection.aio.ReflectionServicer(SERVICES, pool=reflection_pool())

    async def info(self, call: StreamCall) -> None:
        """ServerReflectionInfo."""
        async for answer in self._servicer.ServerReflectionInfo(_questions(call), None):
            await call.send((answer.SerializeToString(),))


async def _questions(call: StreamCall) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for message in call.receive():
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(message)
        except DecodeError as error:
            raise InvalidRequest("malformed message: not a ServerReflectionRequest") from error
