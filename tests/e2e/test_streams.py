"""ModelStreamInfer: an answer for each request in order, errors inside the stream, several models on one stream."""

import queue
from collections.abc import AsyncIterator, Iterable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.grpc import service_pb2

from runtime.client import Client, Request
from runtime.core.errors import ModelNotFound
from tests.e2e.daemon import OWN_CONNECTION, Daemon
from tests.e2e.messages import LIMIT_S, SERVICE, good
from tests.e2e.models import FOREVER

Answers = queue.Queue[tuple[Any, Any]]


@pytest.fixture
def client(daemon: Daemon) -> Iterator[Any]:
    with triton.InferenceServerClient(daemon.grpc, channel_args=OWN_CONNECTION) as opened:
        yield opened


def given(name: str, array: Any, datatype: str) -> Any:
    tensor = triton.InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array)
    return tensor


def row(number: int) -> Any:
    return given("x", np.full((1, 2), number, np.float32), "FP32")


def stream_of(channel: grpc.Channel, messages: Iterable[bytes]) -> list[Any]:
    """All messages that come back for `messages`."""
    read = service_pb2.ModelStreamInferResponse.FromString
    method: Any = channel.stream_stream(SERVICE + "ModelStreamInfer", None, read)
    return list(method(iter(messages), timeout=LIMIT_S))


def test_order_is_kept_and_errors_end_nothing(client: Any) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(40):
        model = "nobody" if number % 10 == 9 else "versions"
        client.async_stream_infer(model, [row(number)], request_id=str(number))
    for number in range(40):
        result, error = answers.get(timeout=LIMIT_S)
        if number % 10 == 9:
            assert result is None
            assert "unknown model: 'nobody'" in error.message()
        else:
            assert result.get_response().id == str(number)
            assert result.as_numpy("y")[0, 0] == 2 * number
    client.stop_stream()
    assert answers.empty()


def test_several_models_share_a_stream_and_the_slow_one_keeps_its_place(client: Any) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("spin", [given("turns", np.array([[5_000]]), "INT64")], request_id="slow")
    client.async_stream_infer("versions", [row(1)], request_id="quick", model_version="1")
    client.async_stream_infer("echo_int8", [given("x", np.ones((1, 1), np.int8), "INT8")], request_id="last")
    got = [answers.get(timeout=LIMIT_S) for _ in range(3)]
    client.stop_stream()
    assert [result.get_response().id for result, _ in got] == ["slow", "quick", "last"]
    assert [result.get_response().model_name for result, _ in got] == ["spin", "versions", "echo_int8"]


def test_what_was_sent_is_answered_after_a_half_close(client: Any) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        client.async_stream_infer("versions", [row(number)])
    client.stop_stream()  # waits for what is under way
    assert answers.qsize() == 20


def test_a_stream_can_be_cancelled(client: Any) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("spin", [given("turns", np.array([[FOREVER]]), "INT64")])
    client.stop_stream(cancel_requests=True)
    assert answers.get(timeout=LIMIT_S)[1].status() == "StatusCode.CANCELLED"
    turns = given("turns", np.array([[3]]), "INT64")
    assert client.infer("spin", [turns], client_timeout=LIMIT_S).as_numpy("turned").tolist() == [[3]]


def test_the_deadline_of_a_stream(client: Any) -> None:
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), stream_timeout=0.2)
    client.async_stream_infer("spin", [given("turns", np.array([[FOREVER]]), "INT64")])
    assert "deadline" in str(answers.get(timeout=LIMIT_S)[1]).lower()
    client.stop_stream()


@pytest.mark.parametrize("asks_for_empty", [False, True])
def test_every_answer_is_the_final_one(client: Any, asks_for_empty: bool) -> None:
    """Models here answer once; decoupled ones, which answer several times, would end with an empty message."""
    answers: Answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    client.async_stream_infer("versions", [row(1)], enable_empty_final_response=asks_for_empty)
    client.stop_stream()
    result, _ = answers.get(timeout=LIMIT_S)
    assert result.get_response().parameters["triton_final_response"].bool_param is True
    assert result.as_numpy("y").tolist() == [[2, 2]]
    assert answers.empty()


def test_an_error_has_the_id_of_its_request(channel: grpc.Channel) -> None:
    requests = [good("simple"), good("simple"), good("simple")]
    requests[1].id, requests[1].inputs[0].datatype = "mistaken", "FP32"
    first, second, third = stream_of(channel, [each.SerializeToString() for each in requests])
    assert (first.error_message, third.error_message) == ("", "")
    assert "data-type is 'FP32'" in second.error_message
    assert second.infer_response.id == "mistaken"
    assert second.infer_response.parameters["spillway_status"].string_param == "INVALID_ARGUMENT"
    assert not second.infer_response.outputs


def test_a_message_that_cannot_be_parsed_is_an_error_inside_the_stream(channel: grpc.Channel) -> None:
    wrong, right = stream_of(channel, [b"\xff", good("simple").SerializeToString()])
    assert "malformed message" in wrong.error_message
    assert right.infer_response.id == "good"


async def test_asyncio(daemon: Daemon) -> None:
    async def requests() -> AsyncIterator[dict[str, Any]]:
        for number in range(20):
            model = "nobody" if number == 7 else "versions"
            yield {"model_name": model, "inputs": [row(number)], "request_id": str(number)}

    async with triton_aio.InferenceServerClient(daemon.grpc, channel_args=OWN_CONNECTION) as client:
        got = [each async for each in client.stream_infer(requests(), stream_timeout=LIMIT_S)]
    assert [number for number, (_, error) in enumerate(got) if error is not None] == [7]
    assert [result.get_response().id for result, _ in got if result] == [str(n) for n in range(20) if n != 7]


def test_our_own_client(daemon: Daemon) -> None:
    ones = np.ones((1, 2), np.float32)
    with Client(daemon.grpc) as client:
        replies = list(client.stream(Request(model, {"x": ones}) for model in ("versions", "nobody", "versions")))
    assert [isinstance(reply.outcome, ModelNotFound) for reply in replies] == [False, True, False]
    assert replies[2].result()["y"].tolist() == [[2, 2]]
