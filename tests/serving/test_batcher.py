"""The contract of `submit`: one answer, one release, on time, whatever happens meanwhile."""

import asyncio
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from runtime.core.errors import (
    Cancelled,
    DeadlineExpired,
    Draining,
    ExecutionError,
    InvalidTensor,
)
from runtime.core.inference import InferRequest, InferResult, RequestedOutput
from runtime.core.model import BatchPolicy
from runtime.core.tensor import Array, TensorSpec
from runtime.serving.work import Work
from tests.fakes.clock import manual_loop, simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, Sent, echo_head, echo_spec

# --- one answer, and the loan of the buffers


@simulated
async def test_an_answer_comes_after_submit_with_the_buffers_given_back() -> None:
    rig = Rig()
    sent = rig.send()
    assert sent.outcome is None
    assert not sent.released
    await rig.settle()
    assert sent.answered
    assert rig.now_s == pytest.approx(0.010)


@simulated
async def test_buffers_stay_lent_until_the_run_that_reads_them_ends() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    expires, cancelled, stays = rig.send(deadline_s=0.2), rig.send(), rig.send()
    await rig.after(0.3)
    cancelled.request.cancel()
    assert isinstance(expires.error, DeadlineExpired)
    assert isinstance(cancelled.error, Cancelled)
    assert not expires.released
    assert not cancelled.released
    await rig.settle()
    assert stays.answered


@simulated
async def test_a_refused_request_is_answered_later_and_its_buffers_go_back() -> None:
    rig = Rig()
    short = Sent(1.0)
    short.request.buffers = (b"123",)
    short.submit(rig.batcher)
    await asyncio.sleep(0)
    assert isinstance(short.error, InvalidTensor)
    assert short.released
    assert rig.batcher.statistics.failures == {"OTHER": 1}
    await rig.settle()


@simulated
async def test_a_head_shared_by_many_requests_is_checked_once() -> None:
    rig = Rig()
    head = echo_head(1, 4)
    requests = [Sent(float(value)) for value in range(3)]
    for sent in requests:
        sent.request.head = head
        sent.submit(rig.batcher)
    binding = head.memo
    await rig.settle()
    assert all(sent.answered for sent in requests)
    assert head.memo is binding


@simulated
async def test_a_head_bound_to_another_version_is_checked_again() -> None:
    narrow = Rig(echo_spec(inputs=(TensorSpec("x", "FP32", (2,)),)))
    wide = Rig(echo_spec(inputs=(TensorSpec("x", "FP32", (4,)),)))
    head = echo_head(1, 4)
    first, second = Sent(1.0), Sent(2.0)
    first.request.head = second.request.head = head
    first.submit(wide.batcher)
    second.submit(narrow.batcher)
    await asyncio.gather(wide.settle(), narrow.settle())
    assert first.answered
    assert isinstance(second.error, InvalidTensor)


@simulated
async def test_only_the_wanted_outputs_are_run_and_answered() -> None:
    two = echo_spec(outputs=(TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,))))
    rig = Rig(two)
    every = rig.send()
    await rig.after(0.001)
    only_z = rig.send(outputs=(RequestedOutput("z"),))
    await rig.settle()
    assert isinstance(every.outcome, InferResult)
    assert isinstance(only_z.outcome, InferResult)
    assert [output.name for output in every.outcome.outputs] == ["y", "z"]
    assert [output.name for output in only_z.outcome.outputs] == ["z"]
    assert only_z.outcome.model_version == "1"


@simulated
async def test_requests_that_want_different_outputs_share_a_batch() -> None:
    rig = Rig(echo_spec(outputs=(TensorSpec("y", "FP32", (-1,)), TensorSpec("z", "FP32", (-1,)))))
    rig.send()
    await rig.after(0.001)
    some = [rig.send(outputs=(RequestedOutput(name),)) for name in ("z", "y")]
    await rig.settle()
    assert rig.batches() == [[1], [2, 3]]
    for sent, name in zip(some, ("z", "y"), strict=True):
        assert sent.answered
        assert isinstance(sent.outcome, InferResult)
        assert [output.name for output in sent.outcome.outputs] == [name]


