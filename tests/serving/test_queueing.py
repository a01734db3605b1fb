"""What the operator's queue settings promise: priorities, policies, sizes, delays, order."""

import asyncio

import pytest

from runtime.core.errors import Cancelled, DeadlineExpired, QueueFull, QueueTimeout
from runtime.core.model import BatchPolicy, QueuePolicy
from tests.fakes.clock import simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, echo_spec


@simulated
async def test_requests_that_arrive_while_the_device_is_busy_share_the_next_batch() -> None:
    rig = Rig()
    rig.send()
    await rig.after(0.001)
    rig.send_many(3)
    await rig.settle()
    assert rig.batches() == [[1], [2, 3, 4]]
    assert all(sent.answered for sent in rig.sent)


@simulated
async def test_a_batch_never_exceeds_max_batch_size_and_requests_are_never_split() -> None:
    rig = Rig(echo_spec(max_batch_size=4))
    rig.send()
    await rig.after(0.001)
    for rows in (3, 2, 2, 4):
        rig.send(rows=rows)
    await rig.settle()
    assert rig.runners[0].sizes == [1, 3, 4, 4]


@simulated
async def test_without_dynamic_batching_each_request_runs_alone() -> None:
    rig = Rig(echo_spec(batching=None))
    rig.send_many(4)
    rig.send(rows=3)
    await rig.settle()
    assert rig.runners[0].sizes == [1, 1, 1, 1, 3]


@simulated
async def test_different_shapes_do_not_share_a_batch_and_the_cut_says_why() -> None:
    rig = Rig()
    rig.send()
    await rig.after(0.001)
    rig.send(width=4)
    rig.send(width=6)
    rig.send(width=4)
    await rig.settle()
    assert rig.batches() == [[1], [2, 4], [3]]
    assert rig.batcher.statistics.cuts == {"empty": 2, "shape": 1}


@simulated
async def test_priorities_are_strict() -> None:
    rig = Rig(echo_spec(max_batch_size=1, batching=BatchPolicy(priority_levels=3, default_priority_level=2)))
    rig.send()
    await rig.after(0.001)
    for priority in (3, 0, 1, 3, 1, 2, 9):  # 0 and what the model does not have mean the default
        rig.send(priority=priority)
    await rig.settle()
    assert rig.batches() == [[1], [4], [6], [3], [7], [8], [2], [5]]


@simulated
async def test_priorities_hold_between_shapes() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(priority_levels=2, default_priority_level=2)))
    rig.send()
    await rig.after(0.001)
    rig.send(width=4)
    rig.send(width=6, priority=1)
    rig.send(width=4, priority=1)
    await rig.settle()
    assert rig.batches() == [[1], [3], [4, 2]]


