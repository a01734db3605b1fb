"""The places where one model version runs: runners, inline or in threads of their own.

A device has `depth` slots: one on the CPU, two on a GPU, so that one batch is copied in while the other computes.
Inline execution (on the event loop, no thread hop) is for tiny models only and ends for good with the first run that
takes more than `INLINE_MAX_RUN_S` of CPU time. A lost device is discarded at once and replaced by what `reopen` brings
up, in the background.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from runtime.core.errors import DeviceLost, SpillwayError
from runtime.serving.work import Runner, Work, Worker, execute

log = logging.getLogger(__name__)

INLINE_MAX_RUN_S = 0.002
SUSPECTED_RUNS = 16
INLINE_TURN_S = 0.001
INLINE_OVERHEAD_S = 0.00002
THREAD_OVERHEAD_S = 0.0001
"""What a batch costs beside its run: measured 32-67 us for the hand-over, and the wake-up of the loop."""
MAX_REPLACEMENTS = 3
GPU_DEPTH = 2

Finished = Callable[[Work], None]
Reopen = Callable[[str], Runner]
"""Blocking: a new runner in place of one whose provider (the argument) was lost. Raises SpillwayError."""


class Driver(Protocol):
    """Runs batches elsewhere than on the event loop: `work.Worker`."""

    def post(self, work: Work) -> None:
        """Queue a batch."""
        ...

    def close(self) -> None:
        """Stop after what is queued; may block."""
        ...


class DriverFactory(Protocol):
    """Makes the driver of one runner; `finished` is called on `loop` after each batch."""

    def __call__(
        self, runner: Runner, loop: asyncio.AbstractEventLoop, finished: Finished, name: str, threads: int
    ) -> Driver:
        """`threads` batches run at a time."""
        ...


class Device:
    """One runner and how it is driven. `busy_until`: predicted end of what runs, monotonic seconds."""

    def __init__(self, runner: Runner, name: str) -> None:
        self.runner = runner
        self.name = name
        self.provider = runner.provider
        self.depth = GPU_DEPTH if runner.provider in ("cuda", "tensorrt") else 1
        self.in_flight = 0
        self.busy_until = 0.0
        self.slow_run_s = 0.0
        """Set once by the first inline run that took too much CPU time."""
        self._suspicion = 0
        self._driver: Driver | None = None
        self._finished: Finished = _nobody

    def bind(self, loop: asyncio.AbstractEventLoop, finished: Finished, driver: DriverFactory | None) -> None:
        """Say who hears of finished work, before the first `start`. Without `driver` it runs on the event loop."""
        self._finished = finished
        if driver is not None:
            self._driver = driver(self.runner, loop, finished, self.name, self.depth)

    def start(self, work: Work) -> None:
        """Run a batch; `finished` comes from the event loop, for an inline device before this returns."""
        if self._driver is not None:
            self._driver.post(work)
        else:
            self._run_inline(work)
            self._finished(work)

    def _run_inline(self, work: Work) -> None:
        """Run here. A run that seems too long may have been descheduled: the next ones are timed by the CPU clock.

        That clock is a system call (4 us), so it is not asked for every run.
        """
        suspected = self._suspicion > 0
        begun = time.thread_time() if suspected else 0.0
        execute(self.runner, work)
        if suspected:
            self._suspicion -= 1
            if (took_s := time.thread_time() - begun) > INLINE_MAX_RUN_S:
                self.slow_run_s = took_s
        elif work.infer_s > INLINE_MAX_RUN_S:
            self._suspicion = SUSPECTED_RUNS

    def close(self) -> None:
        """End the thread, drop the session. Blocking."""
        if self._driver is not None:
            self._driver.close()
        self.runner.close()


def _nobody(work: Work) -> None:
    raise AssertionError(f"batch of {work.rows} rows finished on a device that was never bound")


class DevicePool:
    """The devices of one model version and which of them have room. Event loop only, but for construction."""

    def __init__(
        self,
        runners: Sequence[Runner],
        name: str,
        *,
        inline: bool = False,
        reopen: Reopen | None = None,
        driver: DriverFactory = Worker,
    ) -> None:
        assert not inline or len(runners) == 1, "inline execution has one instance"
        self.inline = inline
        self.devices = [Device(runner, f"{name}-{index}") for index, runner in enumerate(runners)]
        self.idle: list[Device] = []
        """Devices with room, each once."""
        self.fault = ""
        """Why the last lost device was not replaced."""
        self._reopen = reopen
        self._driver = driver
        self._replacements_left = MAX_REPLACEMENTS * len(runners)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._finished: Finished = _nobody
        self._tasks: set[asyncio.Future[None]] = set()
        self._pending = 0

    @property
    def alive(self) -> bool:
        """False once the last device is lost and nothing will take its place."""
        return bool(self.devices) or self._pending > 0

    @property
    def capacity(self) -> int:
        """Batches that run at the same time."""
        return sum(device.depth for device in self.devices)

    @property
    def unused(self) -> int:
        """Devices that run nothing at all, at least 1: how many batches it makes sense to share a queue between."""
        return max(1, sum(1 for device in self.idle if not device.in_flight))

    @property
    def overhead_s(self) -> float:
        """Seconds that a batch costs beside its run."""
        return INLINE_OVERHEAD_S if self.inline else THREAD_OVERHEAD_S

    def start(self, finished: Finished) -> None:
        """Bring the devices to work on the running event loop."""
        self._loop = asyncio.get_running_loop()
        self._finished = finished
        for device in self.devices:
            self._add(device)

    def room_in_s(self, now: float) -> float:
        """Predicted seconds until a device has room."""
        if self.idle or not self.devices:
            return 0.0
        return max(0.0, min(device.busy_until for device in self.devices) - now)

    def take(self, now: float, run_s: float) -> Device:
        """A device with room for a batch of about `run_s` seconds, the emptiest; `put_back` ends the loan of a slot."""
        device = self.idle[0] if len(self.idle) == 1 else min(self.idle, key=_in_flight)
        device.in_flight += 1
        device.busy_until = max(device.busy_until, now + run_s)
        if device.in_flight == device.depth:
            self.idle.remove(device)
        return device

    def put_back(self, device: Device) -> None:
        """The device has room again."""
        device.in_flight -= 1
        if device not in self.devices:
            return  # discarded meanwhile
        if self.inline and device.slow_run_s:
            self._leave_inline(device)
        if device.in_flight == device.depth - 1:
            self.idle.append(device)

    def discard(self, device: Device, settled: Callable[[], None]) -> None:
        """The device is lost. Close it, bring up another in its place if there may be one, then call `settled`."""
        if device not in self.devices:
            return  # its other batch reported the loss already
        self.devices.remove(device)
        self.idle = [other for other in self.idle if other is not device]
        self._pending += 1
        assert self._loop is not None
        task = asyncio.ensure_future(self._replace(device, settled), loop=self._loop)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End threads and sessions; waits for what runs. Idempotent."""
        for task in list(self._tasks):
            await task
        devices, self.devices = self.devices, []
        self.idle.clear()
        for device in devices:
            await asyncio.to_thread(device.close)

    def _add(self, device: Device) -> None:
        assert self._loop is not None
        device.bind(self._loop, self._finished, None if self.inline else self._driver)
        self.idle.append(device)

    async def _replace(self, device: Device, settled: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(device.close)
            runner = await asyncio.to_thread(self._open_another, device)
        except SpillwayError as error:
            self.fault = str(error)
            log.error("device not replaced", extra={"device": device.name, "error": str(error)})  # noqa: TRY400
        except Exception as error:  # the top of a task: who waits for this device must hear that it does not come back
            self.fault = f"internal error: {type(error).__name__}"
            log.exception("device not replaced", extra={"device": device.name})
        else:
            successor = Device(runner, device.name)
            self.devices.append(successor)
            self._add(successor)
            log.warning("device replaced", extra={"device": device.name, "was": device.provider, "is": runner.provider})
        self._pending -= 1
        settled()

    def _open_another(self, device: Device) -> Runner:
        if self._reopen is None or not self._replacements_left:
            raise DeviceLost(f"device {device.name} may not be replaced (again)")
        self._replacements_left -= 1
        return self._reopen(device.provider)

    def _leave_inline(self, device: Device) -> None:
        assert self._loop is not None
        self.inline = False
        device.bind(self._loop, self._finished, self._driver)
        log.warning("model left the event loop", extra={"device": device.name, "run_s": round(device.slow_run_s, 6)})


def _in_flight(device: Device) -> int:
    return device.in_flight
