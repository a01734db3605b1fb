"""Requests that end before their answer, on time: deadlines, early refusals, cancellation."""

import asyncio
import gc
import weakref

import pytest

from runtime.core.errors import (
    Cancelled,
    DeadlineExpired,
    Overloaded,
)
from runtime.core.model import BatchPolicy
from runtime.core.verdict import RunCost
from runtime.serving.admission import Limits
from tests.fakes.clock import simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, Sent, echo_spec

# --- deadlines


@simulated
async def test_a_deadline_in_the_queue_is_answered_on_time() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    waits = rig.send(deadline_s=0.1)
    await rig.settle()
    assert isinstance(waits.error, DeadlineExpired)
    assert waits.done_at - rig.began == pytest.approx(0.101)
    assert rig.batches() == [[1]]


@simulated
async def test_a_deadline_while_running_is_answered_on_time_and_the_batch_goes_on_for_the_others() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    dead, alive = rig.send(deadline_s=0.1), rig.send()
    await rig.settle()
    assert isinstance(dead.error, DeadlineExpired)
    assert dead.done_at - rig.began == pytest.approx(0.1)
    assert alive.answered
    assert rig.runners[0].terminated == 0


@simulated
async def test_a_run_is_terminated_when_every_request_of_its_batch_is_dead() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    rig.send(deadline_s=0.1)
    cancelled = rig.send()
    await rig.after(0.2)
    assert rig.runners[0].terminated == 0
    cancelled.request.cancel()
    await rig.after(0.201)
    assert rig.runners[0].terminated == 1
    assert all(sent.released for sent in rig.sent)
    after = rig.send()
    await rig.settle()
    assert after.answered
    assert after.done_at - rig.began == pytest.approx(1.201)


@simulated
@pytest.mark.parametrize(("others", "started"), [(1, 0), (0, 1)])
async def test_a_request_that_became_hopeless_takes_no_time_from_others(others: int, started: int) -> None:
    costs = [RunCost(rows=1, run_s=0.1)]
    rig = Rig(echo_spec(max_batch_size=1), [FakeRunner(fixed_s=0.3)], costs=costs)  # slower than it was measured
    rig.send()
    await rig.after(0.010)
    hopeless = rig.send(deadline_s=0.3)
    rig.send_many(others)
    await rig.settle()
    assert isinstance(hopeless.error, DeadlineExpired)
    assert rig.runners[0].terminated == started, "alone it is tried, and ended at its deadline"
    assert hopeless.released


@simulated
async def test_a_deadline_that_has_passed_is_refused_at_the_door() -> None:
    rig = Rig()
    late = rig.send(deadline_s=-0.001)
    await rig.settle()
    assert isinstance(late.error, DeadlineExpired)
    assert rig.batches() == []
    assert rig.batcher.statistics.refusals == {"deadline": 1}


@simulated
async def test_a_request_that_would_be_late_is_refused_early() -> None:
    costs = [RunCost(rows=1, run_s=0.1), RunCost(rows=8, run_s=0.1)]
    rig = Rig(runners=[FakeRunner(fixed_s=0.1)], costs=costs)
    rig.send()
    await rig.after(0.010)
    doomed, fine = rig.send(deadline_s=0.15), rig.send(deadline_s=0.25)
    await rig.settle()
    assert isinstance(doomed.error, Overloaded)
    assert doomed.error.retry_after_s == pytest.approx(0.09)
    assert fine.answered
    assert rig.batcher.statistics.failures == {"REJECTED": 1}


@simulated
async def test_a_refused_request_leaves_nothing_for_the_garbage_collector() -> None:
    rig = Rig(limits=Limits(max_requests=1))
    rig.send_many(2)
    refused = rig.send()
    await asyncio.sleep(0)
    assert isinstance(refused.error, Overloaded)
    traces = refused.error.__traceback__
    await rig.settle()
    assert traces is None, "frames of the batcher would keep the request's buffers alive"


@simulated
async def test_lower_priorities_do_not_count_as_waiting_in_front() -> None:
    costs = [RunCost(rows=1, run_s=0.1)]
    policy = BatchPolicy(priority_levels=2, default_priority_level=2)
    rig = Rig(echo_spec(max_batch_size=1, batching=policy), [FakeRunner(fixed_s=0.1)], costs=costs)
    rig.send_many(20)
    await rig.after(0.010)
    urgent, patient = rig.send(priority=1, deadline_s=0.25), rig.send(priority=2, deadline_s=0.25)
    await rig.settle()
    assert urgent.answered
    assert isinstance(patient.error, Overloaded)


@simulated
async def test_limits_of_the_queue_are_ours() -> None:
    rig = Rig(limits=Limits(max_requests=2, max_bytes=40))
    rig.send()
    await rig.after(0.001)
    sent = [rig.send(width=4), rig.send(width=8), rig.send(width=4), rig.send(width=1)]
    await rig.settle()
    assert [type(entry.error) for entry in sent] == [type(None), Overloaded, type(None), Overloaded]
    assert rig.batcher.statistics.refusals == {"bytes": 1, "requests": 1}


# --- cancellation


@simulated
async def test_cancelling_takes_a_request_out_of_the_queue() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    cancelled, stays = rig.send_many(2)
    assert rig.batcher.statistics.pending_requests == 2
    cancelled.request.cancel()
    cancelled.request.cancel()
    assert isinstance(cancelled.error, Cancelled)
    assert cancelled.released
    assert rig.batcher.statistics.pending_requests == 1
    assert rig.batcher.statistics.pending_bytes == 16
    await rig.settle()
    assert rig.batches() == [[1], [3]]
    assert stays.answered
    assert rig.batcher.statistics.failures == {"CANCELED": 1}


@simulated
async def test_a_cancelled_request_leaves_no_memory_behind() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    gone = [weakref.ref(rig.send(deadline_s=500.0)) for _ in range(5)]
    rig.send()  # waits on, so that the queue cannot be emptied as a whole
    for sent in rig.sent[1:6]:
        sent.request.cancel()
    del rig.sent[1:6], sent
    gc.collect()
    assert [reference() for reference in gone] == [None] * 5
    await rig.settle()


@simulated
async def test_cancelling_after_the_answer_does_nothing() -> None:
    rig = Rig()
    sent = rig.send()
    await rig.settle()
    sent.request.cancel()
    assert sent.answered


@simulated
async def test_a_request_cancelled_before_it_was_submitted_is_cancelled() -> None:
    rig = Rig()
    sent = Sent(1.0)
    sent.request.cancel()
    sent.submit(rig.batcher)
    await rig.settle()
    assert isinstance(sent.error, Cancelled)
