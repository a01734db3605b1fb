"""How late the event loop is: a timer that measures its own delay.

A loop that is late delays every request; nothing else in the statistics shows it.
"""

import asyncio

from runtime.serving.statistics import LATENCY_BOUNDS_S, Histogram

PERIOD_S = 0.5


class LoopLag:
    """Samples from `start` to `stop`. Event loop only."""

    def __init__(self) -> None:
        self.histogram = Histogram(LATENCY_BOUNDS_S)
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._schedule(asyncio.get_running_loop())

    def stop(self) -> None:
        """Sample no more. Idempotent."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _schedule(self, loop: asyncio.AbstractEventLoop) -> None:
        due = loop.time() + PERIOD_S
        self._timer = loop.call_at(due, self._sample, loop, due)

    def _sample(self, loop: asyncio.AbstractEventLoop, due: float) -> None:
        self.histogram.observe(max(0.0, loop.time() - due))
        self._schedule(loop)
