"""Where a request stands in its model's queue: priority level and the moment it is given up. Pure."""

import math
from typing import NamedTuple

from runtime.core.inference import RequestHead
from runtime.core.model import BatchPolicy, QueuePolicy


class Rank(NamedTuple):
    """Level 0 where the model has no priorities; `expires` on the monotonic clock, infinity for never."""

    level: int
    expires: float
    queue: QueuePolicy


def rank(head: RequestHead, policy: BatchPolicy, deadline: float, now: float) -> Rank:
    """Rank a request that arrives `now`. A priority outside the model's levels means the default one, as in Triton."""
    level = 0
    if policy.priority_levels:
        asked = head.priority
        level = asked if 1 <= asked <= policy.priority_levels else policy.default_priority_level
    queue = queue_policy(policy, level)
    timeout_s = queue.default_timeout_s or math.inf
    if queue.allow_timeout_override and head.timeout_us:  # it may only shorten, as in Triton
        timeout_s = min(timeout_s, head.timeout_us / 1e6)
    return Rank(level, min(deadline, now + timeout_s), queue)


def queue_policy(policy: BatchPolicy, level: int) -> QueuePolicy:
    """The policy of one level's queue."""
    return policy.priority_queue_policies.get(level, policy.queue_policy)
