"""One batch on its way through a device, and what runs it.

A `Runner` is a loaded model on one device. It is driven either inline, on the event loop, or by a `Worker`, which
gives it a thread of its own; it never knows which. ONNX Runtime releases the interpreter lock while it runs.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from queue import SimpleQueue
from typing import Protocol

import numpy as np

from runtime.core.errors import ExecutionError, SpillwayError
from runtime.core.tensor import Array

log = logging.getLogger(__name__)


class Work:
    """A batch: the inputs of each request, joined and run; `outputs` or `error` is set when it ends.

    `outputs` follow `names`, each with the whole batch on its first axis. Durations in seconds.
    """

    __slots__ = ("dead", "error", "infer_s", "input_s", "names", "outputs", "parts", "rows", "stop")

    def __init__(self, parts: Sequence[Mapping[str, Array]], rows: int, names: Sequence[str]) -> None:
        self.parts = parts
        self.rows = rows
        self.names = names
        self.outputs: Sequence[Array] = ()
        self.error: SpillwayError | None = None
        self.dead = False
        self.stop: Callable[[], None] | None = None
        self.input_s = 0.0
        self.infer_s = 0.0

    def terminate(self) -> None:
        """Nobody wants the answer any more: end the run at the next node, if it has begun. Any thread."""
        self.dead = True
        stop = self.stop  # the worker's thread clears it when the run ends
        if stop is not None:
            stop()


class Runner(Protocol):
    """A loaded model on one device: arrays in, arrays out.

    Calls come one at a time; on a GPU two at a time, from two threads.
    """

    @property
    def provider(self) -> str:
        """Short name of the execution provider: cpu, cuda ..."""
        ...

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        """Execute one batch and return the outputs `names`, which share no memory with `feeds`. Blocking.

        Sets `work.stop` where a run can be ended, and then looks at `work.dead`: `terminate` may have come before.

        Raises:
            ExecutionError: the session failed on this input; the runner stays usable.
            DeviceLost: the device is gone; the runner must be discarded.
        """
        ...

    def close(self) -> None:
        """Give back the session. Idempotent."""
        ...


def execute(runner: Runner, work: Work) -> None:
    """Assemble the batch, run it, and leave outputs or error in `work`. Blocking; never raises."""
    begun = time.perf_counter()
    try:
        feeds = assemble(work.parts)
        ready = time.perf_counter()
        work.input_s = ready - begun
        if work.dead:
            raise ExecutionError("batch abandoned: every request of it ended before it ran")
        work.outputs = runner.run(work.names, feeds, work)
        work.infer_s = time.perf_counter() - ready
    except SpillwayError as error:
        # The frames of its traceback, and of its cause's, hold the inputs until a garbage collection.
        error.__cause__ = error.__context__ = error.__traceback__ = None
        work.error = error
    except Exception as error:
        log.exception("batch failed")
        work.error = ExecutionError(f"internal error while running a batch: {type(error).__name__}")
    finally:
        work.stop = None
        work.parts = ()


def assemble(parts: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    """Join the requests' inputs on the first axis: the only copy of input data.

    A lone request is not copied, but where its bytes lie at an odd place of their message: compiled kernels may
    count on addresses that are multiples of the element's size.
    """
    if len(parts) == 1:
        return {name: array if array.flags.aligned else array.copy() for name, array in parts[0].items()}
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


class Worker:
    """Threads that run one runner's batches and report each to the event loop, one wake-up a batch.

    One thread runs them in turn; two overlap the copies of one batch with the computation of another.
    """

    def __init__(
        self,
        runner: Runner,
        loop: asyncio.AbstractEventLoop,
        finished: Callable[[Work], None],
        name: str,
        threads: int = 1,
    ) -> None:
        self._runner = runner
        self._loop = loop
        self._finished = finished
        self._queue: SimpleQueue[Work | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._serve, name=name, daemon=True) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def post(self, work: Work) -> None:
        """Queue a batch. Any thread."""
        self._queue.put(work)

    def close(self) -> None:
        """End the threads after what is queued; blocks until they ended."""
        for _ in self._threads:
            self._queue.put(None)
        for thread in self._threads:
            thread.join()

    def _serve(self) -> None:
        while self._serve_one():
            pass

    def _serve_one(self) -> bool:
        """Run the next batch; its own frame, so that an idle thread holds on to no batch."""
        work = self._queue.get()
        if work is None:
            return False
        execute(self._runner, work)
        try:
            self._loop.call_soon_threadsafe(self._finished, work)
        except RuntimeError:  # the loop was closed: the process is going down, nobody waits any more
            log.warning("batch finished after the event loop closed")
        return True
