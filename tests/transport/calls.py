"""Calls without a network, for handlers."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field

from runtime.core.tensor import Buffer
from runtime.transport.call import Identity


@dataclass
class FakeUnaryCall:
    """Implements `UnaryCall`; remembers its one answer."""

    peer: str = "test"
    identity: Identity = field(default_factory=Identity)
    metadata: dict[str, str] = field(default_factory=dict)
    deadline: float = math.inf
    answers: list[bytes | Exception] = field(default_factory=list)
    cancel: Callable[[], None] | None = None
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, parts: Sequence[Buffer]) -> None:
        self._end(b"".join(parts))

    def fail(self, error: Exception) -> None:
        self._end(error)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        self.cancel = callback

    def _end(self, answer: bytes | Exception) -> None:
        self.answers.append(answer)
        self.answered.set()


@dataclass
class FakeStreamCall:
    """Implements `StreamCall`: messages go in through `feed`, answers come out of `sent`."""

    peer: str = "test"
    identity: Identity = field(default_factory=Identity)
    metadata: dict[str, str] = field(default_factory=dict)
    deadline: float = math.inf
    read: int = 0
    open: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None
    sent: asyncio.Queue[bytes] = field(default_factory=asyncio.Queue)
    _inbox: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.open.set()

    def feed(self, *messages: bytes) -> None:
        for message in messages:
            self._inbox.put_nowait(message)

    def half_close(self) -> None:
        self._inbox.put_nowait(None)

    async def receive(self) -> AsyncIterator[bytes]:
        while (message := await self._inbox.get()) is not None:
            self.read += 1
            yield message

    async def send(self, parts: Sequence[Buffer]) -> None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.sent.put_nowait(b"".join(parts))
