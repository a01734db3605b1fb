import base64
from typing import Any

import pytest

from runtime.core import errors
from runtime.repository.index import IndexEntry, ServingIndex
from runtime.transport.control import ControlHandlers
from runtime.transport.routes import CoroutineHandler
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pb import model_config_pb2 as config_pb
from tests.transport.http_harness import FakeControl, FakeRepository, serving

LOAD = "/v2/repository/models/m/load"
UNLOAD = "/v2/repository/models/m/unload"


async def test_healthz_says_that_the_process_answers() -> None:
    async with serving() as app:
        assert await app.get("/healthz") == (200, {"live": True})
    assert app.control.asked == []


async def test_readyz_names_what_is_not_ready() -> None:
    repository = FakeRepository(
        [
            IndexEntry("a", 1, "READY"),
            IndexEntry("b", 1, "FAILED"),
            IndexEntry("c", 2, "LOADING"),
            IndexEntry("d", 1, "UNLOADED"),
        ]
    )
    control = FakeControl({"ServerReady": pb.ServerReadyResponse(ready=False)})
    async with serving(control=control, repository=repository) as app:
        status, said = await app.get("/readyz")
        assert status == 503
        assert said == {
            "ready": False,
            "not_ready": [
                {"model": "b", "version": "1", "state": "FAILED"},
                {"model": "c", "version": "2", "state": "LOADING"},
            ],
        }
        control.answers["ServerReady"] = pb.ServerReadyResponse(ready=True)
        assert (await app.get("/readyz"))[0] == 200


@pytest.mark.parametrize(
    ("path", "rpc", "yes", "no"),
    [
        ("/v2/health/live", "ServerLive", pb.ServerLiveResponse(live=True), pb.ServerLiveResponse()),
        ("/v2/health/ready", "ServerReady", pb.ServerReadyResponse(ready=True), pb.ServerReadyResponse()),
        ("/v2/models/m/ready", "ModelReady", pb.ModelReadyResponse(ready=True), pb.ModelReadyResponse()),
        ("/v2/models/m/versions/3/ready", "ModelReady", pb.ModelReadyResponse(ready=True), pb.ModelReadyResponse()),
    ],
)
async def test_health(path: str, rpc: str, yes: Any, no: Any) -> None:
    async with serving(control=FakeControl({rpc: yes})) as app:
        assert await app.get(path) == (200, None)
        app.control.answers[rpc] = no
        assert await app.get(path) == (400, None)


async def test_readiness_asks_for_model_and_version() -> None:
    async with serving() as app:
        await app.get("/v2/models/m/versions/3/ready")
        await app.get("/v2/models/m/ready")
    assert app.control.asked == [pb.ModelReadyRequest(name="m", version="3"), pb.ModelReadyRequest(name="m")]


async def test_server_metadata() -> None:
    metadata = pb.ServerMetadataResponse(name="triton", version="0.1.0", extensions=["binary_tensor_data"])
    async with serving(control=FakeControl({"ServerMetadata": metadata})) as app:
        assert await app.get("/v2") == (
            200,
            {"name": "triton", "version": "0.1.0", "extensions": ["binary_tensor_data"]},
        )


async def test_model_metadata_has_numbers_for_dimensions() -> None:
    tensor = pb.ModelMetadataResponse.TensorMetadata(name="x", datatype="FP32", shape=[-1, 16])
    metadata = pb.ModelMetadataResponse(name="m", versions=["1"], platform="onnxruntime_onnx", inputs=[tensor])
    async with serving(control=FakeControl({"ModelMetadata": metadata})) as app:
        status, said = await app.get("/v2/models/m/versions/1")
    assert status == 200
    assert said["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 16]}]
    assert said["outputs"] == []
    assert app.control.asked == [pb.ModelMetadataRequest(name="m", version="1")]


async def test_config_is_printed_whole() -> None:
    config = config_pb.ModelConfig(name="m", max_batch_size=8)
    config.input.add(name="x", data_type=config_pb.TYPE_FP32, dims=[2**40])
    config.dynamic_batching.preferred_batch_size.append(4)
    config.parameters["k"].string_value = "v"
    control = FakeControl({"ModelConfig": pb.ModelConfigResponse(config=config)})
    async with serving(control=control) as app:
        _, said = await app.get("/v2/models/m/config")
    assert said["max_batch_size"] == 8
    assert said["backend"] == ""
    assert said["input"][0]["data_type"] == "TYPE_FP32"
    assert said["input"][0]["dims"] == [2**40]
    assert said["dynamic_batching"]["preferred_batch_size"] == [4]
    assert said["parameters"] == {"k": {"string_value": "v"}}
    assert "sequence_batching" not in said


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v2/models/stats", pb.ModelStatisticsRequest()),
        ("/v2/models/m/stats", pb.ModelStatisticsRequest(name="m")),
        ("/v2/models/m/versions/2/stats", pb.ModelStatisticsRequest(name="m", version="2")),
    ],
)
async def test_statistics_are_numbers(path: str, asked: pb.ModelStatisticsRequest) -> None:
    one = pb.ModelStatistics(name="m", version="2", inference_count=2**53)
    one.inference_stats.success.CopyFrom(pb.StatisticDuration(count=3, ns=4))
    control = FakeControl({"ModelStatistics": pb.ModelStatisticsResponse(model_stats=[one])})
    async with serving(control=control) as app:
        status, said = await app.get(path)
    assert (status, app.control.asked) == (200, [asked])
    assert said["model_stats"][0]["inference_count"] == 2**53
    assert said["model_stats"][0]["inference_stats"]["success"] == {"count": 3, "ns": 4}


