"""Requests that wait, by shape key and priority. A data structure: it decides nothing and knows no time.

Order: a lower level number goes first; within a level requests that timed out under policy DELAY go after all others;
within that, first come first served. Only requests of one shape key share a batch; between keys the most urgent head
wins.

Rules
- Every queue is sorted by `Entry.turn`, a number given on arrival and kept when a lost device gives a request back.
- A request that ends while it waits leaves the counts at once. Its place in the queue is dropped when it comes up, or
  when such empty places outnumber those who wait; a shape key goes with its last request.
- Each shape key has one ticket in the heap of heads. A ticket may be too urgent for its key, never less urgent than
  its head; `first` puts that right.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice

from runtime.serving.binding import ShapeKey
from runtime.serving.entry import Entry, State

Rank = tuple[int, bool]
SWEEP_AT = 64
"""Empty places that a shape key may have more than requests."""


class Lane:
    """The waiting requests of one shape key; never empty while it is in a backlog."""

    __slots__ = ("count", "gone", "key", "queues", "rows", "ticket")

    def __init__(self, key: ShapeKey) -> None:
        self.key = key
        self.queues: dict[Rank, deque[Entry]] = {}
        self.count = 0
        self.rows = 0
        self.gone = 0  # places in the queues whose request ended or moved
        self.ticket: Ticket | None = None

    def __iter__(self) -> Iterator[Entry]:
        """Waiting entries in the order they should go."""
        for rank in self._ranks():
            for entry in self.queues[rank]:
                if _waits_in(entry, rank):
                    yield entry

    def head(self) -> Entry:
        """The entry that should go first."""
        for rank in self._ranks():
            queue = self.queues[rank]
            while queue and not _waits_in(queue[0], rank):
                queue.popleft()
                self.gone -= 1
            if queue:
                return queue[0]
            del self.queues[rank]
        raise AssertionError(f"shape key {self.key} counts {self.count} waiting requests and has none")

    def queue(self, entry: Entry) -> deque[Entry]:
        """The queue where `entry` belongs."""
        rank = (entry.level, entry.timed_out)
        queue = self.queues.get(rank)
        if queue is None:
            queue = self.queues[rank] = deque()
        return queue

    def left_a_place(self) -> None:
        """A request in one of the queues does not wait there any more."""
        self.gone += 1
        if self.gone > SWEEP_AT + self.count:
            self.queues = {
                rank: deque(entry for entry in queue if _waits_in(entry, rank)) for rank, queue in self.queues.items()
            }
            self.gone = 0

    def _ranks(self) -> Iterable[Rank]:
        return sorted(self.queues) if len(self.queues) > 1 else tuple(self.queues)


Ticket = tuple[int, bool, int, int, Lane]
"""Level, timed out, turn of the head; a sequence number so that lanes are never compared; the lane."""


def _waits_in(entry: Entry, rank: Rank) -> bool:
    return entry.state is State.WAITING and entry.timed_out == rank[1]


def _urgency(entry: Entry) -> tuple[int, bool, int]:
    return (entry.level, entry.timed_out, entry.turn)


class Backlog:
    """All waiting requests of one model version."""

    def __init__(self) -> None:
        self._lanes: dict[ShapeKey, Lane] = {}
        self._heads: list[Ticket] = []
        self._sequence = 0
        self._turn = 0
        self._level_requests: dict[int, int] = {}
        self._level_rows: dict[int, int] = {}
        self.count = 0
        self.rows = 0
        self.nbytes = 0

    def __len__(self) -> int:
        return self.count

    @property
    def lanes(self) -> int:
        """Number of shape keys with waiting requests."""
        return len(self._lanes)

    def level_count(self, level: int) -> int:
        """Requests that wait at one priority level; all of them where the model has none (level 0)."""
        return self._level_requests.get(level, 0) if level else self.count

    def rows_ahead(self, level: int) -> int:
        """Rows that wait and are served before a new request of `level`."""
        if not level:
            return self.rows
        return sum(rows for other, rows in self._level_rows.items() if other <= level)

    def push(self, entry: Entry) -> None:
        """Add a request behind its like."""
        self._turn += 1
        entry.turn = self._turn
        lane = self._lane(entry)
        lane.queue(entry).append(entry)
        self._joined(lane, entry)

    def first(self) -> Lane | None:
        """The lane whose head is the most urgent, or None where nobody waits."""
        while self._heads:
            ticket = self._heads[0]
            lane = ticket[4]
            if lane.ticket is not ticket:
                heapq.heappop(self._heads)
                continue
            head = lane.head()
            if ticket[:3] == _urgency(head):
                return lane
            heapq.heapreplace(self._heads, self._ticket(lane, head))
        return None

    def others(self, first: Lane, limit: int) -> Iterator[Lane]:
        """Up to `limit` lanes but `first`, about in order of their oldest requests."""
        return islice((lane for lane in self._lanes.values() if lane is not first), limit)

    def take(self, lane: Lane, requests: int) -> list[Entry]:
        """Remove the first `requests` waiting entries of `lane`; they become RUNNING."""
        taken: list[Entry] = []
        for _ in range(min(requests, lane.count)):
            entry = lane.head()
            lane.queue(entry).popleft()
            entry.state = State.RUNNING
            taken.append(entry)
            self._left(lane, entry)
        return taken

    def end(self, entry: Entry) -> None:
        """The entry ends while it waits (cancelled, expired)."""
        entry.state = State.ENDED
        lane = self._lanes[entry.binding.key]
        self._left(lane, entry)
        lane.left_a_place()

    def delay(self, entry: Entry) -> None:
        """Policy DELAY: the entry goes after all of its level and above that have not timed out."""
        lane = self._lanes[entry.binding.key]
        entry.timed_out = True
        self._turn += 1
        entry.turn = self._turn
        lane.queue(entry).append(entry)
        lane.left_a_place()

    def requeue(self, entries: Iterable[Entry]) -> None:
        """Put running entries back to where they were (their device was lost)."""
        for entry in entries:
            entry.state = State.WAITING
            lane = self._lane(entry)
            queue = lane.queue(entry)
            at = sum(1 for other in queue if other.turn < entry.turn)
            queue.insert(at, entry)
            self._joined(lane, entry)

    def waiting(self) -> list[Entry]:
        """Every waiting entry, in no particular order."""
        return [entry for lane in self._lanes.values() for entry in lane]

    def _lane(self, entry: Entry) -> Lane:
        key = entry.binding.key
        lane = self._lanes.get(key)
        if lane is None:
            lane = self._lanes[key] = Lane(key)
        return lane

    def _joined(self, lane: Lane, entry: Entry) -> None:
        self._count(lane, entry, 1)
        if lane.ticket is None or _urgency(entry) < lane.ticket:
            heapq.heappush(self._heads, self._ticket(lane, entry))

    def _left(self, lane: Lane, entry: Entry) -> None:
        self._count(lane, entry, -1)
        if not lane.count:
            lane.ticket = None
            lane.queues = {}
            del self._lanes[lane.key]
            if not self._lanes:
                self._heads.clear()

    def _ticket(self, lane: Lane, head: Entry) -> Ticket:
        self._sequence += 1
        lane.ticket = (head.level, head.timed_out, head.turn, self._sequence, lane)
        return lane.ticket

    def _count(self, lane: Lane, entry: Entry, sign: int) -> None:
        rows = sign * entry.rows
        lane.count += sign
        lane.rows += rows
        self.count += sign
        self.rows += rows
        self.nbytes += sign * entry.nbytes
        if entry.level:
            self._level_requests[entry.level] = self._level_requests.get(entry.level, 0) + sign
            self._level_rows[entry.level] = self._level_rows.get(entry.level, 0) + rows
