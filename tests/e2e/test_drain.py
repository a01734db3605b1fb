"""SIGTERM: what is in flight finishes, what is new is refused, and clients that have another server lose nothing."""

import asyncio
import queue
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as triton

from runtime.client import Client
from runtime.core.errors import CapacityError
from tests.e2e import models
from tests.e2e.daemon import Daemon, channel_to, running, until
from tests.e2e.messages import LIMIT_S, SERVICE, good, infer, refusal, rpc
from tests.e2e.traffic import Traffic
from tests.e2e.web import fetch

QUESTIONS = 10_000
RESTARTS = 3
ONES = np.ones((1, 2), np.float32)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    models.add(tmp_path / "models", "spin", {1: models.spin()}, "max_batch_size: 1")
    models.add(tmp_path / "models", "times", {1: models.times(3)})
    return tmp_path / "models"


@pytest.fixture
def daemon(place: Path, folder: Path) -> Iterator[Daemon]:
    with running(place, folder / "draining") as process:
        yield process


def turns_of_a_second(client: Client) -> int:
    """How often `spin` turns in about a second, here and now."""
    begun = time.perf_counter()
    client.infer("spin", {"turns": np.array([[50_000]])})
    return int(50_000 / (time.perf_counter() - begun))


def occupy(daemon: Daemon, channel: grpc.Channel, turns: int) -> Any:
    """A call of `spin` that is under way."""
    call = rpc(channel, "ModelInfer").future(good("spin", turns=turns).SerializeToString(), timeout=LIMIT_S)
    until(lambda: daemon.occupancy("spin") == (1, 0), LIMIT_S, "it does not run")
    return call


async def test_nothing_is_lost_while_servers_are_restarted(place: Path, folder: Path) -> None:
    """Two servers, one of them restarted after the other, as an update goes over a fleet."""
    with ExitStack() as stack:
        both = [stack.enter_context(running(place, folder / f"server{number}")) for number in range(2)]
        addresses = [daemon.grpc for daemon in both]
        async with Traffic(addresses, "times") as traffic:
            for restart in range(RESTARTS):
                await traffic.more(100)
                number = restart % 2
                status = await asyncio.to_thread(both[number].stop)
                assert status == 0, both[number].log
                port = addresses[number].rpartition(":")[2]
                again = running(place, folder / f"server{number}", "--grpc-port", port)
                both[number] = await asyncio.to_thread(stack.enter_context, again)
            await traffic.more(max(100, QUESTIONS - traffic.answered))
        assert [daemon.stop() for daemon in both] == [0, 0]
    assert (traffic.failures, traffic.answered) == ([], traffic.asked)
    assert traffic.asked >= QUESTIONS
    assert traffic.refusals >= RESTARTS  # or nobody was there to be disturbed


def refusal_of(client: Client) -> str:
    """Ask until it is refused; the text of the refusal."""
    ends = time.monotonic() + LIMIT_S
    while time.monotonic() < ends:
        try:
            client.infer("times", {"x": ONES})
        except CapacityError as error:
            return str(error)
    raise AssertionError("it was never refused")


def test_what_is_in_flight_finishes_and_what_is_new_is_refused(daemon: Daemon) -> None:
    with channel_to(daemon.grpc) as channel, Client(daemon.grpc) as client:
        running_call = occupy(daemon, channel, turns_of_a_second(client))
        daemon.signal_stop()
        assert refusal_of(client) == "server is stopping, new requests are not accepted"
        assert not running_call.done()
        assert running_call.result(LIMIT_S)
    assert daemon.wait() == 0, daemon.log
    assert "draining" in daemon.log


def test_a_stream_gets_the_answers_to_what_it_sent(daemon: Daemon) -> None:
    asked: queue.Queue[bytes | None] = queue.Queue()
    with channel_to(daemon.grpc) as channel, Client(daemon.grpc) as client:
        asked.put(good("spin", turns=turns_of_a_second(client)).SerializeToString())
        asked.put(good("spin").SerializeToString())
        method: Any = channel.stream_stream(
            SERVICE + "ModelStreamInfer", None, triton.ModelStreamInferResponse.FromString
        )
        answers = method(iter(asked.get, None), timeout=LIMIT_S)
        until(lambda: daemon.occupancy("spin") == (1, 1), LIMIT_S, "it does not run")
        daemon.signal_stop()
        assert [next(answers).infer_response.model_name for _ in range(2)] == ["spin", "spin"]
        code, text = refusal(lambda: next(answers))
        assert (code, "is stopping" in text) == ("UNAVAILABLE", True)
        asked.put(None)
    assert daemon.wait() == 0, daemon.log


def test_a_request_over_http_finishes_too(daemon: Daemon) -> None:
    with Client(daemon.grpc) as client, ThreadPoolExecutor(1) as pool:
        turns = turns_of_a_second(client)
        tensor = {"name": "turns", "datatype": "INT64", "shape": [1, 1], "data": [turns]}
        page = pool.submit(fetch, daemon.http, "/v2/models/spin/infer", {"inputs": [tensor]})
        until(lambda: daemon.occupancy("spin") == (1, 0), LIMIT_S, "it does not run")
        daemon.signal_stop()
        answer = page.result(LIMIT_S)
    assert (answer.status, answer.json["outputs"][0]["data"]) == (200, [turns])
    assert daemon.wait() == 0, daemon.log


def test_what_takes_longer_than_the_limit_is_cut(place: Path, folder: Path) -> None:
    with running(place, folder / "cut", "--drain", "0.5") as daemon, channel_to(daemon.grpc) as channel:
        call = occupy(daemon, channel, models.FOREVER)
        begun = time.monotonic()
        assert daemon.stop() == 0, daemon.log
        assert 0.5 < time.monotonic() - begun < 5
        assert call.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def test_a_second_signal_stops_at_once(place: Path, folder: Path) -> None:
    with running(place, folder / "twice") as daemon, channel_to(daemon.grpc) as channel:
        occupy(daemon, channel, models.FOREVER)
        daemon.process.send_signal(signal.SIGINT)
        until(lambda: "draining" in daemon.log, LIMIT_S, "the first signal has no effect")
        daemon.signal_stop()
        assert daemon.wait() == 1


def test_idle_connections_do_not_hold_a_stop_up(daemon: Daemon) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            channel = stack.enter_context(channel_to(daemon.grpc))
            infer(channel, good("spin").SerializeToString())
        begun = time.monotonic()
        assert daemon.stop() == 0, daemon.log
        assert time.monotonic() - begun < 5