async def test_index() -> None:
    reply = pb.RepositoryIndexResponse()
    reply.models.add(name="m", version="1", state="READY")
    async with serving(control=FakeControl({"RepositoryIndex": reply})) as app:
        expected = [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
        assert await app.post("/v2/repository/index") == (200, expected)
        await app.post("/v2/repository/index", {"ready": True})
    assert [asked.ready for asked in app.control.asked] == [False, True]


async def test_load_with_config_and_files() -> None:
    parameters = {"config": "{}", "file:1/model.onnx": base64.b64encode(b"\0onnx").decode(), "flag": True, "n": 7}
    async with serving() as app:
        assert await app.post(LOAD, {"parameters": parameters}) == (200, None)
        assert await app.post(UNLOAD, {"parameters": {"unload_dependents": False}}) == (200, None)
        assert await app.post(UNLOAD) == (200, None)
    load, unload, bare = app.control.asked
    assert load.model_name == "m"
    assert load.parameters["config"].string_param == "{}"
    assert load.parameters["file:1/model.onnx"].bytes_param == b"\0onnx"
    assert load.parameters["flag"].bool_param is True
    assert load.parameters["n"].int64_param == 7
    assert unload.parameters["unload_dependents"].HasField("bool_param")
    assert bare == pb.RepositoryModelUnloadRequest(model_name="m")


@pytest.mark.parametrize(
    ("body", "phrase"),
    [
        (b"{", "failed to parse"),
        (b"[]", "Expected `object`"),
        (b"[" * 100_000, "failed to parse"),
        (b'{"parameters": {"file:1/model.onnx": "not base64!"}}', "is not base64"),
        (b'{"parameters": {"file:1/model.onnx": "\xc3\xa4"}}', "is not base64"),
        (b'{"parameters": {"n": 99999999999999999999}}', "outside 64 bits"),
        (b'{"parameters": {"config": {"name": "m"}}}', "failed to parse"),
        (b'{"parameters": {"x": 1.5}}', "failed to parse"),
    ],
)
async def test_changes_that_are_refused_before_the_repository(body: bytes, phrase: str) -> None:
    async with serving() as app:
        status, said = await app.post(LOAD, body)
    assert (status, app.control.asked) == (400, [])
    assert phrase in said["error"]


async def test_load_may_be_larger_than_json_elsewhere() -> None:
    body = {"parameters": {"file:1/model.onnx": base64.b64encode(bytes(3000)).decode()}}
    async with serving(max_json_bytes=1000, max_body_bytes=5000) as app:
        assert (await app.post(LOAD, body))[0] == 200
        assert (await app.post(UNLOAD, body))[0] == 413
    async with serving(max_body_bytes=4000) as app:
        assert (await app.post(LOAD, body))[0] == 413


async def test_the_codes_are_those_of_grpc() -> None:
    control = FakeControl(
        {
            "RepositoryModelLoad": errors.PollFailed("m", "no such folder"),
            "RepositoryModelUnload": errors.LoadFailed("m", "why not"),
            "ModelConfig": errors.ModelNotFound("m"),
            "ModelStatistics": errors.InvalidRequest("no"),
        }
    )
    async with serving(control=control) as app:
        status, said = await app.post(LOAD)
        assert status == 500
        assert "failed to load 'm'" in said["error"]
        assert (await app.post(UNLOAD))[0] == 400
        assert (await app.get("/v2/models/m/config"))[0] == 404
        assert (await app.get("/v2/models/m/stats"))[0] == 400


class RealControl(FakeControl):
    """The handlers of the gRPC side, over a repository without models."""

    def rpcs(self) -> dict[str, CoroutineHandler]:
        return ControlHandlers(NoModels(), lambda: True, "0.1.0").routes()  # type: ignore[arg-type]


class NoModels(ServingIndex):
    async def rescan(self) -> None:
        pass

    def index(self) -> list[IndexEntry]:
        return self.listing(("never-loaded",))

    def is_ready(self, model: str, version: str) -> bool:
        return False


async def test_the_handlers_of_grpc_answer_every_route() -> None:
    async with serving(control=RealControl()) as app:
        assert (await app.get("/v2"))[1]["name"] == "triton"
        assert await app.get("/v2/health/live") == (200, None)
        assert (await app.get("/readyz"))[0] == 200
        assert await app.get("/v2/models/m/ready") == (400, None)
        assert await app.get("/v2/models/m") == (404, {"error": "Request for unknown model: 'm' is not found"})
        assert (await app.get("/v2/models/m/versions/1/config"))[0] == 404
        assert (await app.get("/v2/models/m/stats"))[0] == 400
        assert await app.get("/v2/models/stats") == (200, {"model_stats": []})
        status, listed = await app.post("/v2/repository/index")
        assert (status, listed[0]["name"]) == (200, "never-loaded")
        status, said = await app.post(LOAD, {"parameters": {"confg": "{}"}})
        assert (status, said) == (400, {"error": "unrecognized load parameter 'confg'"})


async def test_handlers_see_a_call() -> None:
    async with serving() as app:
        await app.get("/v2", headers={"X-Mine": "yes"})
    (call,) = app.control.calls
    assert call.peer == "127.0.0.1"
    assert call.identity.names == ()
    assert call.metadata["x-mine"] == "yes"
    assert call.deadline == float("inf")
