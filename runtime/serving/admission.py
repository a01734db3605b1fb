"""Serve here or refuse: a pure function of plain numbers, asked once per request at the door.

It refuses early rather than late: a request that would miss its deadline in the queue costs its own waiting and
everybody else's time on the device. (Sending to another tier becomes a third answer when overflow is built.)
"""

from dataclasses import dataclass

from runtime.core.errors import CapacityError, DeadlineExpired, Overloaded, QueueFull

CAUTION = 1.25
"""What a predicted time counts for. It is a mean: of a queue filled up to the very deadline, half would be answered too
late (bench/overload.py, ten times the capacity: goodput 0.36 of the peak without this, 0.9 with it)."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one model's queue on this node; 0 means none. `max_queue_size` is the model's own (Triton's)."""

    max_requests: int = 0
    max_bytes: int = 0
    max_wait_s: float = 0.0


@dataclass(slots=True)
class Load:
    """What is in front of a request: waiting requests and bytes, and the predicted seconds until it would end.

    `queue_limit` is the configured size of the queue that it would join, `queued` what waits there now.
    """

    requests: int
    nbytes: int
    wait_s: float
    run_s: float
    queue_limit: int = 0
    queued: int = 0


def refusal(
    model: str, load: Load, limits: Limits, nbytes: int, left_s: float
) -> tuple[str, CapacityError | DeadlineExpired] | None:
    """Why a request of `nbytes` with `left_s` seconds to its deadline is not taken (reason, error), or None."""
    if left_s <= 0:
        return "deadline", DeadlineExpired("before the request reached the queue")
    if load.queue_limit and load.queued >= load.queue_limit:
        return "queue_size", QueueFull(model, load.queue_limit)
    if limits.max_requests and load.requests >= limits.max_requests:
        return "requests", Overloaded(
            f"model '{model}' has {load.requests} waiting requests, limit {limits.max_requests}", load.wait_s
        )
    if limits.max_bytes and load.nbytes + nbytes > limits.max_bytes:
        return "bytes", Overloaded(
            f"model '{model}' has {load.nbytes} waiting bytes, {nbytes} more exceed {limits.max_bytes}", load.wait_s
        )
    latest_s = CAUTION * (load.wait_s + load.run_s)
    if load.wait_s > 0 and latest_s > left_s:
        return "predicted", Overloaded(
            f"model '{model}' may take {latest_s:.3f} s to answer, {left_s:.3f} s are left", load.wait_s
        )
    if limits.max_wait_s and load.wait_s > limits.max_wait_s:
        return "wait", Overloaded(
            f"model '{model}' would start in {load.wait_s:.3f} s, limit {limits.max_wait_s} s", load.wait_s
        )
    return None
