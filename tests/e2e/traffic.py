"""Clients that ask one model without a pause while a test changes what is served.

Each request has rows of its own, and both outputs of `models.times` come back: an answer that two versions had a hand in
would not be one factor times the question everywhere.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Self

import numpy as np

from runtime.client import Answer, AsyncClient
from runtime.core.errors import CapacityError, SpillwayError

LIMIT_S = 20.0


@dataclass
class Traffic:
    """`clients` connections to the servers of `addresses`, until the end of the `async with` block.

    A client that is refused with UNAVAILABLE asks the next server the same, as docs/protocol.md advises. `least` says
    which factor an answer to a question that is asked now must have at least; `factors` are those that came.
    """

    addresses: Sequence[str]
    model: str
    clients: int = 6
    least: Callable[[], float] = lambda: 0.0
    answered: int = 0
    moved: int = 0
    factors: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(self.clients)]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def more(self, count: int) -> None:
        """Wait until `count` more requests are answered, or one failed."""
        wanted = self.answered + count
        async with asyncio.timeout(LIMIT_S + count / 100):
            while self.answered < wanted and not self.failures:
                await asyncio.sleep(0.001)

    async def _ask_on(self, number: int) -> None:
        rng = np.random.default_rng(number)
        server = number
        while True:
            async with AsyncClient(self.addresses[server % len(self.addresses)]) as client:
                with suppress(CapacityError):
                    while True:
                        await self._ask(client, rng)
            self.moved += 1
            server += 1
