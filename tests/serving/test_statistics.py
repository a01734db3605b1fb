"""Counters: arithmetic, and Triton's words for failures."""

import pytest

from runtime.core.errors import (
    Cancelled,
    DeadlineExpired,
    DeviceLost,
    Draining,
    ExecutionError,
    InvalidTensor,
    Overloaded,
    QueueFull,
    QueueTimeout,
    SpillwayError,
)
from runtime.serving.statistics import Duration, Histogram, Statistics


def test_duration() -> None:
    duration = Duration()
    duration.add(0.5)
    duration.add(0.25, 2)
    assert (duration.count, duration.ns) == (3, 1_000_000_000)


def test_histogram_bounds_are_inclusive_and_the_last_bucket_takes_the_rest() -> None:
    histogram = Histogram((1, 2, 4))
    for value in (0, 1, 1.5, 2, 4, 4.1):
        histogram.observe(value)
    histogram.observe(100, 3)
    assert histogram.counts == [2, 2, 1, 4]
    assert histogram.total == pytest.approx(312.6)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Cancelled(), "CANCELED"),
        (ExecutionError("x"), "BACKEND"),
        (DeviceLost("x"), "BACKEND"),
        (QueueTimeout("m"), "REJECTED"),
        (QueueFull("m", 1), "REJECTED"),
        (Overloaded("x"), "REJECTED"),
        (Draining(), "REJECTED"),
        (DeadlineExpired("x"), "OTHER"),
        (InvalidTensor("x"), "OTHER"),
    ],
)
def test_reasons(error: SpillwayError, reason: str) -> None:
    statistics = Statistics()
    statistics.failed(error, 0.1)
    assert statistics.failures == {reason: 1}
    assert (statistics.fail.count, statistics.fail.ns) == (1, 100_000_000)
