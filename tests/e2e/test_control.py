"""The control plane: its answers, its codes and the phrases that programs look for, as bytes over a real connection."""

from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from tritonclient.grpc import service_pb2 as triton

from tests.e2e.daemon import Daemon
from tests.e2e.messages import LIMIT_S, good, infer, refusal, rpc

SHARED_MEMORY = [
    f"{kind}SharedMemory{verb}" for kind in ("System", "Cuda") for verb in ("Status", "Register", "Unregister")
]


def ask(channel: grpc.Channel, method: str, request: Message | None = None, **fields: Any) -> Any:
    """Call `method` with `request`, or with one of its request messages that has `fields`."""
    message = request or getattr(triton, f"{method}Request")(**fields)
    read = getattr(triton, f"{method}Response").FromString
    return rpc(channel, method, read)(message.SerializeToString(), timeout=LIMIT_S)


def load(channel: grpc.Channel, model: str, config: str = "", **files: bytes) -> None:
    """Load `model`; `files` are named as in the protocol, with `_` for `:`."""
    request = triton.RepositoryModelLoadRequest(model_name=model)
    if config:
        request.parameters["config"].string_param = config
    for name, content in files.items():
        request.parameters[name].bytes_param = content
    ask(channel, "RepositoryModelLoad", request)


def test_live_and_ready(channel: grpc.Channel) -> None:
    assert ask(channel, "ServerLive").live
    assert ask(channel, "ServerReady").ready


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("simple", "", True),
        ("simple", "1", True),
        ("simple", "7", False),
        ("simple", "one", False),
        ("nobody", "", False),
        ("", "", False),
    ],
)
def test_model_ready_is_never_an_error(channel: grpc.Channel, name: str, version: str, ready: bool) -> None:
    assert ask(channel, "ModelReady", name=name, version=version).ready is ready


def test_server_metadata(channel: grpc.Channel) -> None:
    metadata = ask(channel, "ServerMetadata")
    assert metadata.name == "triton"  # an example program of Triton's asks for it
    assert {"classification", "model_repository", "statistics", "binary_tensor_data"} <= set(metadata.extensions)


def test_model_metadata(channel: grpc.Channel) -> None:
    metadata = ask(channel, "ModelMetadata", name="simple")
    assert (metadata.name, list(metadata.versions), metadata.platform) == ("simple", ["1"], "onnxruntime_onnx")
    assert [(each.name, each.datatype, list(each.shape)) for each in (*metadata.inputs, *metadata.outputs)] == [
        (name, "INT32", [-1, 16]) for name in ("INPUT0", "INPUT1", "OUTPUT0", "OUTPUT1")
    ]
    assert list(ask(channel, "ModelMetadata", name="versions").versions) == ["1", "2"]


def test_model_config_is_completed_from_the_graph(channel: grpc.Channel) -> None:
    config = ask(channel, "ModelConfig", name="versions", version="2").config
    assert (config.name, config.max_batch_size, config.backend) == ("versions", 4, "onnxruntime")
    assert [(each.name, list(each.dims)) for each in config.input] == [("x", [2])]
    assert config.HasField("dynamic_batching")


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("name", "version", "code"),
    [
        ("nobody", "", "NOT_FOUND"),
        ("", "", "NOT_FOUND"),
        ("simple", "7", "NOT_FOUND"),
        ("simple", "x", "INVALID_ARGUMENT"),
    ],
)
def test_what_is_not_served_has_no_description(
    channel: grpc.Channel, method: str, name: str, version: str, code: str
) -> None:
    assert refusal(lambda: ask(channel, method, name=name, version=version))[0] == code


def test_statistics_count_rows_and_runs(channel: grpc.Channel) -> None:
    before = ask(channel, "ModelStatistics", name="echo_uint16").model_stats[0]
    request = good("simple")
    request.model_name = "echo_uint16"
    del request.inputs[1:], request.raw_input_contents[1:]
    request.inputs[0].name, request.inputs[0].datatype = "x", "UINT16"
    request.inputs[0].shape[:] = [2, 16]
    for _ in range(3):
        infer(channel, request.SerializeToString())
    request.inputs[0].name = "z"
    assert refusal(lambda: infer(channel, request.SerializeToString()))[0] == "INVALID_ARGUMENT"
    after = ask(channel, "ModelStatistics", name="echo_uint16", version="1").model_stats[0]
    assert after.inference_count - before.inference_count == 3
    assert after.execution_count - before.execution_count == 3
    assert after.inference_stats.success.count - before.inference_stats.success.count == 3
    assert after.inference_stats.compute_infer.ns > before.inference_stats.compute_infer.ns
    assert after.last_inference > 0


def test_statistics_of_all(channel: grpc.Channel) -> None:
    found = {(each.name, each.version) for each in ask(channel, "ModelStatistics").model_stats}
    assert {("simple", "1"), ("versions", "1"), ("versions", "2")} <= found


@pytest.mark.parametrize(("name", "version"), [("nobody", ""), ("simple", "7"), ("simple", "x")])
def test_statistics_of_what_is_not_served(channel: grpc.Channel, name: str, version: str) -> None:
    assert refusal(lambda: ask(channel, "ModelStatistics", name=name, version=version))[0] == "INVALID_ARGUMENT"


