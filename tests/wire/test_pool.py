import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.reflection import ReflectionServicer
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest

from runtime.wire.pb import inference_pb2, model_config_pb2
from runtime.wire.pool import METHODS, SERVICE, reflection_pool


@pytest.fixture(scope="module")
def pool() -> DescriptorPool:
    return reflection_pool()


def infer_request() -> inference_pb2.ModelInferRequest:
    request = inference_pb2.ModelInferRequest(model_name="digits", id="7", raw_input_contents=[b"\x00\x01"])
    request.parameters["timeout"].int64_param = 1000
    request.inputs.add(name="x", datatype="UINT8", shape=[1, 2]).parameters["hint"].string_param = "edge"
    return request


def config_response() -> inference_pb2.ModelConfigResponse:
    config = model_config_pb2.ModelConfig(name="digits", max_batch_size=8)
    config.dynamic_batching.priority_queue_policy[2].timeout_action = model_config_pb2.ModelQueuePolicy.DELAY
    config.input.add(name="x", data_type=model_config_pb2.TYPE_UINT8, dims=[2])
    config.optimization.cuda.graph_spec.add().graph_lower_bound.input["x"].dim.append(2)
    return inference_pb2.ModelConfigResponse(config=config)


def ask(pool: DescriptorPool, **question: str) -> list[FileDescriptorProto]:
    servicer = ReflectionServicer((SERVICE,), pool=pool)
    (answer,) = servicer.ServerReflectionInfo(iter([ServerReflectionRequest(**question)]), None)
    assert not answer.HasField("error_response"), answer.error_response
    return [FileDescriptorProto.FromString(file) for file in answer.file_descriptor_response.file_descriptor_proto]


def test_service_and_its_types_have_their_wire_names(pool: DescriptorPool) -> None:
    service = pool.FindServiceByName(SERVICE)

    assert SERVICE == "inference.GRPCInferenceService"
    assert [f"/{service.full_name}/{method.name}" for method in service.methods] == list(METHODS)
    for method in service.methods:
        assert method.input_type.full_name.startswith("inference.")
        assert method.output_type.full_name.startswith("inference.")


def test_no_name_of_the_stubs_is_left(pool: DescriptorPool) -> None:
    for name in ("inference.proto", "model_config.proto"):
        shown = pool.FindFileByName(name).serialized_pb
        assert b"spillway" not in shown
        assert b"runtime/" not in shown


def test_reflection_answers_for_service_message_health_and_itself(pool: DescriptorPool) -> None:
    both = {"inference.proto", "model_config.proto"}

    assert {file.name for file in ask(pool, file_containing_symbol=SERVICE)} == both
    assert {file.name for file in ask(pool, file_by_filename="inference.proto")} == both
    assert [file.name for file in ask(pool, file_containing_symbol="inference.ModelConfig")] == ["model_config.proto"]
    assert [file.package for file in ask(pool, file_containing_symbol="grpc.health.v1.Health")] == ["grpc.health.v1"]
    reflection = ask(pool, file_containing_symbol="grpc.reflection.v1alpha.ServerReflection")
    assert [file.package for file in reflection] == ["grpc.reflection.v1alpha"]


@pytest.mark.parametrize("stub", [infer_request(), config_response()], ids=lambda stub: type(stub).__name__)
def test_messages_of_the_pool_and_of_the_stubs_read_each_other(pool: DescriptorPool, stub: Message) -> None:
    shown = GetMessageClass(pool.FindMessageTypeByName(f"inference.{type(stub).__name__}"))

    twin = shown.FromString(stub.SerializeToString(deterministic=True))

    assert str(twin) == str(stub)
    assert not isinstance(twin, type(stub))
    assert type(stub).FromString(twin.SerializeToString(deterministic=True)) == stub


def test_methods_carry_the_generated_classes() -> None:
    assert len(METHODS) == 20
    for path, method in METHODS.items():
        assert path == f"/{SERVICE}/{method.name}"
        assert method.request is getattr(inference_pb2, method.request.DESCRIPTOR.name)
        assert method.response is getattr(inference_pb2, method.response.DESCRIPTOR.name)


def test_only_the_stream_call_streams() -> None:
    streams = {method.name: (method.request_stream, method.response_stream) for method in METHODS.values()}

    assert streams.pop("ModelStreamInfer") == (True, True)
    assert set(streams.values()) == {(False, False)}


def test_default_pool_never_learns_the_wire_names(pool: DescriptorPool) -> None:
    assert pool is not Default()
    with pytest.raises(KeyError, match=r"inference\.proto"):
        Default().FindFileByName("inference.proto")
