"""Devices: several, two batches on a GPU, lost ones, and execution on the event loop."""

import asyncio
import logging
import time

import pytest

from runtime.core.errors import Cancelled, DeviceLost, ExecutionError
from runtime.core.verdict import RunCost
from tests.fakes.clock import manual_loop, simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, echo_spec

LOST = DeviceLost("CUDA failure 999")

A_MOMENT = 1e-6
"""Seconds after which a loop with nothing else to do has run what waited for that."""


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)


# --- several


@simulated
async def test_idle_devices_share_what_waits() -> None:
    rig = Rig(runners=[FakeRunner(), FakeRunner()])
    rig.send_many(8)
    await rig.settle()
    assert [runner.sizes for runner in rig.runners] == [[4], [4]]
    assert rig.now_s == pytest.approx(0.010)
    assert rig.batcher.statistics.cuts == {"shared": 1, "empty": 1}


@simulated
async def test_a_busy_device_gets_no_part() -> None:
    rig = Rig(runners=[FakeRunner(fixed_s=1.0), FakeRunner(fixed_s=0.010)])
    rig.send()
    await rig.after(0.001)
    rig.send()
    await rig.after(0.002)
    rig.send_many(6)
    await rig.settle()
    assert [runner.sizes for runner in rig.runners] == [[1], [1, 6]]


# --- depth


@simulated
async def test_a_gpu_has_two_batches_in_flight_and_no_more() -> None:
    gpu = FakeRunner("cuda", fixed_s=0.010)
    rig = Rig(runners=[gpu])
    rig.send()
    await rig.after(0.001)
    second = rig.send()
    await rig.after(0.002)
    rig.send_many(3)
    await rig.settle()
    assert gpu.batches == [[1], [2], [3, 4, 5]]
    assert second.done_at - rig.began == pytest.approx(0.011)


@simulated
async def test_an_idle_gpu_does_not_split_what_waits_between_its_two_slots() -> None:
    gpu = FakeRunner("cuda")
    rig = Rig(runners=[gpu])
    rig.send_many(8)
    await rig.settle()
    assert gpu.sizes == [8]


@simulated
async def test_batches_go_to_the_gpu_that_does_nothing() -> None:
    rig = Rig(runners=[FakeRunner("cuda", fixed_s=1.0), FakeRunner("cuda", fixed_s=1.0)])
    for tick in range(4):
        await rig.after(0.001 * tick)
        rig.send()
    await rig.settle()
    assert [runner.sizes for runner in rig.runners] == [[1, 1], [1, 1]]
    assert [runner.batches[0] for runner in rig.runners] == [[1], [2]]


@simulated
async def test_a_gpu_that_is_half_busy_gets_no_part_of_what_an_idle_one_can_take() -> None:
    rig = Rig(runners=[FakeRunner("cuda", fixed_s=1.0), FakeRunner("cuda", fixed_s=1.0)])
    rig.send()
    await rig.after(0.001)
    rig.send_many(8)
    await rig.settle()
    assert [runner.sizes for runner in rig.runners] == [[1], [8]]


# --- lost


@simulated
async def test_requests_of_a_lost_device_are_answered_by_its_replacement() -> None:
    gpu, cpu = FakeRunner("cuda"), FakeRunner("cpu")
    gpu.failures.append(LOST)
    asked: list[str] = []

    def reopen(provider: str) -> FakeRunner:
        asked.append(provider)
        return cpu

    rig = Rig(runners=[gpu], reopen=reopen)
    rig.loop.executor_delay_s = 0.5  # type: ignore[attr-defined]
    first = rig.send_many(2)
    await rig.after(0.1)
    second = rig.send()
    await rig.settle()
    assert asked == ["cuda"]
    assert gpu.closed
    assert all(sent.answered for sent in (*first, second))
    assert cpu.batches == [[1, 2, 3]], "in the order of arrival"
    assert not cpu.poisoned
    assert rig.batcher.statistics.failures == {}


@simulated
async def test_both_batches_of_a_lost_gpu_move_in_order() -> None:
    gpu, cpu = FakeRunner("cuda", fixed_s=0.010), FakeRunner("cpu")
    gpu.failures.extend([LOST, LOST])
    rig = Rig(runners=[gpu], reopen=lambda _: cpu)
    for tick in range(3):
        await rig.after(0.001 * tick)
        rig.send()
    await rig.settle()
    assert all(sent.answered for sent in rig.sent)
    assert [value for batch in cpu.batches for value in batch] == [1, 2, 3]


