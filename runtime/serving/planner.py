"""The next batch, decided by a pure function: no clock, no lock, no I/O.

Default (greedy): whatever waits when a device is free goes now, up to the size that pays, shared between the devices
that are idle. With `preferred_batch_size` or `max_queue_delay_microseconds` the operator's wish rules, as Triton
defines it: a preferred size runs at once when it can be formed; otherwise the oldest request waits its delay and then
everything goes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from runtime.core.model import BatchPolicy


class Limits(NamedTuple):
    """What bounds the next batch. Rows; `idle` is the number of devices free now (at least 1)."""

    max_rows: int
    pays: int
    idle: int = 1


class Plan(NamedTuple):
    """Take `take` requests from the head now, or look again in `wait_s` seconds. `reason`: why it is not larger.

    full: `max_rows` is reached; pays: larger batches do not pay; shared: idle devices get their part; large: the next
    request does not fit; empty: nobody else of this shape waits (the batcher counts it as `shape` where others wait);
    preferred, delay: the operator's wish; wait: held back.
    """

    take: int
    reason: str
    wait_s: float = 0.0


def plan_greedy(rows: Iterable[int], waiting_rows: int, limits: Limits) -> Plan:
    """Cut now. `rows` are the sizes of the waiting requests in order, `waiting_rows` their sum."""
    fair = -(-waiting_rows // limits.idle)
    target = min(limits.max_rows, limits.pays, fair)
    taken = take = 0
    for size in rows:
        if take and taken + size > target:
            return Plan(take, _greedy_reason(taken, size, target, limits, fair))
        taken, take = taken + size, take + 1
        if taken >= target:
            break
    if taken >= waiting_rows:
        return Plan(take, "full" if taken >= limits.max_rows else "empty")
    return Plan(take, _greedy_reason(taken, 0, target, limits, fair))


def _greedy_reason(taken: int, size: int, target: int, limits: Limits, fair: int) -> str:
    if taken < target and size:
        return "large"
    if target == limits.max_rows:
        return "full"
    return "shared" if target == fair else "pays"


def plan_triton(rows: Iterable[int], oldest_age_s: float, max_rows: int, policy: BatchPolicy) -> Plan:
    """Cut as `policy` asks. `oldest_age_s`: how long the oldest request has waited."""
    taken = take = 0
    preferred = 0  # requests that make up the largest preferred size that can be formed exactly
    full = False
    for size in rows:
        if take and taken + size > max_rows:
            full = True
            break
        taken, take = taken + size, take + 1
        if taken in policy.preferred_batch_sizes:
            preferred = take
    if preferred:
        return Plan(preferred, "preferred")
    if full or taken >= max_rows:
        return Plan(take, "full")
    left = policy.max_queue_delay_s - oldest_age_s
    return Plan(0, "wait", left) if left > 0 else Plan(take, "delay" if policy.max_queue_delay_s else "empty")


def wants_triton(policy: BatchPolicy) -> bool:
    """True where the operator asked for delays or sizes; false leaves the choice to us."""
    return bool(policy.preferred_batch_sizes) or policy.max_queue_delay_s > 0
