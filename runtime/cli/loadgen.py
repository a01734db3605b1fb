"""A load generator on one event loop: closed loop (so many clients) and open loop (so many requests a second).

    |-- warm-up --|-------- window --------|      load goes on from the first to the last moment; the window counts

Rules
- In an open loop requests leave when they are due, whether or not earlier ones came back, and latency counts from
  when a request was due: a server that stalls cannot slow its own examination down (coordinated omission).
- A rate counts the answers that came within the window.
- The generator watches itself: CPU of its own thread, and how late requests left. What it cannot do, it says.
"""

import asyncio
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import msgspec
import psutil

from runtime.core.errors import SpillwayError

BACK_OFF_S = 0.01
"""A client of a closed loop that got an error waits this long: a server that refuses is not asked in a spin."""
MAX_IN_FLIGHT = 10_000
SEED = 0


@dataclass(frozen=True, slots=True)
class Cell:
    """One load: `clients` that each wait for their answer, or `rate` requests a second with exponential gaps."""

    clients: int = 0
    rate: float = 0.0

    @property
    def is_open(self) -> bool:
        """True where requests do not wait for answers."""
        return self.rate > 0

    def __str__(self) -> str:
        return f"{self.rate:g}/s" if self.is_open else f"{self.clients} client{'s' if self.clients > 1 else ''}"


@dataclass(frozen=True, slots=True)
class Window:
    """What counts, on the event loop's clock."""

    start: float
    end: float

    def holds(self, moment: float) -> bool:
        """Tell whether `moment` is within."""
        return self.start <= moment < self.end


@dataclass(slots=True)
class Tally:
    """What came back. Latencies are of requests that ended in the window, in an open loop of those due in it."""

    window: Window
    answered: int = 0
    latencies_s: list[float] = field(default_factory=list)
    lateness_s: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def add(self, due: float, done: float, error: SpillwayError | None, *, is_open: bool) -> None:
        """Count one request."""
        counts = self.window.holds(due if is_open else done)
        if error is not None:
            if counts:
                self.failed(type(error).__name__, str(error))
            return
        self.answered += self.window.holds(done)
        if counts:
            self.latencies_s.append(done - due)

    def failed(self, kind: str, example: str) -> None:
        """Count one error; of each kind the first text is kept."""
        self.errors[kind] += 1
        self.examples.setdefault(kind, example)


class Counts(Protocol):
    """The server's own counters at one moment."""

    @property
    def rows(self) -> int:
        """Batch elements that ran."""
        ...

    @property
    def batches(self) -> int:
        """Runs."""
        ...


