"""One timer for many deadlines.

A heap of (moment, entry) and a single timer of the event loop for the earliest, so that a timeout is noticed when it
happens and costs no timer per request. Entries that ended long before their moment are swept out when they outnumber
the living.
"""

import asyncio
import heapq
from collections.abc import Callable

from runtime.serving.entry import Entry, State

SWEEP_AT = 1024


class Expiry:
    """Calls `expired(entry)` on the event loop when `entry.expires` has come and the entry has not ended."""

    def __init__(self, loop: asyncio.AbstractEventLoop, expired: Callable[[Entry], None]) -> None:
        self._loop = loop
        self._expired = expired
        self._heap: list[tuple[float, int, Entry]] = []
        self._sequence = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sweep_at = SWEEP_AT

    def add(self, entry: Entry) -> None:
        """Watch `entry.expires`; add it again after changing the moment."""
        self._sequence += 1
        heapq.heappush(self._heap, (entry.expires, self._sequence, entry))
        if self._heap[0][2] is entry:
            self._arm()
        if len(self._heap) > self._sweep_at:
            self._heap = [item for item in self._heap if item[2].state is not State.ENDED]
            heapq.heapify(self._heap)
            self._sweep_at = max(SWEEP_AT, 2 * len(self._heap))

    def close(self) -> None:
        """Forget everything."""
        self._heap.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(self._heap[0][0], self._fire) if self._heap else None

    def _fire(self) -> None:
        self._timer = None
        now = self._loop.time()
        while self._heap and (self._heap[0][0] <= now or self._heap[0][2].state is State.ENDED):
            moment, _, entry = heapq.heappop(self._heap)
            if entry.state is not State.ENDED and entry.expires == moment:
                self._expired(entry)
        if self._heap and self._timer is None:
            self._arm()