@simulated
async def test_a_failing_batch_fails_its_requests_and_no_others() -> None:
    rig = Rig()
    rig.runners[0].failures.extend([None, ExecutionError("onnx runtime error: no"), None])
    first = rig.send()
    await rig.after(0.001)
    failing = rig.send_many(2)
    await rig.after(0.011)
    last = rig.send()
    await rig.settle()
    assert first.answered
    assert last.answered
    assert [str(sent.error) for sent in failing] == ["onnx runtime error: no"] * 2
    assert rig.batcher.statistics.failures == {"BACKEND": 2}
    assert rig.batcher.statistics.execution_count == 2


@simulated
async def test_an_output_that_is_no_batch_is_refused_and_not_counted_as_a_run() -> None:
    class Summing(FakeRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            return [np.zeros(3, np.float32)]

    rig = Rig(runners=[Summing()])
    sent = rig.send()
    await rig.settle()
    assert isinstance(sent.error, ExecutionError)
    assert "first axis is not the batch" in str(sent.error)
    assert rig.batcher.statistics.execution_count == 0


@simulated
async def test_a_callback_that_raises_keeps_nobody_from_an_answer() -> None:
    rig = Rig()
    rig.send()
    await rig.after(0.001)
    second, third = rig.send_many(2)

    def broken() -> None:
        raise OSError("stream is gone")

    second.then = broken
    await rig.after(0.1)
    assert rig.complaints.seen == ["callback of a request failed: OSError('stream is gone')"]
    rig.complaints.seen.clear()
    await rig.settle()
    assert third.answered


# --- callbacks that act


@simulated
async def test_a_callback_may_submit() -> None:
    rig = Rig(echo_spec(max_batch_size=1))

    def again() -> None:
        if len(rig.sent) < 20:
            rig.send().then = again

    rig.send().then = again
    await rig.after(0.5)
    await rig.settle()
    assert len(rig.sent) == 20
    assert all(sent.answered for sent in rig.sent)


@simulated
async def test_a_callback_may_cancel_its_neighbour_in_the_same_batch() -> None:
    rig = Rig()
    rig.send()
    await rig.after(0.001)
    first, neighbour, last = rig.send_many(3)
    first.then = neighbour.request.cancel
    await rig.settle()
    assert first.answered
    assert isinstance(neighbour.error, Cancelled)
    assert last.answered
    assert rig.batcher.statistics.success.count == rig.batcher.statistics.compute_infer.count == 3


@simulated
async def test_a_callback_may_cancel_its_neighbour_when_the_batch_failed() -> None:
    rig = Rig()
    rig.runners[0].failures.extend([None, ExecutionError("no")])
    rig.send()
    await rig.after(0.001)
    first, neighbour = rig.send_many(2)
    first.then = neighbour.request.cancel
    await rig.settle()
    assert isinstance(neighbour.error, Cancelled)


@simulated
async def test_a_callback_of_a_request_found_late_may_cancel_its_neighbour() -> None:
    loop = manual_loop()
    blocked = [0.020]  # the first run ends at 10 ms, and the loop hears of it at 30: before the timer of the deadline
    rig = Rig(runners=[FakeRunner(blocks=lambda _rows: loop.advance(blocked.pop() if blocked else 0.0))])
    rig.send()
    await rig.after(0.001)
    late, neighbour = rig.send(deadline_s=0.015), rig.send()
    late.then = neighbour.request.cancel
    await rig.settle()
    assert isinstance(late.error, DeadlineExpired)
    assert isinstance(neighbour.error, Cancelled)
    assert rig.batches() == [[1]], "the neighbour's batch was terminated before it read anything"


@simulated
async def test_a_callback_may_cancel_others_while_the_batcher_closes() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    first, second, third = rig.send_many(3)
    first.then = third.request.cancel
    await rig.batcher.close()
    assert isinstance(first.error, Draining)
    assert isinstance(second.error, Draining)
    assert isinstance(third.error, Cancelled)
    await rig.settle()


# --- the end


@simulated
async def test_drain_refuses_new_requests_and_answers_the_old() -> None:
    rig = Rig(echo_spec(max_batch_size=2, batching=BatchPolicy(max_queue_delay_s=60.0)))
    old = rig.send_many(5)
    draining = asyncio.ensure_future(rig.batcher.drain())
    await asyncio.sleep(0)
    new = rig.send()
    await draining
    assert all(sent.answered for sent in old)
    assert isinstance(new.error, Draining)
    assert rig.now_s < 1.0, "a delay is no reason to hold up the end"
    await rig.settle()


@simulated
async def test_drain_of_an_idle_batcher_returns_at_once() -> None:
    rig = Rig()
    await asyncio.wait_for(rig.batcher.drain(), 1.0)
    await rig.settle()


@simulated
async def test_close_ends_what_waits_and_lets_run_what_runs() -> None:
    rig = Rig(echo_spec(max_batch_size=1))
    runs, waits = rig.send_many(2)
    await rig.after(0.001)
    await rig.batcher.close()
    assert runs.answered
    assert isinstance(waits.error, Draining)
    assert rig.runners[0].closed
    await rig.batcher.close()
    await rig.settle()


@simulated
async def test_after_close_no_timer_is_left() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(max_queue_delay_s=5.0)))
    rig.send(deadline_s=50.0)
    await rig.after(0.001)
    await rig.batcher.close()
    now = rig.now_s
    await asyncio.sleep(0)
    waiting = [handle for handle in rig.loop._scheduled if not handle.cancelled()]  # type: ignore[attr-defined]
    assert waiting == []
    assert rig.now_s - now < 0.001
    await rig.settle()


