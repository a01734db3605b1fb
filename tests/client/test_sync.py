"""The blocking client over the network."""

import itertools
import math
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.client import Answer, Client, Request
from runtime.core import errors
from runtime.core.errors import SpillwayError
from tests.client.server import ERRORS, Server, serving

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    with Client(server.address) as opened:
        yield opened


def test_arrays_there_and_back(client: Client) -> None:
    texts = np.array([["one", b"\xff\x00"]], object)
    answer = client.infer("echo", {"x": X, "texts": texts})
    assert (answer.model_name, answer.model_version) == ("echo", "1")
    assert list(answer.outputs) == ["x", "texts"]
    np.testing.assert_array_equal(answer["x"], X)
    assert answer["x"].dtype == np.float32
    assert answer["texts"].tolist() == [[b"one", b"\xff\x00"]]
    assert "x: FP32 [2, 3]" in repr(answer)
    with pytest.raises(KeyError):
        answer["y"]


def test_everything_that_can_be_asked_for(client: Client) -> None:
    answer = client.infer(
        "echo",
        {"x": X, "y": X},
        ["y"],
        version="1",
        request_id="seven",
        priority=2,
        timeout_us=500,
        parameters={"shade": "blue", "n": -1, "on": True, "share": 0.5},
        classification={"x": 3},
    )
    assert list(answer.outputs) == ["y", "x"]
    assert answer.parameters == {
        "shade": "blue",
        "n": -1,
        "on": True,
        "share": 0.5,
        "id": "seven",
        "priority": 2,
        "timeout": 500,
        "top x": 3,
    }


def test_large_answers_are_views_of_the_message(client: Client) -> None:
    large = np.arange(2_000_000, dtype=np.int64)  # 16 MB, beyond gRPC's own default limit
    back = client.infer("echo", {"x": large, "y": large}).outputs
    np.testing.assert_array_equal(back["x"], large)
    owners: set[int] = set()
    for array in back.values():
        assert not array.flags.owndata
        owner = array.base
        while isinstance(owner, np.ndarray):
            owner = owner.base
        assert isinstance(owner, memoryview)
        owners.add(id(owner.obj))
    assert len(owners) == 1


@pytest.mark.parametrize("model", ERRORS)
def test_errors_are_ours(client: Client, model: str) -> None:
    expected = ERRORS[model]
    with pytest.raises(SpillwayError) as caught:
        client.infer(model, {"x": X})
    if isinstance(expected, SpillwayError):
        assert isinstance(expected, type(caught.value))
        assert str(caught.value) == str(expected)
    else:
        assert isinstance(caught.value, errors.ExecutionError)
        assert str(caught.value) == "internal error"


def test_not_found(client: Client) -> None:
    with pytest.raises(errors.ModelNotFound) as model:
        client.infer("nowhere", {"x": X})
    assert model.value.model == "nowhere"
    with pytest.raises(errors.VersionNotFound) as version:
        client.infer("echo", {"x": X}, version="9")
    assert version.value.version == "9"


def test_deadline(client: Client, server: Server) -> None:
    started = time.monotonic()
    with pytest.raises(errors.DeadlineExpired):
        client.infer("stuck", {"x": X}, deadline_s=0.05)
    assert time.monotonic() - started < 5
    assert server.gone.wait(5)  # the server hears of it


def test_no_deadline(client: Client) -> None:
    np.testing.assert_array_equal(client.infer("echo", {"x": X}, deadline_s=math.inf)["x"], X)


def test_nobody_there(tmp_path: Path) -> None:
    with Client(f"unix:{tmp_path}/none") as client, pytest.raises(errors.CapacityError):
        client.infer("echo", {"x": X})


def test_close_ends_calls_under_way(server: Server) -> None:
    client = Client(server.address)
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            client.infer("stuck", {"x": X})
        except SpillwayError as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    assert server.stuck.wait(5)
    client.close()
    client.close()
    asking.join(5)
    assert [type(each) for each in outcome] == [errors.Cancelled]