def test_repository_index(channel: grpc.Channel) -> None:
    everything = {(each.name, each.version): each.state for each in ask(channel, "RepositoryIndex").models}
    assert everything["versions", "2"] == "READY"
    assert {name for name, _ in everything} >= {"broken", "misconfigured"}
    ready = ask(channel, "RepositoryIndex", ready=True).models
    assert {each.state for each in ready} == {"READY"}
    assert not {each.name for each in ready} & {"broken", "misconfigured"}
    assert refusal(lambda: ask(channel, "RepositoryIndex", repository_name="other"))[0] == "UNIMPLEMENTED"


@pytest.mark.parametrize(
    ("model", "code", "phrase"),
    [
        ("nobody", "INTERNAL", "failed to load 'nobody', failed to poll from model repository"),
        ("", "INTERNAL", "failed to load ''"),
        ("..", "INTERNAL", "failed to load '..'"),
        ("misconfigured", "INTERNAL", "failed to load 'misconfigured'"),
        ("broken", "INVALID_ARGUMENT", "load failed for model 'broken'"),
    ],
)
def test_a_load_that_fails(channel: grpc.Channel, model: str, code: str, phrase: str) -> None:
    got, text = refusal(lambda: load(channel, model))
    assert (got, phrase in text) == (code, True), text
    assert not ask(channel, "ModelReady", name=model).ready


GRAPH = {"file_1/model.onnx": b"this is no model"}


@pytest.mark.parametrize(
    ("config", "files", "code", "phrase"),
    [
        ("{", {}, "INTERNAL", "failed to load 'simple'"),
        ('{"max_batch_size": "many"}', {}, "INTERNAL", "failed to load 'simple'"),
        ('{"max_batch_sise": 8}', {}, "INTERNAL", "max_batch_sise"),
        ('{"sequence_batching": {}}', {}, "INTERNAL", "sequence_batching"),
        ('{"ensemble_scheduling": {}}', {}, "INTERNAL", "ensemble_scheduling"),
        ('{"model_transaction_policy": {"decoupled": true}}', {}, "INTERNAL", "decoupled"),
        ('{"input": [{"name": "x", "data_type": "TYPE_INT32", "dims": [16]}]}', {}, "INVALID_ARGUMENT", "'x'"),
        ("{}", GRAPH, "INVALID_ARGUMENT", "load failed for model 'simple'"),
        ("", GRAPH, "INVALID_ARGUMENT", "override files need the parameter 'config'"),
        ("{}", {"file_1/../../../escaped": b""}, "INTERNAL", "failed to load 'simple'"),
        ("{}", {"file_/etc/escaped": b""}, "INTERNAL", "failed to load 'simple'"),
        ("{}", {f"file_1/{'x' * 256}": b""}, "INTERNAL", "failed to load 'simple'"),
        ("{}", {"unheard": b""}, "INVALID_ARGUMENT", "unrecognized load parameter 'unheard'"),
    ],
)
def test_an_override_that_fails(
    channel: grpc.Channel, config: str, files: dict[str, bytes], code: str, phrase: str
) -> None:
    named = {name.replace("file_", "file:"): content for name, content in files.items()}
    got, text = refusal(lambda: load(channel, "simple", config, **named))
    assert (got, phrase in text) == (code, True), text
    assert infer(channel, good("simple").SerializeToString()).model_version == "1"  # as before


def test_a_load_parameter_of_the_wrong_type(channel: grpc.Channel) -> None:
    request = triton.RepositoryModelLoadRequest(model_name="simple")
    request.parameters["config"].int64_param = 1
    assert refusal(lambda: ask(channel, "RepositoryModelLoad", request))[0] == "INVALID_ARGUMENT"


def test_unloading_what_is_unknown_is_no_error(channel: grpc.Channel) -> None:
    ask(channel, "RepositoryModelUnload", model_name="nobody")
    request = triton.RepositoryModelUnloadRequest(model_name="nobody")
    request.parameters["unload_dependents"].bool_param = True
    ask(channel, "RepositoryModelUnload", request)
    request.parameters["unload_everything"].bool_param = True
    assert refusal(lambda: ask(channel, "RepositoryModelUnload", request))[0] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("method", [*SHARED_MEMORY, "TraceSetting", "LogSettings"])
def test_what_a_later_issue_brings(channel: grpc.Channel, method: str) -> None:
    code, text = refusal(lambda: ask(channel, method))
    assert (code, method in text) == ("UNIMPLEMENTED", True), text


@pytest.mark.parametrize("method", ["ModelMetadata", "RepositoryModelLoad", "ModelStatistics"])
def test_a_message_that_cannot_be_parsed(channel: grpc.Channel, daemon: Daemon, method: str) -> None:
    code, text = refusal(lambda: rpc(channel, method)(b"\xff\xff", timeout=LIMIT_S))
    assert (code, text) == ("INVALID_ARGUMENT", f"malformed message: not a {method}Request")
