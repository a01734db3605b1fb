"""NVIDIA's tritonclient over HTTP, unchanged: tensors as binary data and as JSON, blocking and asyncio."""

import asyncio
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from tests.e2e.arrays import ARRAYS
from tests.e2e.daemon import Daemon

NOT_IN_JSON = ("FP16", "BF16")


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    with triton.InferenceServerClient(daemon.http, concurrency=8) as opened:
        yield opened


def given(name: str, array: Any, datatype: str, *, binary: bool = True) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=binary)
    return tensor


@pytest.mark.parametrize("datatype", ARRAYS)
def test_every_data_type_as_binary(client: Any, datatype: str) -> None:
    array = ARRAYS[datatype]
    result = client.infer(f"echo_{datatype.lower()}", [given("x", array, datatype)])
    np.testing.assert_array_equal(result.as_numpy("y"), array)
    assert result.get_output("y")["datatype"] == datatype


@pytest.mark.parametrize("datatype", [name for name in ARRAYS if name not in NOT_IN_JSON])
def test_every_data_type_as_json(client: Any, datatype: str) -> None:
    array = np.nan_to_num(ARRAYS[datatype]) if datatype == "FP32" else ARRAYS[datatype]
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    result = client.infer(f"echo_{datatype.lower()}", [given("x", array, datatype, binary=False)], outputs=wanted)
    texts = array.tolist()
    if datatype == "BYTES":
        texts = [[word.decode() for word in row] for row in texts]  # its as_numpy leaves the strings of JSON alone
    assert result.as_numpy("y").tolist() == texts


def test_what_json_cannot_carry_is_refused_with_the_way_out(client: Any) -> None:
    wanted = [triton.InferRequestedOutput("y", binary_data=False)]
    with pytest.raises(InferenceServerException, match="binary") as caught:
        client.infer("echo_fp32", [given("x", ARRAYS["FP32"], "FP32")], outputs=wanted)
    assert caught.value.status() == "400"


def test_one_output_of_two(client: Any) -> None:
    rows = np.arange(32, dtype=np.int32).reshape(2, 16)
    inputs = [given("INPUT0", rows, "INT32"), given("INPUT1", rows, "INT32", binary=False)]
    wanted = [triton.InferRequestedOutput("OUTPUT0")]
    result = client.infer("simple", inputs, outputs=wanted, request_id="seven", model_version="1")
    np.testing.assert_array_equal(result.as_numpy("OUTPUT0"), 2 * rows)
    assert result.as_numpy("OUTPUT1") is None
    assert result.get_response()["id"] == "seven"


def test_classification(client: Any) -> None:
    scores = np.array([[0.1, 0.7, 0.2, 0.0]], np.float32)
    wanted = [triton.InferRequestedOutput("y", class_count=1)]
    result = client.infer("classes", [given("x", scores, "FP32")], outputs=wanted)
    assert result.as_numpy("y").tolist() == [[b"0.700000:1:green"]]


def test_many_requests_at_once(client: Any) -> None:
    rows = [np.full((1, 2), number, np.float32) for number in range(50)]
    asked = [client.async_infer("versions", [given("x", each, "FP32")]) for each in rows]
    assert [each.get_result().as_numpy("y")[0, 0] for each in asked] == [2 * number for number in range(50)]


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compression(client: Any, algorithm: str) -> None:
    array = np.zeros((100, 1000), np.float32)
    coding = {"request_compression_algorithm": algorithm, "response_compression_algorithm": algorithm}
    np.testing.assert_array_equal(client.infer("echo_fp32", [given("x", array, "FP32")], **coding).as_numpy("y"), array)


def test_errors_have_status_and_text(client: Any) -> None:
    with pytest.raises(InferenceServerException) as caught:
        client.infer("nobody", [given("x", ARRAYS["FP32"], "FP32")])
    assert caught.value.status() == "404"
    assert caught.value.message() == "Request for unknown model: 'nobody' is not found"


def test_the_control_plane(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple")
    assert not client.is_model_ready("nobody")
    assert client.get_server_metadata()["name"] == "triton"
    assert client.get_model_metadata("simple")["inputs"][0]["shape"] == [-1, 16]
    assert client.get_model_config("simple")["max_batch_size"] == 8
    assert "READY" in {each.get("state") for each in client.get_model_repository_index()}
    assert client.get_inference_statistics("simple")["model_stats"][0]["name"] == "simple"
    with pytest.raises(InferenceServerException, match="failed to load 'nobody'"):
        client.load_model("nobody")
    client.unload_model("nobody")


async def test_asyncio(daemon: Daemon) -> None:
    rows = [np.full((1, 2), number, np.float32) for number in range(20)]
    async with triton_aio.InferenceServerClient(daemon.http) as client:
        assert await client.is_server_ready()
        answers = await asyncio.gather(*(client.infer("versions", [given("x", each, "FP32")]) for each in rows))
    assert [each.as_numpy("z")[0, 0] for each in answers] == [2 * number for number in range(20)]
