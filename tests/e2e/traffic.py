"""Clients that ask one model without a pause while a test changes what is served.

The model is one of `models.times`, and each question has numbers of its own: an answer that belongs to somebody else,
or that two versions had a hand in, is not one factor times the question in both outputs.
"""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from runtime.client import AsyncClient
from runtime.core.errors import CapacityError, SpillwayError

LIMIT_S = 60.0
CLIENTS = 6


@dataclass
class Traffic:
    """CLIENTS connections to the servers of `addresses`; leaving the block waits for the answers to what was asked.

    A client that is refused with UNAVAILABLE puts the same question to the next server; `refusals` counts that. Any
    other error, and any wrong answer, goes into `failures`. `factors` holds how many answers came from each factor.
    `least` is the smallest factor that may still answer what is asked from now on.
    """

    addresses: Sequence[str]
    model: str
    least: float = 0.0
    asked: int = 0
    answered: int = 0
    refusals: int = 0
    factors: dict[float, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    _over: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._ask_on(number)) for number in range(CLIENTS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        async with asyncio.timeout(LIMIT_S):
            await asyncio.gather(*self._tasks)

    async def more(self, count: int) -> None:
        """Wait until `count` more questions are answered, or something failed."""
        wanted = self.answered + count
        async with asyncio.timeout(LIMIT_S):
            while self.answered < wanted and not self.failures:
                self._news.clear()
                await self._news.wait()

    async def _ask_on(self, number: int) -> None:
        rng = np.random.default_rng(number)
        servers = itertools.cycle([*self.addresses[number % len(self.addresses) :], *self.addresses])
        client = AsyncClient(next(servers))
        try:
            while not self._over:
                question = rng.normal(size=(rng.integers(1, 5), 2)).astype(np.float32)
                self.asked += 1
                while not await self._ask(client, question):
                    await client.close()
                    client = AsyncClient(next(servers))
        except (SpillwayError, AssertionError) as error:
            self.failures.append(f"{type(error).__name__}: {error}")
        finally:
            self._news.set()
            await client.close()

    async def _ask(self, client: AsyncClient, question: Any) -> bool:
        least = self.least
        try:
            answer = await client.infer(self.model, {"x": question}, deadline_s=LIMIT_S)
        except CapacityError:
            self.refusals += 1
            return False
        factor = round(float(answer["y"][0, 0] / question[0, 0]))
        for name in ("y", "z"):
            np.testing.assert_array_equal(answer[name], np.float32(factor) * question)
        assert factor >= least, f"factor {factor} answered after {least} had been loaded"
        self.factors[factor] = self.factors.get(factor, 0) + 1
        self.answered += 1
        self._news.set()
        return True