def test_unix_socket(tmp_path: Path) -> None:
    with serving(f"unix:{tmp_path}/s") as server, Client(server.address) as client:
        np.testing.assert_array_equal(client.infer("echo", {"x": X})["x"], X)


def test_threads_share_a_client(client: Client) -> None:
    failures: list[int] = []

    def ask(number: int) -> None:
        array = np.full((4,), number, np.int32)
        answers = [client.infer("echo", {"x": array})["x"].tolist() for _ in range(10)]
        if answers != [array.tolist()] * 10:
            failures.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(10)
    assert not failures


def test_stream(client: Client) -> None:
    models = ["echo", "invalid", "echo", "nowhere", "bug", "echo"]
    requests = [Request(model, {"x": X + n}, request_id=str(n)) for n, model in enumerate(models)]
    replies = list(client.stream(requests))
    assert [reply.request_id for reply in replies] == [str(n) for n in range(6)]
    for n, reply in enumerate(replies):
        if models[n] == "echo":
            np.testing.assert_array_equal(reply.result()["x"], X + n)
            assert reply.result().parameters["triton_final_response"] is True
    kinds = [type(reply.outcome) for reply in replies]
    assert kinds == [Answer, errors.InvalidRequest, Answer, errors.ModelNotFound, errors.ExecutionError, Answer]
    with pytest.raises(errors.InvalidRequest, match="expected 8"):
        replies[1].result()


def test_leaving_a_stream_ends_it(client: Client) -> None:
    endless = (Request("echo", {"x": X}, request_id=str(n)) for n in itertools.count())
    stream = client.stream(endless)
    assert next(stream).request_id == "0"
    stream.close()
    assert list(stream) == []


def test_a_stream_that_breaks(client: Client) -> None:
    with pytest.raises(errors.CapacityError, match="is stopping"):
        list(client.stream([Request("broken stream", {"x": X})]))


def test_what_the_requests_raise_is_raised(client: Client) -> None:
    def requests() -> Iterator[Request]:
        yield Request("echo", {"x": X}, request_id="0")
        raise ValueError("the source is empty")

    stream = client.stream(requests())
    assert next(stream).request_id == "0"
    with pytest.raises(ValueError, match="the source is empty"):
        next(stream)
    stream = client.stream([Request("echo", {"x": X}), Request("echo", {"x": np.zeros(2, np.complex64)})])
    assert next(stream).request_id == ""
    with pytest.raises(errors.InvalidTensor, match="complex64"):
        next(stream)


def test_deadline_of_a_stream(client: Client) -> None:
    waiting = threading.Event()

    def requests() -> Iterator[Request]:
        yield Request("echo", {"x": X})
        waiting.wait(5)

    stream = client.stream(requests(), deadline_s=0.2)
    with pytest.raises(errors.DeadlineExpired):
        list(stream)
    waiting.set()


def test_control_calls(client: Client, server: Server) -> None:
    assert client.live()
    assert client.ready()
    assert client.model_ready("digits")
    assert not client.model_ready("digits", "2")
    assert client.server_metadata().name == "spillway"
    assert client.model_metadata("digits").inputs[0].name == "image"
    assert client.model_config("digits", "1").max_batch_size == 8
    assert client.statistics("digits")[0].inference_count == 7
    assert [(each.name, each.state) for each in client.index(ready_only=True)] == [("digits", "READY")]
    client.load("digits", config='{"name": "digits"}', files={"1/model.onnx": b"bytes"})
    client.unload("digits")
    load, unload = server.asked[-2:]
    assert load.parameters["config"].string_param == '{"name": "digits"}'
    assert load.parameters["file:1/model.onnx"].bytes_param == b"bytes"
    assert unload.model_name == "digits"


def test_control_calls_that_fail(client: Client) -> None:
    with pytest.raises(errors.ModelNotFound):
        client.model_metadata("nowhere")
    with pytest.raises(errors.ExecutionError, match="failed to load 'missing'"):
        client.load("missing")
