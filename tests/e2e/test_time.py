"""Queues that are full or give up, deadlines, cancellation, and a request that would run for ever."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.daemon import Daemon, until
from tests.e2e.messages import LIMIT_S, good, infer, refusal, rpc
from tests.e2e.models import FOREVER

ON_TIME_S = 0.25
"""How late an answer may be on a machine whose two cores others use as well."""


def timed(call: Callable[[], Any]) -> tuple[str, str, float]:
    """Code and text with which `call` fails, and how long that took."""
    begun = time.perf_counter()
    return *refusal(call), time.perf_counter() - begun


@contextmanager
def occupied(daemon: Daemon, channel: grpc.Channel, model: str, waiting: int = 0) -> Iterator[list[Any]]:
    """The one instance of `model` runs, and `waiting` more requests wait for it, until the end of the block."""
    message = good(model, turns=FOREVER).SerializeToString()
    calls = []
    try:
        for queued in range(waiting + 1):
            calls.append(rpc(channel, "ModelInfer").future(message, timeout=LIMIT_S))
            until(lambda: daemon.occupancy(model) == (1, queued), LIMIT_S, f"{queued} requests do not wait")  # noqa: B023
        yield calls
    finally:
        for call in calls:
            call.cancel()
        until(lambda: daemon.occupancy(model) == (0, 0), LIMIT_S, "cancelled requests are still there")


def turned(channel: grpc.Channel, model: str) -> list[int]:
    """What a short run of `model` answers."""
    answer = infer(channel, good(model, turns=3).SerializeToString())
    counted: list[int] = np.frombuffer(answer.raw_output_contents[0], "<i8").tolist()
    return counted


def test_a_full_queue_refuses(daemon: Daemon, channel: grpc.Channel) -> None:
    with occupied(daemon, channel, "narrow", waiting=1) as calls:
        code, text, took_s = timed(lambda: infer(channel, good("narrow").SerializeToString()))
        assert not any(call.done() for call in calls)
    assert (code, "Exceeds maximum queue size" in text) == ("UNAVAILABLE", True), text
    assert took_s < ON_TIME_S
    assert turned(channel, "narrow") == [3]


@pytest.mark.parametrize(
    ("timeout_us", "least_s"),
    [(0, 0.02), (10_000_000, 0.02), (5_000, 0.005)],
    ids=["default", "longer has no effect", "shorter"],
)
def test_a_queue_gives_up_when_the_time_is_over(
    daemon: Daemon, channel: grpc.Channel, timeout_us: int, least_s: float
) -> None:
    with occupied(daemon, channel, "hasty") as (running,):
        code, text, took_s = timed(lambda: infer(channel, good("hasty", timeout=timeout_us).SerializeToString()))
        assert not running.done()  # Triton would notice only now
    assert (code, "Request timeout expired" in text) == ("UNAVAILABLE", True), text
    assert least_s <= took_s < least_s + ON_TIME_S
    assert turned(channel, "hasty") == [3]


def test_a_deadline_in_the_queue(daemon: Daemon, channel: grpc.Channel) -> None:
    with occupied(daemon, channel, "spin"):
        code, _, took_s = timed(lambda: infer(channel, good("spin").SerializeToString(), timeout=0.5))
        assert daemon.occupancy("spin") == (1, 0)
    assert (code, 0.5 <= took_s < 0.5 + ON_TIME_S) == ("DEADLINE_EXCEEDED", True), took_s


def test_a_request_that_would_run_for_ever(daemon: Daemon, channel: grpc.Channel) -> None:
    code, _, took_s = timed(lambda: infer(channel, good("spin", turns=FOREVER).SerializeToString(), timeout=0.2))
    assert (code, 0.2 <= took_s < 0.2 + ON_TIME_S) == ("DEADLINE_EXCEEDED", True), took_s
    begun = time.perf_counter()
    assert turned(channel, "spin") == [3]
    assert time.perf_counter() - begun < ON_TIME_S
    assert daemon.process.poll() is None


def test_other_models_answer_meanwhile(daemon: Daemon, channel: grpc.Channel) -> None:
    with occupied(daemon, channel, "spin"):
        begun = time.perf_counter()
        for model in ("simple", "echo_bytes", "narrow"):
            infer(channel, good(model).SerializeToString())
        assert time.perf_counter() - begun < ON_TIME_S


def test_a_cancelled_request_ends_on_the_device_too(daemon: Daemon, channel: grpc.Channel) -> None:
    with occupied(daemon, channel, "spin") as (running,):
        running.cancel()
        begun = time.perf_counter()
        assert turned(channel, "spin") == [3]
        assert time.perf_counter() - begun < ON_TIME_S


def test_a_cancelled_request_leaves_the_queue(daemon: Daemon, channel: grpc.Channel) -> None:
    with occupied(daemon, channel, "narrow", waiting=1) as (running, waiting):
        waiting.cancel()
        until(lambda: daemon.occupancy("narrow") == (1, 0), LIMIT_S, "it still waits")
        assert not running.done()
