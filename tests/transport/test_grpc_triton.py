"""The front as tritonclient sees it: sync, asyncio and stream."""

import asyncio
import queue
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import pytest

from runtime.core.errors import ModelNotFound, SpillwayError
from runtime.core.inference import InferRequest, InferResult
from runtime.core.tensor import Array
from tests.fakes.engine import FakeEngine, echo
from tests.transport.grpc_harness import serving

triton = pytest.importorskip("tritonclient.grpc")
triton_aio = pytest.importorskip("tritonclient.grpc.aio")
utils = pytest.importorskip("tritonclient.utils")

_ResultT = TypeVar("_ResultT")

ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "INT8": np.array([[-1, 2]], np.int8),
    "UINT64": np.array([[2**63, 2]], np.uint64),
    "FP16": np.array([[1.5, -2]], np.float16),
    "FP32": np.array([[1.5, -2]], np.float32),
    "FP64": np.array([[1.5, -2]], np.float64),
    "BYTES": np.array([[b"a", b"\x00\xff"]], np.object_),
}


def tensor(array: Array, datatype: str, name: str = "x") -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


async def in_thread(port: int, work: Callable[[Any], _ResultT]) -> _ResultT:
    """Run `work` with a synchronous client, beside the server's loop."""

    def run() -> _ResultT:
        with triton.InferenceServerClient(f"127.0.0.1:{port}") as client:
            return work(client)

    return await asyncio.to_thread(run)


async def test_every_data_type_comes_back() -> None:
    def work(client: Any) -> None:
        for datatype, array in ARRAYS.items():
            answer = client.infer("digits", [tensor(array, datatype)], request_id=datatype)
            got = answer.as_numpy("x")
            assert got.tolist() == array.tolist(), datatype
            assert answer.get_response().id == datatype

    async with serving() as server:
        await in_thread(server.port, work)


async def test_a_large_tensor_comes_back() -> None:
    array = np.arange(1_000_000, dtype=np.float32).reshape(1, -1)

    async with serving() as server:
        got = await in_thread(server.port, lambda client: client.infer("m", [tensor(array, "FP32")]).as_numpy("x"))
    assert np.array_equal(got, array)


async def test_the_control_plane() -> None:
    def work(client: Any) -> None:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("digits")
        assert not client.is_model_ready("nobody")
        assert client.get_server_metadata().name == "triton"
        assert client.get_model_metadata("digits").inputs[0].name == "x"
        assert client.get_model_config("digits").config.max_batch_size == 8
        assert client.get_inference_statistics().model_stats[0].name == "digits"
        assert client.get_model_repository_index().models[0].state == "READY"
        client.load_model("digits", config="{}", files={"file:1/model.onnx": b"onnx"})
        client.unload_model("digits")

    async with serving() as server:
        await in_thread(server.port, work)
        assert server.manager.loads == [("digits", "{}", {"file:1/model.onnx": b"onnx"})]
        assert server.manager.unloads == ["digits"]


async def test_errors_have_the_code_in_their_status() -> None:
    def work(client: Any) -> None:
        with pytest.raises(utils.InferenceServerException, match="Request for unknown model") as failure:
            client.get_model_metadata("nobody")
        assert failure.value.status() == "StatusCode.NOT_FOUND"
        with pytest.raises(utils.InferenceServerException) as failure:
            client.get_system_shared_memory_status()
        assert failure.value.status() == "StatusCode.UNIMPLEMENTED"

    async with serving() as server:
        await in_thread(server.port, work)


@pytest.mark.parametrize("compression", ["gzip", "deflate"])
async def test_compressed_requests(compression: str) -> None:
    array = np.zeros((1, 10_000), np.float32)
    async with serving() as server:
        answer = await in_thread(
            server.port,
            lambda client: client.infer("m", [tensor(array, "FP32")], compression_algorithm=compression).as_numpy("x"),
        )
    assert np.array_equal(answer, array)


async def test_the_asyncio_client() -> None:
    async with serving() as server, triton_aio.InferenceServerClient(server.address) as client:
        answers = await asyncio.gather(
            *(client.infer("m", [tensor(np.array([[n]], np.float32), "FP32")]) for n in range(50))
        )
        assert [answer.as_numpy("x").item() for answer in answers] == list(range(50))


async def test_a_stream_keeps_order_and_survives_an_error() -> None:
    def answer(request: InferRequest) -> InferResult | SpillwayError:
        return ModelNotFound("m") if request.request_id == "3" else echo(request)

    def work(client: Any) -> list[str]:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        for n in range(8):
            array = np.array([[n]], np.float32)
            client.async_stream_infer(
                "m", [tensor(array, "FP32")], request_id=str(n), enable_empty_final_response=bool(n % 2)
            )
        seen = []
        for _ in range(8):
            result, error = answers.get(timeout=10)
            if error is not None:
                seen.append(str(error))
                continue
            response = result.get_response()
            assert response.parameters["triton_final_response"].bool_param
            seen.append(response.id)
        client.stop_stream()
        return seen

    async with serving(FakeEngine(answer)) as server:
        seen = await in_thread(server.port, work)

    assert seen[3].endswith("Request for unknown model: 'm' is not found")
    assert seen[:3] + seen[4:] == ["0", "1", "2", "4", "5", "6", "7"]


async def test_a_cancelled_call_leaves_the_queue() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine) as server, triton_aio.InferenceServerClient(server.address) as client:
        rpc = asyncio.create_task(client.infer("m", [tensor(np.array([[1.0]], np.float32), "FP32")]))
        await engine.holds(1)
        rpc.cancel()
        await engine.holds(0)
        assert engine.cancelled == 1
