"""The next batch, as tables and as laws."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.model import BatchPolicy
from runtime.serving.planner import Limits, Plan, plan_greedy, plan_triton, wants_triton


@pytest.mark.parametrize(
    ("rows", "max_rows", "pays", "idle", "take", "reason"),
    [
        ([1], 8, 8, 1, 1, "empty"),
        ([1, 1, 1], 8, 8, 1, 3, "empty"),
        ([4, 4, 4], 8, 8, 1, 2, "full"),
        ([8, 1], 8, 8, 1, 1, "full"),
        ([4, 4], 8, 8, 1, 2, "full"),
        ([5, 4], 8, 8, 1, 1, "large"),
        ([9, 1], 8, 8, 1, 1, "full"),  # larger than the limit: travels alone
        ([9], 8, 8, 1, 1, "full"),
        ([1] * 8, 8, 2, 1, 2, "pays"),
        ([1] * 8, 8, 1, 1, 1, "pays"),
        ([3, 1], 8, 2, 1, 1, "pays"),
        ([1] * 8, 8, 8, 2, 4, "shared"),
        ([1] * 9, 8, 8, 2, 5, "shared"),
        ([1] * 2, 8, 8, 4, 1, "shared"),
        ([1] * 64, 8, 8, 2, 8, "full"),
        ([1] * 64, 8, 4, 2, 4, "pays"),
        ([2, 2, 2], 8, 3, 1, 1, "large"),
    ],
)
def test_greedy(rows: list[int], max_rows: int, pays: int, idle: int, take: int, reason: str) -> None:
    assert plan_greedy(rows, sum(rows), Limits(max_rows, pays, idle)) == Plan(take, reason)


@pytest.mark.parametrize(
    ("rows", "preferred", "delay_s", "age_s", "expected"),
    [
        ([1], (), 0.010, 0.0, Plan(0, "wait", 0.010)),
        ([1, 1], (), 0.010, 0.004, Plan(0, "wait", 0.006)),
        ([1, 1], (), 0.010, 0.010, Plan(2, "delay")),
        ([1] * 8, (), 0.010, 0.0, Plan(8, "full")),
        ([1] * 9, (), 0.010, 0.0, Plan(8, "full")),
        ([5, 4], (), 0.010, 0.0, Plan(1, "full")),  # the next cannot come along: waiting would gain nothing
        ([9], (), 0.010, 0.0, Plan(1, "full")),  # larger than the limit: travels alone
        ([1, 1], (2, 4), 0.010, 0.0, Plan(2, "preferred")),
        ([1] * 5, (2, 4), 0.010, 0.0, Plan(4, "preferred")),
        ([1] * 3, (2, 4), 0.010, 0.0, Plan(2, "preferred")),
        ([1], (2, 4), 0.010, 0.0, Plan(0, "wait", 0.010)),
        ([1], (2, 4), 0.010, 0.020, Plan(1, "delay")),
        ([1], (2, 4), 0.0, 0.0, Plan(1, "empty")),  # no delay: a preferred size is a wish, not a reason to wait
        ([3, 1], (2, 4), 0.010, 0.0, Plan(2, "preferred")),
        ([3], (2, 4), 0.010, 0.0, Plan(0, "wait", 0.010)),
        ([3, 3], (4,), 0.010, 0.020, Plan(2, "delay")),
        ([4, 4, 4], (4,), 0.010, 0.0, Plan(1, "preferred")),
    ],
)
def test_triton(rows: list[int], preferred: tuple[int, ...], delay_s: float, age_s: float, expected: Plan) -> None:
    policy = BatchPolicy(preferred_batch_sizes=preferred, max_queue_delay_s=delay_s)
    plan = plan_triton(rows, age_s, 8, policy)
    assert (plan.take, plan.reason) == (expected.take, expected.reason)
    assert plan.wait_s == pytest.approx(expected.wait_s)


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [
        (BatchPolicy(), False),
        (BatchPolicy(priority_levels=3, preserve_ordering=True), False),
        (BatchPolicy(preferred_batch_sizes=(4,)), True),
        (BatchPolicy(max_queue_delay_s=0.001), True),
    ],
)
def test_tritons_rules_are_used_only_where_the_operator_asks(policy: BatchPolicy, wanted: bool) -> None:
    assert wants_triton(policy) is wanted


queues = st.lists(st.integers(1, 20), min_size=1, max_size=30)


def check_laws(plan: Plan, rows: Sequence[int], max_rows: int) -> None:
    """Never above `max_rows` but for a lone large request; somebody goes, or there is an end to the wait."""
    assert 0 <= plan.take <= len(rows)
    if plan.take:
        assert plan.wait_s == 0.0
        assert sum(rows[: plan.take]) <= max_rows or plan.take == 1
    else:
        assert plan.wait_s > 0.0


@given(queues, st.integers(1, 16), st.integers(1, 16), st.integers(1, 4))
def test_greedy_laws(rows: list[int], max_rows: int, pays: int, idle: int) -> None:
    plan = plan_greedy(rows, sum(rows), Limits(max_rows, min(pays, max_rows), idle))
    check_laws(plan, rows, max_rows)
    assert plan.take, "greedy never waits"
    if idle == 1 and pays >= max_rows and plan.take < len(rows):
        assert sum(rows[: plan.take + 1]) > max_rows, "with one device, nobody who fits stays behind"


@given(
    queues,
    st.integers(1, 16),
    st.lists(st.integers(1, 16), max_size=3).map(lambda sizes: tuple(sorted(sizes))),
    st.floats(0, 1),
    st.floats(0, 2),
)
def test_triton_laws(rows: list[int], max_rows: int, preferred: tuple[int, ...], delay_s: float, age_s: float) -> None:
    policy = BatchPolicy(preferred_batch_sizes=preferred, max_queue_delay_s=delay_s)
    plan = plan_triton(rows, age_s, max_rows, policy)
    check_laws(plan, rows, max_rows)
    if age_s >= delay_s:
        assert plan.take, "nobody waits longer than the delay"