@simulated
async def test_a_batch_that_a_lost_gpu_still_finished_does_not_bring_it_back() -> None:
    gpu, cpu = FakeRunner("cuda"), FakeRunner("cpu")
    gpu.failures.append(LOST)
    rig = Rig(echo_spec(max_batch_size=1), [gpu], reopen=lambda _: cpu)
    rig.send_many(2)
    await rig.after(0.050)
    rig.send_many(5)
    await rig.settle()
    assert all(sent.answered for sent in rig.sent)
    assert gpu.batches == [[1], [2]]
    assert cpu.batches == [[1], [3], [4], [5], [6], [7]]


@simulated
async def test_a_request_that_ended_on_a_lost_device_is_not_run_again() -> None:
    gpu, cpu = FakeRunner("cuda"), FakeRunner("cpu")
    gpu.failures.append(LOST)
    rig = Rig(runners=[gpu], reopen=lambda _: cpu)
    gone, stays = rig.send_many(2)
    await rig.after(0.005)
    gone.request.cancel()
    await rig.settle()
    assert isinstance(gone.error, Cancelled)
    assert stays.answered
    assert cpu.batches == [[2]]


@simulated
async def test_when_no_replacement_starts_everybody_hears_why_now_and_later() -> None:
    gpu = FakeRunner("cuda")
    gpu.failures.extend([LOST, LOST])

    def reopen(provider: str) -> FakeRunner:
        raise ExecutionError(f"{provider} was the only provider")

    rig = Rig(echo_spec(max_batch_size=1), [gpu], reopen=reopen)
    rig.loop.executor_delay_s = 0.5  # type: ignore[attr-defined]
    before = rig.send_many(2)
    await rig.after(0.1)
    during = rig.send()
    await rig.after(2.0)
    after = rig.send()
    await asyncio.sleep(0)
    for sent in (*before, during, after):
        assert isinstance(sent.error, DeviceLost)
        assert "cuda was the only provider" in str(sent.error)
    assert rig.batcher.statistics.failures == {"BACKEND": 4}
    await rig.settle()


@simulated
async def test_without_a_way_to_replace_it_a_lost_device_is_not_asked_again() -> None:
    lost, fine = FakeRunner(), FakeRunner()
    lost.failures.append(LOST)
    rig = Rig(echo_spec(max_batch_size=1), [lost, fine])
    rig.send_many(6)
    await rig.settle()
    assert all(sent.answered for sent in rig.sent)
    assert lost.sizes == [1]
    assert fine.sizes == [1] * 6


@simulated
async def test_a_replacement_that_raises_something_unknown_hangs_nobody() -> None:
    gpu = FakeRunner("cuda")
    gpu.failures.append(LOST)

    def reopen(provider: str) -> FakeRunner:
        raise MemoryError(provider)

    rig = Rig(runners=[gpu], reopen=reopen)
    sent = rig.send()
    await rig.settle()
    assert isinstance(sent.error, DeviceLost)
    assert "MemoryError" in str(sent.error)


@simulated
async def test_a_request_that_takes_devices_down_gets_the_error_in_the_end() -> None:
    opened: list[FakeRunner] = []

    def reopen(_: str) -> FakeRunner:
        runner = FakeRunner()
        runner.failures.append(LOST)
        opened.append(runner)
        return runner

    first = FakeRunner("cuda")
    first.failures.append(LOST)
    rig = Rig(runners=[first], reopen=reopen)
    deadly = rig.send()
    await rig.after(1.0)
    assert isinstance(deadly.error, DeviceLost)
    assert len(opened) == 3, "two moves, and a device for the others"
    opened[-1].failures.clear()
    later = rig.send()
    await rig.settle()
    assert later.answered


@simulated
async def test_a_device_that_is_lost_again_and_again_is_given_up() -> None:
    def broken(provider: str = "cpu") -> FakeRunner:
        runner = FakeRunner(provider)
        runner.failures.extend([LOST] * 9)
        return runner

    rig = Rig(runners=[broken()], reopen=broken)
    for _ in range(3):
        rig.send()
        await rig.after(rig.now_s + 1.0)
    assert all(isinstance(sent.error, DeviceLost) for sent in rig.sent)
    assert not rig.pool.alive
    await rig.settle()


@simulated
async def test_closing_while_a_device_is_being_replaced() -> None:
    gpu, cpu = FakeRunner("cuda"), FakeRunner("cpu")
    gpu.failures.append(LOST)
    rig = Rig(runners=[gpu], reopen=lambda _: cpu)
    rig.loop.executor_delay_s = 0.5  # type: ignore[attr-defined]
    rig.send()
    await rig.after(0.1)
    await rig.settle()
    assert gpu.closed
    assert cpu.closed


