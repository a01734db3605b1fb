"""tritonclient.http against our front: what its users call, in a thread of its own."""

import asyncio
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from runtime.core import errors
from runtime.core.inference import InferRequest, InferResult, OutputTensor
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pb import model_config_pb2 as config_pb
from tests.transport.http_harness import App, FakeControl, FakeEngine, as_array, serving

client_of_triton = pytest.importorskip("tritonclient.http")
InferInput, InferRequestedOutput = client_of_triton.InferInput, client_of_triton.InferRequestedOutput


async def with_client(app: App, use: Callable[[Any], Any]) -> Any:
    def work() -> Any:
        client = client_of_triton.InferenceServerClient(f"127.0.0.1:{app.port}")
        try:
            return use(client)
        finally:
            client.close()

    return await asyncio.to_thread(work)


def given(name: str, array: np.ndarray[Any, Any], datatype: str, *, binary: bool = True) -> Any:
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("outputs", ["all", "binary", "json"])
@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("FP32", np.array([[1.5, -0.25], [3e38, 1e-45]], np.float32)),
        ("FP64", np.array([1e308])),
        ("INT8", np.array([-128, 127], np.int8)),
        ("INT64", np.array([-(2**63), 2**63 - 1])),
        ("UINT64", np.array([2**64 - 1], np.uint64)),
        ("BOOL", np.array([True, False])),
        ("BYTES", np.array([b"one", "zw\u00f6lf".encode(), b""], dtype=object)),
    ],
)
async def test_tensors_both_ways(datatype: str, array: np.ndarray[Any, Any], binary_in: bool, outputs: str) -> None:
    wanted = None if outputs == "all" else [InferRequestedOutput("x", binary_data=outputs == "binary")]

    def use(client: Any) -> Any:
        return client.infer(
            "m", [given("x", array, datatype, binary=binary_in)], outputs=wanted, request_id="7", model_version="2"
        )

    async with serving() as app:
        result = await with_client(app, use)
    said = result.get_response()
    assert (said["id"], said["model_name"], said["model_version"]) == ("7", "m", "2")
    got = result.as_numpy("x")
    expected = array.tolist()
    if datatype == "BYTES" and outputs == "json":
        expected = [item.decode() for item in expected]  # its as_numpy leaves JSON strings as they are
    assert got.tolist() == expected


async def test_several_inputs_and_one_output_of_them() -> None:
    left, right = np.arange(4, dtype=np.float32), np.arange(3, dtype=np.float16)

    def use(client: Any) -> Any:
        inputs = [given("l", left, "FP32"), given("r", right, "FP16")]
        return client.infer("m", inputs, outputs=[InferRequestedOutput("r")]).as_numpy("r")

    async with serving() as app:
        assert (await with_client(app, use)).tolist() == right.tolist()
        assert as_array(app.engine.seen[0], 0).tolist() == left.tolist()


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compression(coding: str) -> None:
    array = np.zeros(50_000, np.float32)

    def use(client: Any) -> Any:
        return client.infer(
            "m",
            [given("x", array, "FP32")],
            request_compression_algorithm=coding,
            response_compression_algorithm=coding,
        ).as_numpy("x")

    async with serving() as app:
        np.testing.assert_array_equal(await with_client(app, use), array)


async def test_priority_timeout_and_parameters_reach_the_engine() -> None:
    def use(client: Any) -> Any:
        tensor = given("x", np.zeros(1, np.float32), "FP32")
        client.infer("m", [tensor], priority=3, timeout=5000, parameters={"mine": "yes"})

    async with serving() as app:
        await with_client(app, use)
    head = app.engine.seen[0].head
    assert (head.priority, head.timeout_us, head.parameters["mine"]) == (3, 5000, "yes")


async def test_classification_is_asked_of_the_engine() -> None:
    def classes(request: InferRequest) -> InferResult:
        assert request.head.outputs[0].classification == 1
        array = np.array([["0.9:1:cat"]], dtype=object)
        return InferResult("m", "1", [OutputTensor("y", "BYTES", array)])

    def use(client: Any) -> Any:
        tensor = given("x", np.zeros(1, np.float32), "FP32")
        return client.infer("m", [tensor], outputs=[InferRequestedOutput("y", class_count=1)]).as_numpy("y")

    async with serving(FakeEngine(answer=classes)) as app:
        assert (await with_client(app, use)).tolist() == [[b"0.9:1:cat"]]


async def test_errors_carry_status_and_text() -> None:
    def use(client: Any) -> Any:
        with pytest.raises(client_of_triton.InferenceServerException) as caught:
            client.infer("m", [given("x", np.zeros(1, np.float32), "FP32")])
        return caught.value

    async with serving(FakeEngine(answer=lambda _: errors.ModelNotFound("m"))) as app:
        error = await with_client(app, use)
    assert error.status() == "404"
    assert error.message() == "Request for unknown model: 'm' is not found"


async def test_many_requests_at_once() -> None:
    def use(_: Any) -> list[float]:
        with_pool = client_of_triton.InferenceServerClient(f"127.0.0.1:{app.port}", concurrency=8)
        asked = [
            with_pool.async_infer("m", [given("x", np.full(1, number, np.float32), "FP32")]) for number in range(20)
        ]
        answers = [float(each.get_result().as_numpy("x")[0]) for each in asked]
        with_pool.close()
        return answers

    async with serving() as app:
        assert await with_client(app, use) == list(range(20))


async def test_the_control_plane() -> None:
    index = pb.RepositoryIndexResponse()
    index.models.add(name="m", version="1", state="READY")
    statistics = pb.ModelStatisticsResponse()
    statistics.model_stats.add(name="m", version="1", inference_count=5)
    control = FakeControl(
        {
            "ServerLive": pb.ServerLiveResponse(live=True),
            "ServerReady": pb.ServerReadyResponse(ready=True),
            "ModelReady": pb.ModelReadyResponse(ready=True),
            "ServerMetadata": pb.ServerMetadataResponse(name="triton", version="0.1.0"),
            "ModelMetadata": pb.ModelMetadataResponse(name="m", versions=["1"]),
            "ModelConfig": pb.ModelConfigResponse(config=config_pb.ModelConfig(name="m", max_batch_size=8)),
            "ModelStatistics": statistics,
            "RepositoryIndex": index,
        }
    )

    def use(client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("m")
        assert client.is_model_ready("m", "1")
        assert client.get_server_metadata()["name"] == "triton"
        assert client.get_model_metadata("m")["versions"] == ["1"]
        assert client.get_model_config("m", "1")["max_batch_size"] == 8
        assert client.get_inference_statistics()["model_stats"][0]["inference_count"] == 5
        assert client.get_inference_statistics("m", "1")["model_stats"][0]["name"] == "m"
        assert client.get_model_repository_index() == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
        client.load_model("m")
        client.load_model("m", config="{}", files={"file:1/model.onnx": b"\0bytes"})
        client.unload_model("m", unload_dependents=True)

    async with serving(control=control) as app:
        await with_client(app, use)
    plain_load, load, unload = control.asked[-3:]
    assert plain_load == pb.RepositoryModelLoadRequest(model_name="m")
    assert load.parameters["file:1/model.onnx"].bytes_param == b"\0bytes"
    assert unload.parameters["unload_dependents"].bool_param


async def test_not_ready_is_said() -> None:
    def use(client: Any) -> tuple[bool, bool]:
        return client.is_server_ready(), client.is_model_ready("m")

    async with serving() as app:
        assert await with_client(app, use) == (False, False)
