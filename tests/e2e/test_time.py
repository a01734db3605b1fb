"""Queues that are full or give up, deadlines, cancellation, and a request that would run for ever."""

import re
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest

from tests.e2e.daemon import Daemon, until
from tests.e2e.messages import LIMIT_S, good, infer, refusal, rpc
from tests.e2e.models import FOREVER
from tests.e2e.web import fetch

ON_TIME_S = 0.25
"""How late an answer may be on a machine whose two cores others use as well."""


def timed(call: Callable[[], Any]) -> tuple[str, str, float]:
    """Code and text with which `call` fails, and how long that took."""
    begun = time.perf_counter()
    return *refusal(call), time.perf_counter() - begun


def started(channel: grpc.Channel, model: str) -> Any:
    """A request that occupies `model` until it is cancelled, LIMIT_S at most."""
    infer(channel, good(model).SerializeToString())  # the connection stands: what follows arrives in order
    return rpc(channel, "ModelInfer").future(good(model, turns=FOREVER).SerializeToString(), timeout=LIMIT_S)


def turned(channel: grpc.Channel, model: str) -> list[int]:
    """What a short run of `model` answers."""
    answer = infer(channel, good(model, turns=3).SerializeToString())
    counted: list[int] = np.frombuffer(answer.raw_output_contents[0], "<i8").tolist()
    return counted


def pending(daemon: Daemon, model: str) -> int:
    """How many requests wait for `model`."""
    text = fetch(daemon.metrics, "/metrics").text
    found = re.search(rf'^nv_inference_pending_request_count{{model="{model}",version="1"}} (\d+)', text, re.MULTILINE)
    assert found is not None, text
    return int(found[1])


def test_a_full_queue_refuses(channel: grpc.Channel) -> None:
    running = started(channel, "narrow")
    call = rpc(channel, "ModelInfer")
    waiting = call.future(good("narrow", turns=FOREVER).SerializeToString(), timeout=LIMIT_S)
    code, text, took_s = timed(lambda: infer(channel, good("narrow").SerializeToString()))
    assert (code, "Exceeds maximum queue size" in text) == ("UNAVAILABLE", True), text
    assert took_s < ON_TIME_S
    assert not running.done()
    assert not waiting.done()
    waiting.cancel()
    running.cancel()
    assert turned(channel, "narrow") == [3]


@pytest.mark.parametrize(
    ("timeout_us", "least_s"),
    [(0, 0.02), (10_000_000, 0.02), (5_000, 0.005)],
    ids=["default", "longer has no effect", "shorter"],
)
def test_a_queue_gives_up_when_the_time_is_over(channel: grpc.Channel, timeout_us: int, least_s: float) -> None:
    running = started(channel, "hasty")
    code, text, took_s = timed(lambda: infer(channel, good("hasty", timeout=timeout_us).SerializeToString()))
    assert (code, "Request timeout expired" in text) == ("UNAVAILABLE", True), text
    assert least_s <= took_s < least_s + ON_TIME_S
    assert not running.done()  # Triton would notice only now
    running.cancel()
    assert turned(channel, "hasty") == [3]


def test_a_deadline_in_the_queue(channel: grpc.Channel) -> None:
    running = started(channel, "spin")
    code, _, took_s = timed(lambda: infer(channel, good("spin").SerializeToString(), timeout=0.1))
    assert (code, took_s < 0.1 + ON_TIME_S) == ("DEADLINE_EXCEEDED", True), took_s
    running.cancel()
    assert turned(channel, "spin") == [3]


def test_a_request_that_would_run_for_ever(channel: grpc.Channel, daemon: Daemon) -> None:
    code, _, took_s = timed(lambda: infer(channel, good("spin", turns=FOREVER).SerializeToString(), timeout=0.2))
    assert (code, 0.2 <= took_s < 0.2 + ON_TIME_S) == ("DEADLINE_EXCEEDED", True), took_s
    begun = time.perf_counter()
    assert turned(channel, "spin") == [3]
    assert time.perf_counter() - begun < ON_TIME_S
    assert daemon.process.poll() is None


def test_a_cancelled_request_ends_at_the_server_too(channel: grpc.Channel) -> None:
    running = started(channel, "spin")
    running.cancel()
    assert running.code() == grpc.StatusCode.CANCELLED
    begun = time.perf_counter()
    assert turned(channel, "spin") == [3]  # the only instance is free again
    assert time.perf_counter() - begun < ON_TIME_S


def test_a_cancelled_request_leaves_the_queue(channel: grpc.Channel, daemon: Daemon) -> None:
    running = started(channel, "narrow")
    call = rpc(channel, "ModelInfer")
    for _ in range(5):  # each takes the one place, and gives it back
        waiting = call.future(good("narrow", turns=FOREVER).SerializeToString(), timeout=LIMIT_S)
        until(lambda: pending(daemon, "narrow") == 1, LIMIT_S, "nothing waits")
        waiting.cancel()
        until(lambda: pending(daemon, "narrow") == 0, LIMIT_S, "it still waits")
    running.cancel()
    assert turned(channel, "narrow") == [3]
