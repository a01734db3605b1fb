"""NVIDIA's tritonclient, unchanged: gRPC blocking and asyncio, and our own client beside it in one process."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from runtime.client import Client
from tests.e2e.arrays import ARRAYS
from tests.e2e.daemon import OWN_CONNECTION, Daemon
from tests.e2e.models import FOREVER, LABELS

LIMIT_S = 10.0


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    with triton.InferenceServerClient(daemon.grpc, channel_args=OWN_CONNECTION) as opened:
        yield opened


def given(name: str, array: Any, datatype: str) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def simple_inputs() -> list[Any]:
    left, right = np.arange(16, dtype=np.int32).reshape(1, 16), np.ones((1, 16), np.int32)
    return [given("INPUT0", left, "INT32"), given("INPUT1", right, "INT32")]


@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_data_type(client: Any, datatype: str) -> None:
    array = ARRAYS[datatype]
    result = client.infer(f"echo_{datatype.lower()}", [given("x", array, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)
    assert result.get_output("y").datatype == datatype


def test_the_simple_examples(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("OUTPUT1")]
    result = client.infer("simple", simple_inputs(), outputs=wanted, request_id="seven", model_version="1")
    assert result.as_numpy("OUTPUT1").tolist() == [list(range(-1, 15))]
    assert result.as_numpy("OUTPUT0") is None
    assert result.get_response().id == "seven"
    words = [np.array([[b"left", b"up"]], np.object_), np.array([[b" right", b" down"]], np.object_)]
    result = client.infer("simple_string", [given(f"INPUT{k}", each, "BYTES") for k, each in enumerate(words)])
    assert result.as_numpy("OUTPUT0").tolist() == [[b"left right", b"up down"]]


def test_classification(client: Any) -> None:
    scores = np.array([[0.1, 0.7, 0.2, 0.0], [0.9, 0.0, 0.0, 0.1]], np.float32)
    wanted = [triton.InferRequestedOutput("y", class_count=2)]
    result = client.infer("classes", [given("x", scores, "FP32")], outputs=wanted)
    assert result.as_numpy("y").tolist() == [
        [f"0.700000:1:{LABELS[1]}".encode(), f"0.200000:2:{LABELS[2]}".encode()],
        [f"0.900000:0:{LABELS[0]}".encode(), b"0.100000:3"],
    ]


def test_versions(client: Any) -> None:
    ones = given("x", np.ones((1, 2), np.float32), "FP32")
    for version, factor in (("1", 1), ("2", 2), ("", 2)):
        result = client.infer("versions", [ones], model_version=version)
        assert result.as_numpy("y").tolist() == [[factor, factor]]
        assert result.get_response().model_version == str(factor)


def test_many_requests_at_once(client: Any) -> None:
    answers: list[Future[Any]] = [Future() for _ in range(50)]

    def keep(number: int) -> Any:
        def callback(result: Any, error: Any) -> None:
            if error is None:
                answers[number].set_result(result)
            else:
                answers[number].set_exception(error)

        return callback

    for number in range(50):
        rows = np.full((1, 2), number, np.float32)
        client.async_infer("versions", [given("x", rows, "FP32")], keep(number), model_version="1")
    assert [each.result(LIMIT_S).as_numpy("z")[0, 0] for each in answers] == list(range(50))


def test_errors_have_code_and_text(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nobody", simple_inputs())
    assert caught.value.status() == "StatusCode.NOT_FOUND"
    assert caught.value.message() == "Request for unknown model: 'nobody' is not found"
    with pytest.raises(InferenceServerException) as caught:
        client.infer("spin", [given("turns", np.array([[FOREVER]]), "INT64")], client_timeout=0.1)
    assert caught.value.status() == "StatusCode.DEADLINE_EXCEEDED"


def test_a_call_can_be_cancelled(client: Any) -> None:
    outcome: Future[Any] = Future()
    turns = given("turns", np.array([[FOREVER]]), "INT64")
    call = client.async_infer("spin", [turns], lambda result, error: outcome.set_result((result, error)))
    call.cancel()
    result, error = outcome.result(LIMIT_S)
    assert (result, error.status()) == (None, "StatusCode.CANCELLED")
    turns.set_data_from_numpy(np.array([[3]]))
    assert client.infer("spin", [turns]).as_numpy("turned").tolist() == [[3]]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    array = np.zeros((100, 1000), np.float32)
    result = client.infer("echo_fp32", [given("x", array, "FP32")], compression_algorithm=algorithm)
    np.testing.assert_array_equal(result.as_numpy("y"), array)


def test_the_control_plane(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata().name == "triton"
    assert client.get_model_metadata("simple", as_json=True)["inputs"][0]["name"] == "INPUT0"
    assert client.get_model_config("simple").config.max_batch_size == 8
    assert "READY" in {each.state for each in client.get_model_repository_index().models}
    statistics = client.get_inference_statistics("simple", as_json=True)["model_stats"][0]
    assert int(statistics["inference_stats"]["success"]["count"]) > 0
    with pytest.raises(InferenceServerException, match="failed to load 'nobody'"):
        client.load_model("nobody")
    client.unload_model("nobody")
    with pytest.raises(InferenceServerException, match="not offered") as caught:
        client.get_system_shared_memory_status()
    assert caught.value.status() == "StatusCode.UNIMPLEMENTED"


async def test_asyncio(daemon: Daemon) -> None:
    async with triton_aio.InferenceServerClient(daemon.grpc, channel_args=OWN_CONNECTION) as client:
        assert await client.is_server_ready()
        assert (await client.get_model_metadata("simple")).inputs[0].datatype == "INT32"
        rows = [given("x", np.full((1, 2), number, np.float32), "FP32") for number in range(50)]
        answers = await asyncio.gather(*(client.infer("versions", [each]) for each in rows))
        assert [each.as_numpy("y")[0, 0] for each in answers] == [2 * number for number in range(50)]
        with pytest.raises(InferenceServerException) as caught:
            await client.infer("simple", simple_inputs()[:1])
        assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_our_client_beside_it_in_one_process(client: Any, daemon: Daemon) -> None:
    """Both bring message classes of the same protocol; protobuf allows a name once in a process."""
    array = np.arange(4, dtype=np.float32).reshape(2, 2)
    with Client(daemon.grpc) as ours:
        mine = ours.infer("versions", {"x": array})
        theirs = client.infer("versions", [given("x", array, "FP32")])
        np.testing.assert_array_equal(mine["y"], theirs.as_numpy("y"))
        assert ours.model_config("versions").max_batch_size == client.get_model_config("versions").config.max_batch_size
