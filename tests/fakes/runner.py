"""Runners without a model: an echo whose duration, failures and loss a test decides.

`SimulatedDriver` drives one on a `ManualLoop` instead of a thread. It reads the inputs when the run ends, the latest
moment that a device may: buffers given back too early show in what it reads.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from runtime.core.errors import ExecutionError
from runtime.core.tensor import Array
from runtime.serving.work import Runner, Work, execute


class FakeRunner:
    """Answers every output with a copy of the first input. `T(b) = fixed_s + row_s * b` on simulated devices.

    `failures` are raised by the coming runs, one each (None: succeed). `blocks` is called inside `run`, for tests of
    inline execution. `poisoned` tells that a run has read a buffer after its release (see `rig.Sent`), `misused` that
    one was started after `close`.
    """

    def __init__(
        self,
        provider: str = "cpu",
        fixed_s: float = 0.010,
        row_s: float = 0.0,
        blocks: Callable[[int], None] | None = None,
    ) -> None:
        self._provider = provider
        self._blocks = blocks
        self.fixed_s = fixed_s
        self.row_s = row_s
        self.failures: deque[Exception | None] = deque()
        self.batches: list[list[float]] = []
        """Of each run that was started: the first number of every row."""
        self.terminated = 0
        self.poisoned = False
        self.misused = False
        self.closed = False

    @property
    def provider(self) -> str:
        return self._provider

    @property
    def sizes(self) -> list[int]:
        """Rows of each run."""
        return [len(batch) for batch in self.batches]

    def duration_s(self, rows: int) -> float:
        """Simulated seconds of a run."""
        return self.fixed_s + self.row_s * rows

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        self.misused |= self.closed
        array = np.array(next(iter(feeds.values())))
        self.batches.append([float(row.ravel()[0]) if row.size else 0.0 for row in array])
        self.look(feeds)
        if self._blocks is not None:
            self._blocks(work.rows)
        failure = self.failures.popleft() if self.failures else None
        if failure is not None:
            raise failure
        return [np.array(array) for _ in names]

    def look(self, feeds: Mapping[str, Array]) -> None:
        """Read inputs as a device does."""
        self.poisoned |= any(bool(np.isnan(array).any()) for array in feeds.values())

    def close(self) -> None:
        self.closed = True


class SimulatedDriver:
    """A `devices.Driver` in simulated time: `threads` batches at a time, the rest in turn."""

    def __init__(
        self,
        runner: Runner,
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[Work], None],
        name: str,
        threads: int = 1,
    ) -> None:
        assert isinstance(runner, FakeRunner)
        self._runner = runner
        self._loop = loop
        self._finished = finished
        self._room = threads
        self._queue: deque[Work] = deque()
        self._timers: dict[Work, asyncio.TimerHandle] = {}

    def post(self, work: Work) -> None:
        self._queue.append(work)
        self._start_next()

    def close(self) -> None:
        """What is queued ends at once: a test that closes a busy device does not care how long that takes."""
        while self._timers or self._queue:
            for work in list(self._timers):
                self._end(work)

    def _start_next(self) -> None:
        while self._queue and self._room:
            self._room -= 1
            work = self._queue.popleft()
            work.stop = partial(self._terminate, work)
            self._timers[work] = self._loop.call_later(self._runner.duration_s(work.rows), self._end, work)

    def _terminate(self, work: Work) -> None:
        self._runner.terminated += 1
        self._timers[work].cancel()
        self._timers[work] = self._loop.call_later(0, self._end, work)

    def _end(self, work: Work) -> None:
        self._timers.pop(work).cancel()
        dead = work.dead
        for part in work.parts:  # a terminated run has read until now too
            self._runner.look(part)
        execute(self._runner, work)
        if not dead and work.error is None:
            work.infer_s = self._runner.duration_s(work.rows)
        self._room += 1
        self._loop.call_soon(self._finished, work)
        self._start_next()


class GatedRunner:
    """For real threads: reads half of its input and waits for the test to open the gate, even when told to stop."""

    def __init__(self) -> None:
        self.reading = threading.Event()
        self.gate = threading.Event()
        self.stopped = False
        self.poisoned = False

    @property
    def provider(self) -> str:
        return "cpu"

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        def stop() -> None:
            self.stopped = True

        work.stop = stop
        array = next(iter(feeds.values()))
        read = np.empty_like(array)
        half = array.shape[-1] // 2
        read[..., :half] = array[..., :half]
        self.reading.set()
        assert self.gate.wait(5), "the test never opened the gate"
        read[..., half:] = array[..., half:]
        self.poisoned |= bool(np.isnan(read).any())
        if self.stopped:
            raise ExecutionError("terminated")
        return [read for _ in names]

    def close(self) -> None:
        pass
