"""The load generator in simulated time: what it sends when, and what it counts."""

import asyncio
import math
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cli import loadgen
from runtime.cli.loadgen import Cell, Figures, arrivals, measure, percentile
from runtime.core.errors import CapacityError, Overloaded
from tests.fakes.clock import simulated


@dataclass(frozen=True)
class Counts:
    rows: int
    batches: int


@dataclass
class Server:
    """Answers one request at a time, each in `run_s`; stands still between `stalls`."""

    run_s: float = 0.01
    lanes: int = 1_000_000
    stalls: tuple[float, float] = (math.inf, math.inf)
    refuses: bool = False
    sent: list[float] = field(default_factory=list)
    answered: int = 0
    counts: bool = True

    def __post_init__(self) -> None:
        self.began = asyncio.get_running_loop().time()
        self.free = asyncio.Semaphore(self.lanes)

    def now(self) -> float:
        return asyncio.get_running_loop().time() - self.began

    async def ask(self) -> None:
        self.sent.append(self.now())
        if self.refuses:
            raise Overloaded(f"queue of {len(self.sent)}")
        async with self.free:
            if self.stalls[0] <= self.now() < self.stalls[1]:
                await asyncio.sleep(self.stalls[1] - self.now())
            await asyncio.sleep(self.run_s)
        self.answered += 1

    async def count(self) -> Counts | None:
        return Counts(self.answered * 2, self.answered // 2) if self.counts else None


async def put(server: Server, cell: Cell, window_s: float = 1.0) -> Figures:
    return await measure(cell, server.ask, server.count, warm_up_s=0.5, window_s=window_s)


@simulated
async def test_closed_loop_counts_the_window_only() -> None:
    server = Server()
    figures = await put(server, Cell(clients=4))
    assert len(server.sent) == 4 * 150
    assert figures.answered == pytest.approx(400, abs=4)
    assert figures.answered_per_s == figures.answered / 1.0
    assert figures.load == "4 clients"
    assert figures.p50_s == figures.p99_s == pytest.approx(0.01, rel=1e-3)
    assert figures.average_batch == pytest.approx(4, rel=0.05)
    assert figures.errors == ()
    assert figures.late_p99_s == 0


@simulated
async def test_a_client_that_is_refused_backs_off() -> None:
    server = Server(refuses=True)
    figures = await put(server, Cell(clients=1))
    assert len(server.sent) == pytest.approx(1.5 / loadgen.BACK_OFF_S, abs=1)
    assert (figures.answered, figures.p50_s, figures.max_s, figures.generator_limit_per_s) == (0, None, None, None)
    (error,) = figures.errors
    assert error.kind == "Overloaded"
    assert error.count == pytest.approx(100, abs=1)
    assert error.example.startswith("queue of"), "the first text stands for all of its kind"


@simulated
async def test_open_loop_sends_whether_or_not_answers_come() -> None:
    server = Server(stalls=(0.7, 1.2))
    figures = await put(server, Cell(rate=200))
    assert len(server.sent) == pytest.approx(300, rel=0.2)
    assert max(after - before for before, after in pairwise(server.sent)) < 0.1, "it waited for the server"
    assert figures.load == "200/s"
    assert figures.max_s == pytest.approx(0.51, abs=0.03), "those that waited count with their wait"
    assert figures.p90_s is not None
    assert figures.p90_s > 0.2
    assert figures.offered_per_s == 200


@simulated
async def test_a_rate_counts_what_came_within_the_window() -> None:
    server = Server(run_s=0.02, lanes=1)  # 50 a second at most
    figures = await put(server, Cell(rate=200))
    assert figures.answered_per_s == pytest.approx(50, abs=2)
    assert figures.p99_s is not None
    assert figures.p99_s > 3, "the queue of the overload is in the latencies"


@simulated
async def test_open_loop_has_a_limit_of_requests_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "MAX_IN_FLIGHT", 10)
    figures = await put(Server(run_s=10), Cell(rate=100))
    assert [(error.kind, error.example) for error in figures.errors] == [("not sent", "10 requests were in flight")]


@simulated
async def test_a_server_that_does_not_count() -> None:
    assert (await put(Server(counts=False), Cell(clients=1))).average_batch is None


@simulated
async def test_a_bug_ends_the_measurement() -> None:
    async def broken() -> None:
        raise KeyError("bug")

    for cell in (Cell(clients=2), Cell(rate=10)):
        with pytest.raises(ExceptionGroup):
            await measure(cell, broken, Server().count, warm_up_s=0.1, window_s=0.1)


async def test_it_measures_its_own_share_of_a_core() -> None:
    async def busy() -> None:
        sum(range(2000))
        await asyncio.sleep(0)

    async def count() -> None:
        return None

    figures = await measure(Cell(clients=2), busy, count, warm_up_s=0.01, window_s=0.1)
    assert 0 < figures.generator_share <= 1.05, "how much of a core it gets is up to the machine"
    assert figures.generator_limit_per_s == pytest.approx(figures.answered_per_s / figures.generator_share)


@given(rate=st.floats(1, 1000), start=st.floats(0, 1e6), length=st.floats(0, 5))
def test_arrivals(rate: float, start: float, length: float) -> None:
    moments = list(arrivals(rate, start, start + length))
    assert moments == sorted(moments)
    assert all(start <= moment < start + length for moment in moments)
    assert moments == list(arrivals(rate, start, start + length)), "the same in every run"


def test_arrivals_keep_their_rate() -> None:
    assert len(list(arrivals(500, 0, 100))) == pytest.approx(50_000, rel=0.02)


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [([], 0.5, None), ([3.0], 0.99, 3.0), ([1.0, 2.0, 3.0, 4.0], 0.5, 2.0), ([1.0, 2.0], 0.99, 2.0)],
)
def test_percentile(values: list[float], share: float, found: float | None) -> None:
    assert percentile(values, share) == found


def test_an_error_of_the_network_is_counted_as_its_kind() -> None:
    tally = loadgen.Tally(loadgen.Window(10.0, 11.0))
    tally.add(9.0, 9.5, CapacityError("early"), is_open=False)
    tally.add(10.0, 10.5, CapacityError("first"), is_open=False)
    tally.add(10.0, 12.0, CapacityError("second"), is_open=True)
    tally.add(10.0, 12.0, None, is_open=True)
    assert (tally.errors, tally.examples) == ({"CapacityError": 2}, {"CapacityError": "first"})
    assert (tally.answered, tally.latencies_s) == (0, [2.0])
