"""A batcher on fake devices in simulated time, and requests that notice every breach of the contract.

`Sent` lends a bytearray and poisons it when it is given back (0xFF: not a number), so that whoever still reads it shows
in the results or in `FakeRunner.poisoned`. It notes when `done` or `release` comes twice or inside `submit`; raising
there would not do, the batcher survives callbacks that raise. `check_settled` fails the test.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.core.errors import SpillwayError
from runtime.core.inference import (
    InferRequest,
    InferResult,
    Outcome,
    RequestedOutput,
    RequestHead,
    Scheduler,
    TensorHead,
)
from runtime.core.model import BatchPolicy, ModelSpec
from runtime.core.tensor import TensorSpec
from runtime.core.verdict import RunCost
from runtime.serving.admission import Limits
from runtime.serving.batcher import Batcher
from runtime.serving.devices import DevicePool
from runtime.serving.work import Runner
from tests.fakes.runner import FakeRunner, SimulatedDriver

BATCHED = BatchPolicy()


def echo_spec(max_batch_size: int = 8, batching: BatchPolicy | None = BATCHED, **fields: Any) -> ModelSpec:
    """A model `echo` with one input `x` and one output `y`, FP32 of any width."""
    settled: dict[str, Any] = {
        "inputs": (TensorSpec("x", "FP32", (-1,)),),
        "outputs": (TensorSpec("y", "FP32", (-1,)),),
        **fields,
    }
    return ModelSpec("echo", 1, Path("echo.onnx"), max_batch_size=max_batch_size, batching=batching, **settled)


def echo_head(rows: int, width: int, outputs: tuple[RequestedOutput, ...] = (), **fields: Any) -> RequestHead:
    """Head of a request of the echo model."""
    return RequestHead("echo", "", (TensorHead("x", "FP32", (rows, width)),), outputs, **fields)


class Sent:
    """One request on its way. `value` fills its input, so that answers cannot be confused."""

    def __init__(
        self,
        value: float,
        rows: int = 1,
        width: int = 4,
        *,
        deadline: float = math.inf,
        outputs: tuple[RequestedOutput, ...] = (),
        **fields: Any,
    ) -> None:
        self.value = value
        self.rows = rows
        self.array = np.full((rows, width), value, np.float32)
        self.buffer = bytearray(self.array.tobytes())
        self.request = InferRequest(
            echo_head(rows, width, outputs, **fields), (self.buffer,), deadline=deadline, release=self.released_now
        )
        self.outcome: Outcome | None = None
        self.done_at = math.nan
        self.released = False
        self.submitting = False
        self.breaches: list[str] = []
        self.then: Callable[[], None] | None = None
        """What the caller does when it hears the answer."""

    def submit(self, scheduler: Scheduler) -> "Sent":
        """Hand it in."""
        self.submitting = True
        scheduler.submit(self.request, self.done)
        self.submitting = False
        return self

    def done(self, outcome: Outcome) -> None:
        if self.submitting:
            self.breaches.append("done was called inside submit")
        if self.outcome is not None:
            self.breaches.append(f"done was called twice: {self.outcome}, {outcome}")
        self.outcome = outcome
        self.done_at = asyncio.get_running_loop().time()
        if self.then is not None:
            self.then()

    def released_now(self) -> None:
        if self.submitting:
            self.breaches.append("buffers were released inside submit")
        if self.released:
            self.breaches.append("buffers were released twice")
        self.released = True
        self.buffer[:] = b"\xff" * len(self.buffer)

    @property
    def error(self) -> SpillwayError | None:
        """The error that it ended with."""
        return self.outcome if isinstance(self.outcome, SpillwayError) else None

    @property
    def answered(self) -> bool:
        """True once there is a result; it is checked to be this request's own."""
        if not isinstance(self.outcome, InferResult):
            return False
        for output in self.outcome.outputs:
            assert np.array_equal(output.array, self.array), f"{output.array} is no echo of {self.array}"
        return True

    def check_settled(self) -> None:
        """Everything has ended: one answer, and the buffers are back."""
        assert self.breaches == [], f"request {self.value}"
        assert self.outcome is not None, f"request {self.value} was never answered"
        assert self.released, f"buffers of request {self.value} were never released"
        assert self.answered or self.error is not None


class Complaints(logging.Handler):
    """What the batcher logs of callbacks that raised, its own guards against a second answer among them."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.seen: list[str] = []
        logging.getLogger("runtime.serving.entry").addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self.seen.append(f"{record.getMessage()}: {record.exc_info and record.exc_info[1]!r}")

    def close(self) -> None:
        logging.getLogger("runtime.serving.entry").removeHandler(self)
        super().close()


class Rig:
    """A batcher over simulated devices. Make it inside a running loop."""

    def __init__(
        self,
        spec: ModelSpec | None = None,
        runners: Sequence[FakeRunner] | None = None,
        *,
        limits: Limits | None = None,
        costs: Sequence[RunCost] = (),
        inline: bool = False,
        reopen: Callable[[str], Runner] | None = None,
    ) -> None:
        self.loop = asyncio.get_running_loop()
        self.runners = list(runners or [FakeRunner()])
        self.pool = DevicePool(self.runners, "echo-1", inline=inline, reopen=reopen, driver=SimulatedDriver)
        self.batcher = Batcher(spec or echo_spec(), self.pool, limits or Limits(), costs)
        self.sent: list[Sent] = []
        self.complaints = Complaints()
        self.began = self.loop.time()

    @property
    def now_s(self) -> float:
        """Simulated seconds since the rig was made."""
        return self.loop.time() - self.began

    def send(self, rows: int = 1, width: int = 4, *, deadline_s: float = math.inf, **fields: Any) -> Sent:
        """Submit a request with a value of its own, 1, 2, 3 ..."""
        sent = Sent(float(len(self.sent) + 1), rows, width, deadline=self.loop.time() + deadline_s, **fields)
        self.sent.append(sent)
        return sent.submit(self.batcher)

    def send_many(self, count: int, **fields: Any) -> list[Sent]:
        """Submit `count` requests of one row at once."""
        return [self.send(**fields) for _ in range(count)]

    async def after(self, seconds: float) -> None:
        """Let time pass until `seconds` after the start of the rig."""
        await asyncio.sleep(max(0.0, self.began + seconds - self.loop.time()))

    async def settle(self) -> None:
        """Wait for every answer, close, and check that nothing is left."""
        await self.batcher.drain()
        await self.batcher.close()
        self.complaints.close()
        assert self.complaints.seen == []
        for sent in self.sent:
            sent.check_settled()
        assert not any(runner.poisoned for runner in self.runners), "a device read a buffer after its release"
        assert not any(runner.misused for runner in self.runners), "a closed runner was asked to run"
        statistics = self.batcher.statistics
        assert (statistics.pending_requests, statistics.pending_bytes) == (0, 0)

    def batches(self) -> list[list[float]]:
        """Values in each batch of the first runner."""
        return self.runners[0].batches