# --- inline


@simulated
async def test_a_tiny_model_runs_on_the_event_loop() -> None:
    runner = FakeRunner(fixed_s=99.0)  # no driver, no simulated duration
    rig = Rig(runners=[runner], inline=True)
    sent = rig.send_many(3)
    assert runner.batches == [], "not inside submit"
    await asyncio.sleep(A_MOMENT)
    assert runner.batches == [[1, 2, 3]]
    assert all(entry.answered for entry in sent)
    await rig.settle()


@simulated
async def test_one_turn_of_the_loop_runs_batches_for_a_millisecond_at_most() -> None:
    loop = manual_loop()
    runner = FakeRunner(blocks=lambda _rows: loop.advance(0.0004))
    rig = Rig(echo_spec(max_batch_size=1), [runner], inline=True)
    rig.send_many(10)
    turns: list[int] = []
    while len(runner.sizes) < 10:
        await asyncio.sleep(A_MOMENT)
        turns.append(len(runner.sizes))
    assert turns == [3, 6, 9, 10]
    await rig.settle()


@simulated
async def test_callers_that_answer_at_once_do_not_extend_the_turn() -> None:
    loop = manual_loop()
    runner = FakeRunner(blocks=lambda _rows: loop.advance(0.0004))
    rig = Rig(echo_spec(max_batch_size=1), [runner], inline=True)

    def again() -> None:
        if len(rig.sent) < 20:
            rig.send().then = again

    rig.send().then = again
    await asyncio.sleep(A_MOMENT)
    assert len(runner.sizes) == 3
    await rig.after(rig.now_s + 1.0)
    await rig.settle()
    assert len(runner.sizes) == 20


@simulated
async def test_a_slow_model_moves_to_a_thread_for_good() -> None:
    work_s = [0.0, 0.003, 0.003, 0.0]  # real time: that is what is measured

    def work(_: int) -> None:
        begun, wanted = time.thread_time(), work_s.pop(0) if work_s else 0.0
        while time.thread_time() - begun < wanted:
            pass

    runner = FakeRunner(fixed_s=0.010, blocks=work)
    rig = Rig(echo_spec(max_batch_size=1), [runner], inline=True)
    rig.send_many(5)
    await asyncio.sleep(A_MOMENT)
    assert len(runner.sizes) == 3, "the second was suspected, the third proved it"
    assert not rig.pool.inline
    await rig.settle()
    assert all(sent.answered for sent in rig.sent)
    assert rig.now_s == pytest.approx(0.020, abs=0.001), "two runs on the simulated driver"


@simulated
async def test_a_run_that_was_descheduled_moves_nothing() -> None:
    naps = [0.003, 0.003, 0.003]
    runner = FakeRunner(fixed_s=0.010, blocks=lambda _rows: time.sleep(naps.pop(0)) if naps else None)
    rig = Rig(echo_spec(max_batch_size=1), [runner], inline=True)
    rig.send_many(5)
    await asyncio.sleep(A_MOMENT)
    assert len(runner.sizes) == 5
    assert rig.pool.inline


@simulated
async def test_inline_failures_are_answers_too() -> None:
    runner = FakeRunner()
    runner.failures.append(ExecutionError("no"))
    rig = Rig(runners=[runner], inline=True)
    bad = rig.send()
    await asyncio.sleep(A_MOMENT)
    good = rig.send()
    await rig.settle()
    assert str(bad.error) == "no"
    assert good.answered


# --- refill, seen from outside


@simulated
async def test_closed_loop_clients_are_gathered_into_one_batch() -> None:
    """Greedy batching splits them into two halves for ever; refill waits for those who return."""
    costs = [RunCost(rows=rows, run_s=0.0130 + 0.0004 * rows) for rows in (1, 2, 4, 8, 16)]
    runner = FakeRunner(fixed_s=0.0130, row_s=0.0004)
    rig = Rig(echo_spec(max_batch_size=16), [runner], costs=costs)

    def client() -> None:
        if rig.now_s < 2.0:
            rig.loop.call_later(0.0003, lambda: setattr(rig.send(), "then", client))

    client()
    for _ in range(7):
        rig.loop.call_later(0.005, client)
    await rig.after(2.1)
    await rig.settle()
    assert runner.sizes[-6:] == [8] * 6, runner.sizes
    assert rig.batcher.statistics.success.count > 0.9 * 8 * 2.0 / (0.0130 + 0.0004 * 8 + 0.0004)
