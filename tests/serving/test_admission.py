"""Serve or refuse, and where a request stands in the queue: tables."""

import math

import pytest

from runtime.core.errors import DeadlineExpired, Overloaded, QueueFull
from runtime.core.inference import RequestHead
from runtime.core.model import BatchPolicy, QueuePolicy
from runtime.serving.admission import Limits, Load, refusal
from runtime.serving.ranking import queue_policy, rank

INF = math.inf


@pytest.mark.parametrize(
    ("load", "limits", "left_s", "reason", "error", "text"),
    [
        (Load(0, 0, 0.0, 0.0), Limits(), INF, None, None, ""),
        (Load(10**6, 10**9, 99.0, 9.0), Limits(), INF, None, None, ""),
        (Load(0, 0, 0.0, 0.0), Limits(), 0.0, "deadline", DeadlineExpired, "before the request reached the queue"),
        (Load(0, 0, 0.0, 0.0), Limits(), -1.0, "deadline", DeadlineExpired, "deadline exceeded"),
        (Load(5, 0, 0.0, 0.0, 4, 3), Limits(), INF, None, None, ""),
        (Load(5, 0, 0.0, 0.0, 4, 4), Limits(), INF, "queue_size", QueueFull, "Exceeds maximum queue size 4"),
        (Load(7, 0, 0.0, 0.0), Limits(max_requests=8), INF, None, None, ""),
        (Load(8, 0, 0.0, 0.0), Limits(max_requests=8), INF, "requests", Overloaded, "8 waiting requests, limit 8"),
        (Load(0, 900, 0.0, 0.0), Limits(max_bytes=1000), INF, None, None, ""),
        (Load(0, 901, 0.0, 0.0), Limits(max_bytes=1000), INF, "bytes", Overloaded, "901 waiting bytes, 100 more"),
        (Load(9, 0, 0.5, 0.3), Limits(), 1.0, None, None, ""),
        (Load(9, 0, 0.5, 0.3), Limits(), 0.9, "predicted", Overloaded, "may take 1.000 s to answer, 0.900 s are left"),
        (Load(0, 0, 0.0, 0.9), Limits(), 0.6, None, None, ""),  # the device is free: let it try
        (Load(9, 0, 2.0, 0.2), Limits(max_wait_s=2.0), INF, None, None, ""),
        (Load(9, 0, 2.1, 0.2), Limits(max_wait_s=2.0), INF, "wait", Overloaded, "would start in 2.100 s, limit 2.0 s"),
    ],
)
def test_refusal(
    load: Load, limits: Limits, left_s: float, reason: str | None, error: type[Exception] | None, text: str
) -> None:
    refused = refusal("m", load, limits, 100, left_s)
    if reason is None:
        assert refused is None
    else:
        assert refused is not None
        assert refused[0] == reason
        assert type(refused[1]) is error
        assert text in str(refused[1])


def test_our_own_refusals_say_when_to_come_back() -> None:
    refused = refusal("m", Load(8, 0, 1.5, 0.0), Limits(max_requests=8), 100, INF)
    assert refused is not None
    assert isinstance(refused[1], Overloaded)
    assert refused[1].retry_after_s == 1.5


def head(priority: int = 0, timeout_us: int = 0) -> RequestHead:
    return RequestHead("m", "", (), priority=priority, timeout_us=timeout_us)


LEVELS = BatchPolicy(
    priority_levels=3,
    default_priority_level=2,
    queue_policy=QueuePolicy(default_timeout_s=1.0),
    priority_queue_policies={1: QueuePolicy(default_timeout_s=0.1, allow_timeout_override=True, max_queue_size=7)},
)


@pytest.mark.parametrize(
    ("policy", "priority", "timeout_us", "deadline", "level", "expires"),
    [
        (BatchPolicy(), 0, 0, INF, 0, INF),
        (BatchPolicy(), 3, 0, INF, 0, INF),  # the model has no priorities
        (BatchPolicy(), 0, 5, INF, 0, INF),  # and allows no timeout of the request's own
        (BatchPolicy(), 0, 0, 107.0, 0, 107.0),
        (LEVELS, 0, 0, INF, 2, 101.0),
        (LEVELS, 3, 0, INF, 3, 101.0),
        (LEVELS, 4, 0, INF, 2, 101.0),
        (LEVELS, -1, 0, INF, 2, 101.0),
        (LEVELS, 1, 0, INF, 1, 100.1),
        (LEVELS, 1, 20_000, INF, 1, 100.02),
        (LEVELS, 1, 20_000_000, INF, 1, 100.1),  # only shorter
        (LEVELS, 2, 20_000, INF, 2, 101.0),  # not allowed on that level
        (LEVELS, 1, 20_000, 100.01, 1, 100.01),
    ],
)
def test_rank(policy: BatchPolicy, priority: int, timeout_us: int, deadline: float, level: int, expires: float) -> None:
    place = rank(head(priority, timeout_us), policy, deadline, 100.0)
    assert place.level == level
    assert place.expires == pytest.approx(expires)
    assert place.queue is queue_policy(policy, level)


def test_a_request_may_set_a_timeout_where_the_model_has_none_and_allows_it() -> None:
    policy = BatchPolicy(queue_policy=QueuePolicy(allow_timeout_override=True))
    assert rank(head(timeout_us=5_000), policy, INF, 100.0).expires == pytest.approx(100.005)