@simulated
async def test_a_queue_timeout_is_noticed_when_it_happens_not_after_the_run() -> None:
    policy = QueuePolicy(default_timeout_s=0.005)
    rig = Rig(echo_spec(batching=BatchPolicy(queue_policy=policy)), [FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    waits = rig.send()
    await rig.after(0.5)
    assert isinstance(waits.error, QueueTimeout)
    assert str(waits.error).startswith("Request timeout expired")
    assert waits.done_at - rig.began == pytest.approx(0.006)
    await rig.settle()
    assert rig.batches() == [[1]]
    assert rig.batcher.statistics.failures == {"REJECTED": 1}


@simulated
async def test_a_queue_timeout_says_nothing_to_what_already_runs() -> None:
    policy = QueuePolicy(default_timeout_s=0.005)
    rig = Rig(echo_spec(batching=BatchPolicy(queue_policy=policy)), [FakeRunner(fixed_s=1.0)])
    runs = rig.send()
    await rig.settle()
    assert runs.answered


@simulated
async def test_policy_delay_puts_timed_out_requests_behind_those_that_did_not() -> None:
    policy = BatchPolicy(
        priority_levels=2,
        default_priority_level=1,
        queue_policy=QueuePolicy(timeout_action="DELAY", default_timeout_s=0.005),
    )
    rig = Rig(echo_spec(max_batch_size=1, batching=policy), [FakeRunner(fixed_s=0.020)])
    rig.send()
    await rig.after(0.001)
    rig.send_many(2)  # 2, 3: timed out at 6 ms
    rig.send(priority=2)  # 4: a level below, goes after them all the same
    await rig.after(0.018)
    rig.send_many(1)  # 5: goes first
    await rig.settle()
    assert rig.batches() == [[1], [5], [2], [3], [4]]
    assert all(sent.answered for sent in rig.sent)


@simulated
async def test_a_delayed_request_still_has_its_deadline() -> None:
    policy = BatchPolicy(queue_policy=QueuePolicy(timeout_action="DELAY", default_timeout_s=0.005))
    rig = Rig(echo_spec(batching=policy), [FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    late = rig.send(deadline_s=0.050)
    await rig.after(0.5)
    assert isinstance(late.error, DeadlineExpired)
    assert late.done_at - rig.began == pytest.approx(0.051)
    await rig.settle()


@pytest.mark.parametrize(
    ("allowed", "timeout_us", "expected_s"),
    [(True, 5_000, 0.005), (True, 10_000_000, 0.020), (False, 5_000, 0.020), (True, 0, 0.020)],
)
def test_a_request_may_only_shorten_the_timeout(allowed: bool, timeout_us: int, expected_s: float) -> None:
    @simulated
    async def run() -> None:
        policy = QueuePolicy(default_timeout_s=0.020, allow_timeout_override=allowed)
        rig = Rig(echo_spec(batching=BatchPolicy(queue_policy=policy)), [FakeRunner(fixed_s=1.0)])
        rig.send()
        await asyncio.sleep(0)
        waits = rig.send(timeout_us=timeout_us)
        await rig.settle()
        assert isinstance(waits.error, QueueTimeout)
        assert waits.done_at - rig.began == pytest.approx(expected_s)

    run()


@simulated
async def test_max_queue_size_counts_what_waits_not_what_runs() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(queue_policy=QueuePolicy(max_queue_size=2))))
    rig.send()
    await rig.after(0.001)
    fits = rig.send_many(2)
    refused = rig.send()
    await asyncio.sleep(0)
    assert isinstance(refused.error, QueueFull)
    assert str(refused.error).startswith("Exceeds maximum queue size")
    await rig.settle()
    assert all(sent.answered for sent in fits)
    assert rig.batcher.statistics.refusals == {"queue_size": 1}
    assert rig.batcher.statistics.failures == {"REJECTED": 1}


@simulated
async def test_each_priority_level_has_its_own_queue_size() -> None:
    policy = BatchPolicy(
        priority_levels=2,
        default_priority_level=2,
        queue_policy=QueuePolicy(max_queue_size=1),
        priority_queue_policies={1: QueuePolicy(max_queue_size=2)},
    )
    rig = Rig(echo_spec(batching=policy))
    rig.send(priority=2)
    await rig.after(0.001)
    sent = [rig.send(priority=priority) for priority in (2, 1, 1, 1, 2)]
    await rig.settle()
    assert [entry.answered for entry in sent] == [True, True, True, False, False]


@simulated
async def test_the_oldest_request_waits_max_queue_delay_for_company() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(max_queue_delay_s=0.005)))
    rig.send()
    await rig.after(0.003)
    rig.send()
    await rig.after(0.006)
    assert [sent.outcome for sent in rig.sent] == [None, None]
    await rig.settle()
    assert rig.batches() == [[1, 2]]
    assert rig.sent[0].done_at - rig.began == pytest.approx(0.015)
    assert rig.batcher.statistics.cuts == {"delay": 1}


@simulated
async def test_a_full_batch_does_not_wait_for_the_delay() -> None:
    rig = Rig(echo_spec(max_batch_size=2, batching=BatchPolicy(max_queue_delay_s=5.0)))
    rig.send_many(2)
    await rig.after(0.1)
    assert all(sent.answered for sent in rig.sent)
    await rig.settle()


