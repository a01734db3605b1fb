"""Batches on their way through a device: assembly, errors, and the threads that run them."""

import asyncio
import gc
import logging
import threading
import weakref
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from runtime.core.errors import DeviceLost, ExecutionError
from runtime.core.tensor import Array
from runtime.serving.work import Work, Worker, assemble, execute
from tests.fakes.runner import FakeRunner


def part(*values: float) -> dict[str, Array]:
    return {"x": np.array([values], np.float32)}


def test_a_lone_request_is_not_copied() -> None:
    lone = part(1, 2)
    assert assemble([lone])["x"] is lone["x"]


def test_a_lone_request_at_an_odd_address_is_moved_to_an_even_one() -> None:
    message = b"?" + np.array([1, 2], np.float32).tobytes()
    odd = np.frombuffer(memoryview(message)[1:], np.float32)
    assert not odd.flags.aligned
    feeds = assemble([{"x": odd}])
    assert feeds["x"].flags.aligned
    assert feeds["x"].tolist() == [1, 2]


def test_requests_are_joined_on_the_first_axis() -> None:
    feeds = assemble([part(1, 2), {"x": np.array([[3, 4], [5, 6]], np.float32)}])
    assert feeds["x"].tolist() == [[1, 2], [3, 4], [5, 6]]


def test_execute_leaves_outputs_and_lets_go_of_the_inputs() -> None:
    work = Work([part(1), part(2)], 2, ["y"])
    execute(FakeRunner(), work)
    assert work.outputs[0].tolist() == [[1], [2]]
    assert work.error is None
    assert work.parts == ()
    assert work.stop is None
    assert work.input_s > 0
    assert work.infer_s > 0


@pytest.mark.parametrize("error", [ExecutionError("no"), DeviceLost("gone")])
def test_our_errors_come_as_they_are(error: Exception) -> None:
    runner = FakeRunner()
    runner.failures.append(error)
    work = Work([part(1)], 1, ["y"])
    execute(runner, work)
    assert work.error is error
    assert work.parts == ()


def test_a_batch_that_failed_lets_go_of_its_inputs_at_once() -> None:
    class Translating(FakeRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            seen.append(weakref.ref(feeds["x"]))
            try:
                raise ValueError("the runtime's own")
            except ValueError as error:
                raise ExecutionError("onnx runtime error: the runtime's own") from error

    seen: list[weakref.ref[Array]] = []
    work = Work([part(1), part(2)], 2, ["y"])
    gc.disable()
    try:
        execute(Translating(), work)
        assert seen[0]() is None
    finally:
        gc.enable()
    assert str(work.error) == "onnx runtime error: the runtime's own"


def test_foreign_errors_are_logged_and_named_but_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    runner = FakeRunner()
    runner.failures.append(KeyError("secret"))
    work = Work([part(1)], 1, ["y"])
    with caplog.at_level(logging.ERROR):
        execute(runner, work)
    assert str(work.error) == "internal error while running a batch: KeyError"
    assert "secret" in caplog.text


def test_inputs_that_cannot_be_joined_are_an_error_of_the_batch(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    work = Work([part(1), part(1, 2)], 2, ["y"])
    execute(FakeRunner(), work)
    assert isinstance(work.error, ExecutionError)


def test_a_batch_that_died_before_it_ran_does_not_run() -> None:
    runner = FakeRunner()
    work = Work([part(1)], 1, ["y"])
    work.terminate()
    execute(runner, work)
    assert isinstance(work.error, ExecutionError)
    assert runner.batches == []


def test_terminate_reaches_a_run_that_has_begun() -> None:
    stopped: list[int] = []

    class Stoppable(FakeRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            work.stop = lambda: stopped.append(1)
            work.terminate()
            return super().run(names, feeds, work)

    work = Work([part(1)], 1, ["y"])
    execute(Stoppable(), work)
    assert stopped == [1]
    work.terminate()
    assert stopped == [1], "a run that has ended is left alone"


async def test_a_worker_runs_batches_in_turn_and_reports_on_the_loop() -> None:
    loop = asyncio.get_running_loop()
    finished: asyncio.Queue[tuple[Work, int]] = asyncio.Queue()
    runner = FakeRunner()
    worker = Worker(runner, loop, lambda work: finished.put_nowait((work, threading.get_ident())), "test")
    works = [Work([part(value)], 1, ["y"]) for value in range(5)]
    for work in works:
        worker.post(work)
    reported = [await finished.get() for _ in works]
    assert [work for work, _ in reported] == works
    assert {ident for _, ident in reported} == {threading.get_ident()}
    assert runner.batches == [[0], [1], [2], [3], [4]]
    worker.close()


async def test_a_worker_of_two_threads_runs_two_batches_at_a_time() -> None:
    loop = asyncio.get_running_loop()
    finished: asyncio.Queue[Work] = asyncio.Queue()
    both = threading.Barrier(2, timeout=5)

    def meet(_rows: int) -> None:
        both.wait()

    worker = Worker(FakeRunner(blocks=meet), loop, finished.put_nowait, "test", threads=2)
    for value in range(2):
        worker.post(Work([part(value)], 1, ["y"]))
    ended = [await finished.get(), await finished.get()]
    assert [work.error for work in ended] == [None, None], "neither waits for the other to end"
    worker.close()


async def test_an_idle_worker_holds_no_batch() -> None:
    finished: asyncio.Queue[Work] = asyncio.Queue()
    worker = Worker(FakeRunner(), asyncio.get_running_loop(), finished.put_nowait, "test")
    worker.post(Work([part(1)], 1, ["y"]))
    work = await finished.get()
    outputs = weakref.ref(work.outputs[0])
    del work
    for _ in range(100):  # the thread may still be on its way back to the queue
        gc.collect()
        if outputs() is None:
            break
        await asyncio.sleep(0.001)
    assert outputs() is None
    worker.close()


async def test_closing_a_worker_ends_what_is_queued_first() -> None:
    finished: list[Work] = []
    worker = Worker(FakeRunner(), asyncio.get_running_loop(), finished.append, "test", threads=2)
    for value in range(10):
        worker.post(Work([part(value)], 1, ["y"]))
    await asyncio.to_thread(worker.close)
    await asyncio.sleep(0)
    assert len(finished) == 10


def test_a_batch_that_ends_after_the_loop_was_closed_is_only_logged(caplog: pytest.LogCaptureFixture) -> None:
    loop = asyncio.new_event_loop()
    worker = Worker(FakeRunner(), loop, lambda _: None, "test")
    loop.close()
    worker.post(Work([part(1)], 1, ["y"]))
    worker.close()
    assert "batch finished after the event loop closed" in caplog.text
