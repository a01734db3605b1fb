"""An engine without models: answers by a function, at once or when the test says so."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from runtime.core.errors import Cancelled, Draining, SpillwayError
from runtime.core.inference import Done, InferRequest, InferResult, OutputTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array, decode_bytes, element_count


def as_array(request: InferRequest, index: int) -> Array:
    """Input `index` as an engine would see it; a copy, since a result owns its memory."""
    head, buffer = request.head.inputs[index], request.buffers[index]
    if isinstance(buffer, np.ndarray):
        return buffer.reshape(head.shape).copy()
    if head.datatype == BYTES:
        array = np.empty(element_count(head.shape), dtype=object)
        array[:] = decode_bytes(buffer, array.size, head.name)
        return array.reshape(head.shape)
    return np.frombuffer(buffer, DATA_TYPES[head.datatype].dtype).reshape(head.shape).copy()


def echo(request: InferRequest) -> InferResult:
    """Every input as an output of the same name."""
    wanted = {output.name for output in request.head.outputs}
    outputs = [
        OutputTensor(head.name, head.datatype, as_array(request, index))
        for index, head in enumerate(request.head.inputs)
        if not wanted or head.name in wanted
    ]
    return InferResult(request.head.model_name, request.head.model_version or "1", outputs)


@dataclass(eq=False)
class Held:
    """A request that the engine keeps, until the test answers it."""

    engine: "FakeEngine"
    request: InferRequest
    done: Done
    answered: bool = False

    def answer(self, outcome: InferResult | SpillwayError | None = None) -> None:
        """Answer it (by the engine's function, if not told how), and give its buffers back."""
        if not self.answered:
            self.answered = True
            self.engine.held.remove(self)
            self.request.on_cancel = None
            self.done(self.engine.answer(self.request) if outcome is None else outcome)
            self.request.release()


@dataclass(eq=False)
class FakeEngine:
    """Implements the engine's `submit`. With `holding` requests wait in `held`."""

    answer: Callable[[InferRequest], InferResult | SpillwayError] = echo
    holding: bool = False
    refusing: bool = False
    seen: list[InferRequest] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)
    cancelled: int = 0
    _arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    def submit(self, request: InferRequest, done: Done) -> None:
        self.seen.append(request)
        held = Held(self, request, done)
        self.held.append(held)
        request.on_cancel = lambda: self._cancel(held)
        loop = asyncio.get_running_loop()
        if self.refusing:
            loop.call_soon(held.answer, Draining())
        elif not self.holding:
            loop.call_soon(held.answer)
        self._tell = loop.create_task(self._notify())

    async def holds(self, count: int) -> None:
        """Wait until exactly `count` requests are held."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.held) == count)

    def answer_all(self) -> None:
        """Answer what is held, the oldest first."""
        for held in tuple(self.held):
            held.answer()

    def _cancel(self, held: Held) -> None:
        self.cancelled += 1
        loop = asyncio.get_running_loop()
        loop.call_soon(held.answer, Cancelled())
        self._tell = loop.create_task(self._notify())

    async def _notify(self) -> None:
        async with self._arrived:
            self._arrived.notify_all()