# --- statistics


@simulated
async def test_statistics_have_tritons_meaning() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=0.010)])
    rig.send(rows=2)
    await rig.after(0.004)
    rig.send(rows=3)
    rig.send(rows=1)
    rig.send(deadline_s=-1.0)
    await rig.settle()
    statistics = rig.batcher.statistics
    assert statistics.inference_count == 6, "batch elements"
    assert statistics.execution_count == 2, "runs"
    assert statistics.success.count == 3, "requests"
    assert statistics.success.ns == pytest.approx((0.010 + 0.016 + 0.016) * 1e9, rel=1e-4)
    assert statistics.queue.count == 3
    assert statistics.queue.ns == pytest.approx(0.012e9, rel=1e-4)
    assert statistics.compute_infer.count == 3
    assert statistics.compute_infer.ns == pytest.approx(0.030e9, rel=1e-4)
    assert statistics.compute_input.count == statistics.compute_output.count == 3
    assert statistics.fail.count == 1
    assert sorted(statistics.batches) == [2, 4]
    assert statistics.batches[4].compute_infer.count == 1
    assert statistics.batches[4].compute_infer.ns == pytest.approx(0.010e9, rel=1e-4)
    assert statistics.last_inference_ms > 1_600_000_000_000


@simulated
async def test_refused_requests_change_nothing_but_failures() -> None:
    rig = Rig()
    wrong = Sent(1.0)
    wrong.request = InferRequest(echo_head(99, 4), (b"",), release=wrong.released_now)
    wrong.submit(rig.batcher)
    await rig.settle()
    statistics = rig.batcher.statistics
    assert (statistics.success.count, statistics.inference_count, statistics.execution_count) == (0, 0, 0)
    assert statistics.fail.count == 1
    assert statistics.queue.count == 0


@simulated
async def test_cuts_tell_why_batches_were_not_larger() -> None:
    rig = Rig(echo_spec(max_batch_size=4))
    rig.send()
    await rig.after(0.001)
    for rows in (3, 2, 4, 1):
        rig.send(rows=rows)
    await rig.settle()
    assert rig.runners[0].sizes == [1, 3, 2, 4, 1]
    assert rig.batcher.statistics.cuts == {"empty": 2, "large": 2, "full": 1}
