from typing import Any

import pytest

from runtime.core.errors import ControlDisabled, LoadFailed, PollFailed
from runtime.repository.index import IndexEntry
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pb import model_config_pb2
from tests.fakes.manager import FakeManager, served_model
from tests.transport.grpc_harness import serving, status_of


async def test_live_ready_and_metadata_of_the_server() -> None:
    async with serving() as server:
        assert (await server.call("ServerLive")).live
        assert (await server.call("ServerReady")).ready
        server.readiness.ready = False
        assert not (await server.call("ServerReady")).ready
        assert (await server.call("ServerLive")).live
        told = await server.call("ServerMetadata")

    assert (told.name, told.version) == ("triton", "1.2.3")
    assert "classification" in told.extensions
    assert "sequence" not in told.extensions, "not built yet"


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [
        ("digits", "", True),
        ("digits", "1", True),
        ("digits", "2", False),
        ("digits", "one", False),
        ("digits", "-1", False),
        ("nobody", "", False),
        ("", "", False),
    ],
)
async def test_model_ready_never_fails(name: str, version: str, ready: bool) -> None:
    async with serving() as server:
        assert (await server.call("ModelReady", pb.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_metadata_shows_the_batch_axis_where_there_is_one() -> None:
    manager = FakeManager([served_model(), served_model("single", max_batch_size=0, platform="custom")])
    async with serving(manager=manager) as server:
        batched = await server.call("ModelMetadata", pb.ModelMetadataRequest(name="digits"))
        single = await server.call("ModelMetadata", pb.ModelMetadataRequest(name="single"))

    assert (batched.name, list(batched.versions), batched.platform) == ("digits", ["1"], "onnxruntime_onnx")
    assert [(each.name, each.datatype, list(each.shape)) for each in batched.inputs] == [("x", "FP32", [-1, 2])]
    assert [(each.name, each.datatype, list(each.shape)) for each in batched.outputs] == [("y", "INT64", [-1, 1])]
    assert single.platform == "custom"
    assert list(single.inputs[0].shape) == [2]


async def test_config_is_the_completed_one() -> None:
    async with serving() as server:
        answer = await server.call("ModelConfig", pb.ModelConfigRequest(name="digits"))

    assert answer.config == model_config_pb2.ModelConfig(name="digits", max_batch_size=8)


@pytest.mark.parametrize("method", ["ModelMetadata", "ModelConfig"])
@pytest.mark.parametrize(
    ("name", "version", "code", "phrase"),
    [
        ("nobody", "", "NOT_FOUND", "Request for unknown model: 'nobody' is not found"),
        ("", "", "NOT_FOUND", "Request for unknown model: '' is not found"),
        ("digits", "7", "NOT_FOUND", "version 7 is not available"),
        ("digits", "x", "INVALID_ARGUMENT", "version"),
    ],
)
async def test_unknown_models_and_versions(method: str, name: str, version: str, code: str, phrase: str) -> None:
    request: Any = {"ModelMetadata": pb.ModelMetadataRequest, "ModelConfig": pb.ModelConfigRequest}[method]
    async with serving() as server:
        found = await server.status(method, request(name=name, version=version))
    assert found[0] == code
    assert phrase in found[1]


async def test_statistics_of_one_of_all_and_of_none() -> None:
    models = [served_model(), served_model("digits", 2), served_model("other")]
    counted: Any = models[1].scheduler
    counted.statistics.ran(3, 0.001, 0.002, 0.003)
    counted.statistics.success.add(0.25, 3)
    counted.statistics.failed("REJECTED")
    async with serving(manager=FakeManager(models)) as server:

        async def names(name: str = "", version: str = "") -> list[tuple[str, str]]:
            answer = await server.call("ModelStatistics", pb.ModelStatisticsRequest(name=name, version=version))
            return [(each.name, each.version) for each in answer.model_stats]

        assert await names() == [("digits", "1"), ("digits", "2"), ("other", "1")]
        assert await names("digits") == [("digits", "1"), ("digits", "2")]
        assert await names("digits", "2") == [("digits", "2")]
        answer = await server.call("ModelStatistics", pb.ModelStatisticsRequest(name="digits", version="2"))
        for name, version in (("nobody", ""), ("digits", "3"), ("digits", "x")):
            request = pb.ModelStatisticsRequest(name=name, version=version)
            assert (await server.status("ModelStatistics", request))[0] == "INVALID_ARGUMENT"

    (one,) = answer.model_stats
    assert (one.inference_count, one.execution_count) == (3, 1)
    assert one.last_inference > 0
    assert (one.inference_stats.success.count, one.inference_stats.success.ns) == (3, 750_000_000)
    assert one.inference_stats.fail.count == 1
    assert [(batch.batch_size, batch.compute_infer.count, batch.compute_infer.ns) for batch in one.batch_stats] == [
        (3, 1, 2_000_000)
    ]


async def test_the_index_speaks_triton_s_words() -> None:
    manager = FakeManager(
        others=[
            IndexEntry("a", 3, "LOADING"),
            IndexEntry("b", 1, "UNLOADING"),
            IndexEntry("c", 1, "UNLOADED", "unloaded"),
            IndexEntry("d", 2, "FAILED", "no such operator"),
            IndexEntry("e", 0, "UNLOADED"),
        ]
    )
    async with serving(manager=manager) as server:
        every = await server.call("RepositoryIndex")
        ready = await server.call("RepositoryIndex", pb.RepositoryIndexRequest(ready=True))

    assert [(each.name, each.version, each.state, each.reason) for each in every.models] == [
        ("digits", "1", "READY", ""),
        ("a", "3", "LOADING", ""),
        ("b", "1", "UNLOADING", ""),
        ("c", "1", "UNAVAILABLE", "unloaded"),
        ("d", "2", "UNAVAILABLE", "no such operator"),
        ("e", "", "", ""),
    ]
    assert [each.name for each in ready.models] == ["digits"]
    assert manager.scans == 2, "the index shows the disk as it is now"


def load_request(name: str = "digits", **parameters: Any) -> pb.RepositoryModelLoadRequest:
    request = pb.RepositoryModelLoadRequest(model_name=name)
    for key, value in parameters.items():
        field = {str: "string_param", bytes: "bytes_param", bool: "bool_param", int: "int64_param"}[type(value)]
        setattr(request.parameters[key], field, value)
    return request


async def test_load_hands_config_and_files_on() -> None:
    async with serving() as server:
        await server.call("RepositoryModelLoad", load_request())
        files: dict[str, Any] = {"file:1/model.onnx": b"\x00onnx", "file:1/data": b""}
        await server.call("RepositoryModelLoad", load_request(config="{}", **files))

    assert server.manager.loads == [("digits", None, {}), ("digits", "{}", files)]


@pytest.mark.parametrize(
    ("parameters", "complaint"),
    [
        ({"colour": "red"}, "unrecognized load parameter 'colour'"),
        ({"Config": "{}"}, "unrecognized load parameter 'Config'"),
        ({"config": b"{}"}, "parameter 'config' must be a string_param, got bytes_param"),
        ({"config": True}, "parameter 'config' must be a string_param, got bool_param"),
        ({"file:1/model.onnx": "text"}, "must be a bytes_param, got string_param"),
    ],
)
async def test_load_refuses_what_nobody_defined(parameters: dict[str, Any], complaint: str) -> None:
    async with serving() as server:
        code, details = await server.status("RepositoryModelLoad", load_request(**parameters))
        assert (code, complaint in details) == ("INVALID_ARGUMENT", True), details
        assert not server.manager.loads


async def test_unload() -> None:
    async with serving() as server:
        request = pb.RepositoryModelUnloadRequest(model_name="digits")
        request.parameters["unload_dependents"].bool_param = True
        await server.call("RepositoryModelUnload", request)
        request.parameters["force"].bool_param = True
        code, details = await server.status("RepositoryModelUnload", request)

    assert server.manager.unloads == ["digits"]
    assert (code, details) == ("INVALID_ARGUMENT", "unrecognized unload parameter 'force'")


@pytest.mark.parametrize(
    ("failure", "code", "phrase"),
    [
        (PollFailed("x", "no such folder"), "INTERNAL", "failed to load 'x', failed to poll from model repository"),
        (LoadFailed("x", "bad graph"), "INVALID_ARGUMENT", "load failed for model 'x'"),
        (ControlDisabled("none"), "UNAVAILABLE", "none"),
    ],
)
async def test_failures_of_a_load_keep_their_code_and_phrase(failure: Any, code: str, phrase: str) -> None:
    async with serving(manager=FakeManager(failure=failure)) as server:
        found = await server.status("RepositoryModelLoad", load_request("x"))
    assert found[0] == code
    assert phrase in found[1]


@pytest.mark.parametrize("method", ["RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"])
async def test_repositories_have_no_names(method: str) -> None:
    request: Any = getattr(pb, f"{method}Request")
    async with serving() as server:
        assert (await server.status(method, request(repository_name="a")))[0] == "UNIMPLEMENTED"


async def test_garbage_is_an_invalid_argument_everywhere() -> None:
    async with serving() as server:
        for path in server.routes.coroutines:
            code, details = await status_of(server.unary(path)(b"\xff\xff\xff"))
            assert code == "INVALID_ARGUMENT", path
            assert details.startswith("malformed message"), path