@simulated
async def test_a_preferred_size_goes_at_once_and_the_rest_waits() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(preferred_batch_sizes=(2, 4), max_queue_delay_s=0.050)))
    rig.send_many(5)
    await rig.after(0.015)
    assert rig.batches() == [[1, 2, 3, 4]]
    await rig.after(0.065)
    await rig.settle()
    assert rig.batches() == [[1, 2, 3, 4], [5]]
    assert rig.sent[4].done_at - rig.began == pytest.approx(0.060), "the delay counts from the arrival"


@simulated
async def test_a_shape_that_waits_for_company_does_not_hold_up_one_that_is_ready() -> None:
    rig = Rig(echo_spec(max_batch_size=2, batching=BatchPolicy(max_queue_delay_s=1.0)))
    lone = rig.send(width=6)
    pair = rig.send_many(2, width=4)
    await rig.after(0.1)
    assert all(sent.answered for sent in pair)
    assert lone.outcome is None
    await rig.settle()
    assert lone.answered


@simulated
async def test_of_several_shapes_that_wait_the_first_to_be_due_ends_the_wait() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(max_queue_delay_s=0.1, priority_levels=2, default_priority_level=1)))
    older = rig.send(width=6, priority=2)
    await rig.after(0.05)
    rig.send(width=4)
    await rig.after(0.105)
    assert rig.batches() == []
    await rig.after(0.115)
    assert older.answered
    await rig.settle()


@simulated
async def test_a_flooded_shape_does_not_starve_the_other() -> None:
    rig = Rig(echo_spec(max_batch_size=4))

    def keep_flooding() -> None:
        if len(rig.sent) < 300:
            rig.send(width=4).then = keep_flooding

    for sent in rig.send_many(40):
        sent.then = keep_flooding
    await rig.after(0.005)
    lone = rig.send(width=6)
    waited = 0
    while lone.outcome is None:
        waited += 1
        await rig.after(rig.now_s + 0.010)
        assert waited < 12, "40 requests were ahead of it: ten batches"
    assert lone.answered
    await rig.settle()


@simulated
async def test_preserve_ordering_holds_quick_answers_back() -> None:
    quick, slow = FakeRunner(fixed_s=0.001), FakeRunner(fixed_s=0.050)
    rig = Rig(echo_spec(max_batch_size=1, batching=BatchPolicy(preserve_ordering=True)), [slow, quick])
    order: list[float] = []
    for sent in rig.send_many(6):
        sent.then = lambda sent=sent: order.append(sent.value)
    await rig.after(0.030)
    assert quick.sizes == [1] * 5
    assert order == []
    await rig.settle()
    assert order == [1, 2, 3, 4, 5, 6]


@simulated
async def test_without_preserve_ordering_quick_answers_overtake() -> None:
    rig = Rig(echo_spec(max_batch_size=1), [FakeRunner(fixed_s=0.050), FakeRunner(fixed_s=0.001)])
    first, second = rig.send_many(2)
    await rig.settle()
    assert second.done_at < first.done_at


@simulated
async def test_preserve_ordering_keeps_no_promise_of_time_waiting() -> None:
    rig = Rig(
        echo_spec(max_batch_size=1, batching=BatchPolicy(preserve_ordering=True)),
        [FakeRunner(fixed_s=0.500), FakeRunner(fixed_s=0.400)],
    )
    first, second, third = rig.send(), rig.send(deadline_s=0.010), rig.send()
    await rig.after(0.011)
    assert isinstance(second.error, DeadlineExpired)
    third.request.cancel()
    assert isinstance(third.error, Cancelled)
    assert first.outcome is None
    await rig.settle()
    assert first.answered


@simulated
async def test_errors_keep_their_place_in_the_order() -> None:
    failing = FakeRunner(fixed_s=0.001)
    failing.failures.append(ValueError("boom"))
    rig = Rig(
        echo_spec(max_batch_size=1, batching=BatchPolicy(preserve_ordering=True)), [FakeRunner(fixed_s=0.050), failing]
    )
    first, second = rig.send_many(2)
    await rig.after(0.030)
    assert second.outcome is None
    await rig.settle()
    assert first.answered
    assert "ValueError" in str(second.error)