class Errors(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of one kind and the text of the first."""

    kind: str
    count: int
    example: str


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """What one cell showed. Latencies are None where nothing was answered, batches where the server does not count.

    `generator_share`: CPU of the generator's thread, 1 is one core. `generator_limit_per_s`: the rate at which that
    thread would have been full. `machine_share`: how busy all cores of this machine were, 1 is all of them.
    `late_p99_s`: how late requests of an open loop left.
    """

    load: str
    clients: int
    offered_per_s: float
    window_s: float
    answered: int
    answered_per_s: float
    errors: tuple[Errors, ...]
    mean_s: float | None
    p50_s: float | None
    p90_s: float | None
    p99_s: float | None
    max_s: float | None
    average_batch: float | None
    generator_share: float
    generator_limit_per_s: float | None
    machine_share: float
    late_p99_s: float


Ask = Callable[[], Awaitable[object]]
"""Send one request and wait for its answer. Raises SpillwayError."""
Count = Callable[[], Awaitable[Counts | None]]


async def measure(cell: Cell, ask: Ask, count: Count, *, warm_up_s: float, window_s: float) -> Figures:
    """Put one load on the server and say what came back."""
    now = asyncio.get_running_loop().time()
    tally = Tally(Window(now + warm_up_s, now + warm_up_s + window_s))
    watch = asyncio.ensure_future(_watch(tally.window, count))
    try:
        await (_open_loop(cell.rate, ask, tally) if cell.is_open else _closed_loop(cell.clients, ask, tally))
        observed = await watch
    finally:
        watch.cancel()
    return _figures(cell, tally, observed)


async def _closed_loop(clients: int, ask: Ask, tally: Tally) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(clients):
            group.create_task(_client(ask, tally))


async def _client(ask: Ask, tally: Tally) -> None:
    clock = asyncio.get_running_loop().time
    while (begun := clock()) < tally.window.end:
        error = await _outcome(ask)
        tally.add(begun, clock(), error, is_open=False)
        if error is not None:
            await asyncio.sleep(BACK_OFF_S)


async def _open_loop(rate: float, ask: Ask, tally: Tally) -> None:
    clock = asyncio.get_running_loop().time
    flying: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        for due in arrivals(rate, clock(), tally.window.end):
            # Also when late: answers have to be read between two requests.
            await asyncio.sleep(max(0.0, due - clock()))
            if tally.window.holds(due):
                tally.lateness_s.append(clock() - due)
            if len(flying) < MAX_IN_FLIGHT:
                task = group.create_task(_sent(ask, due, tally))
                flying.add(task)
                task.add_done_callback(flying.discard)
            elif tally.window.holds(due):
                tally.failed("not sent", f"{MAX_IN_FLIGHT} requests were in flight")


async def _sent(ask: Ask, due: float, tally: Tally) -> None:
    error = await _outcome(ask)
    tally.add(due, asyncio.get_running_loop().time(), error, is_open=True)


def arrivals(rate: float, start: float, end: float) -> Iterator[float]:
    """Yield moments with exponential gaps, `rate` a second on average; the same ones in every run."""
    gaps = random.Random(SEED)  # noqa: S311 - a load, not a secret
    moment = start + gaps.expovariate(rate)
    while moment < end:
        yield moment
        moment += gaps.expovariate(rate)


async def _outcome(ask: Ask) -> SpillwayError | None:
    try:
        await ask()
    except SpillwayError as error:
        return error
    return None


class Observed(NamedTuple):
    """What was seen of this thread (share of one core), this machine (share of all cores) and the server's batches."""

    share: float
    machine_share: float
    average_batch: float | None


async def _watch(window: Window, count: Count) -> Observed:
    clock = asyncio.get_running_loop().time
    await asyncio.sleep(window.start - clock())
    before = await count()
    begun, cpu_s, machine = clock(), time.thread_time(), psutil.cpu_times()
    await asyncio.sleep(window.end - clock())
    share = (time.thread_time() - cpu_s) / (clock() - begun)
    machine_share = _busy(machine, psutil.cpu_times())
    after = await count()
    if before is None or after is None or after.batches == before.batches:
        return Observed(share, machine_share, None)
    return Observed(share, machine_share, (after.rows - before.rows) / (after.batches - before.batches))


def _busy(before: Any, after: Any) -> float:
    """Share of all cores' time that was not idle."""
    passed = [late - early for early, late in zip(before, after, strict=True)]
    idle = after.idle - before.idle + after.iowait - before.iowait
    return max(0.0, 1 - idle / sum(passed)) if sum(passed) > 0 else 0.0


def _figures(cell: Cell, tally: Tally, observed: Observed) -> Figures:
    window_s = tally.window.end - tally.window.start
    ordered = sorted(tally.latencies_s)
    return Figures(
        load=str(cell),
        clients=cell.clients,
        offered_per_s=cell.rate,
        window_s=window_s,
        answered=tally.answered,
        answered_per_s=tally.answered / window_s,
        errors=tuple(
            Errors(kind=kind, count=count, example=tally.examples[kind]) for kind, count in tally.errors.most_common()
        ),
        mean_s=sum(ordered) / len(ordered) if ordered else None,
        p50_s=percentile(ordered, 0.5),
        p90_s=percentile(ordered, 0.9),
        p99_s=percentile(ordered, 0.99),
        max_s=ordered[-1] if ordered else None,
        average_batch=observed.average_batch,
        generator_share=observed.share,
        generator_limit_per_s=tally.answered / window_s / observed.share if observed.share and tally.answered else None,
        machine_share=observed.machine_share,
        late_p99_s=percentile(sorted(tally.lateness_s), 0.99) or 0.0,
    )


def percentile(ordered: list[float], share: float) -> float | None:
    """Return the smallest value that `share` of the ascending values do not exceed; None where there are none."""
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
