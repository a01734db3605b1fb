"""The service by its names on the wire: the method table, and the descriptors that reflection shows.

The generated modules carry the package `spillway.inference` (see `proto/generate.py`); clients know
`inference`. This file is the one place that maps one to the other. It never touches protobuf's
default pool, where a second `inference` would collide with that of tritonclient or kserve.

Rules:
- All is derived from the generated descriptors; nothing is listed by hand.
- What the pool shows equals `proto/` in every name, number and type.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from google.protobuf.descriptor_pb2 import DescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from runtime.wire.pb import inference_pb2, model_config_pb2

_PACKAGE = "inference"
_STUB_PACKAGE = inference_pb2.DESCRIPTOR.package
_STUB_SERVICE = inference_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"]

SERVICE = f"{_PACKAGE}.{_STUB_SERVICE.name}"


@dataclass(frozen=True, slots=True)
class Method:
    """One RPC of the service: what it takes and gives, and whether either is a stream of those."""

    name: str
    request: type[Message]
    response: type[Message]
    request_stream: bool
    response_stream: bool


def _methods() -> Iterator[tuple[str, Method]]:
    for method in _STUB_SERVICE.methods:
        yield (
            f"/{SERVICE}/{method.name}",
            Method(
                name=method.name,
                request=GetMessageClass(method.input_type),
                response=GetMessageClass(method.output_type),
                request_stream=method.client_streaming,
                response_stream=method.server_streaming,
            ),
        )


METHODS: Mapping[str, Method] = MappingProxyType(dict(_methods()))
"""By full path, `/inference.GRPCInferenceService/ModelInfer`; the classes are those of `runtime.wire.pb`."""


def reflection_pool() -> DescriptorPool:
    """Make a pool with the files of `proto/`, grpc.health.v1 and grpc.reflection.v1alpha.

    For grpcio-reflection's servicer. Message classes made from it are not those of the generated
    modules, though their bytes are the same.
    """
    # Here, not above: clients need this module's names and none of what a server brings along.
    from grpc_health.v1 import health_pb2  # noqa: PLC0415
    from grpc_reflection.v1alpha import reflection_pb2  # noqa: PLC0415

    pool = DescriptorPool()
    for stub in (model_config_pb2, inference_pb2):  # imported files first
        pool.AddSerializedFile(_wire_file(stub.DESCRIPTOR.serialized_pb).SerializeToString())
    for foreign in (health_pb2, reflection_pb2):
        pool.AddSerializedFile(foreign.DESCRIPTOR.serialized_pb)
    return pool


def _wire_file(stub: bytes) -> FileDescriptorProto:
    """Return the descriptor of one text in `proto/` from that of its stub."""
    file = FileDescriptorProto.FromString(stub)
    file.name = _file_name(file.name)
    file.package = _PACKAGE
    file.dependency[:] = [_file_name(path) for path in file.dependency]
    for message in file.message_type:
        _rename_types(message)
    for service in file.service:
        for method in service.method:
            method.input_type = _type_name(method.input_type)
            method.output_type = _type_name(method.output_type)
    return file


def _rename_types(message: DescriptorProto) -> None:
    for field in message.field:
        if field.type_name:
            field.type_name = _type_name(field.type_name)
    for nested in message.nested_type:
        _rename_types(nested)


def _file_name(path: str) -> str:
    return path.rpartition("/")[2]


def _type_name(name: str) -> str:
    return f".{_PACKAGE}.{name.removeprefix(f'.{_STUB_PACKAGE}.')}"
