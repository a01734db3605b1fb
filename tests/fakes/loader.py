"""A loader without ONNX Runtime: schedulers that only remember what was done to them."""

import asyncio
from collections.abc import Callable

from runtime.core.errors import Draining, LoadFailed
from runtime.core.inference import Done, InferRequest
from runtime.core.model import ModelSpec
from runtime.core.verdict import Verdict


class FakeScheduler:
    """Implements `core.inference.Scheduler`. `hold` keeps `drain` waiting until the test sets it."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.events: list[str] = []
        self.hold: asyncio.Event | None = None
        self.draining = asyncio.Event()

    @property
    def is_draining(self) -> bool:
        return self.draining.is_set()

    @property
    def is_closed(self) -> bool:
        return "close" in self.events

    def submit(self, request: InferRequest, done: Done) -> None:
        asyncio.get_running_loop().call_soon(done, Draining("fake"))

    async def drain(self) -> None:
        self.events.append("drain")
        self.draining.set()
        if self.hold is not None:
            await self.hold.wait()

    async def close(self) -> None:
        self.events.append("close")


class FakeLoader:
    """Implements `manager.Loader`. `failing` versions raise; `gate` holds loads until the test sets it."""

    def __init__(self) -> None:
        self.loaded: list[FakeScheduler] = []
        self.failing: set[int] = set()
        self.gate: asyncio.Event | None = None
        self.begun = asyncio.Event()
        self.before: Callable[[ModelSpec], object] = lambda _: None

    async def load(self, spec: ModelSpec, verdict: Verdict) -> FakeScheduler:
        self.begun.set()
        if self.gate is not None:
            await self.gate.wait()
        self.before(spec)
        if spec.version in self.failing:
            raise LoadFailed(spec.name, "the fake loader was told to fail")
        scheduler = FakeScheduler(spec)
        self.loaded.append(scheduler)
        return scheduler

    def open(self) -> list[FakeScheduler]:
        """Schedulers that were loaded and not closed."""
        return [each for each in self.loaded if not each.is_closed]
