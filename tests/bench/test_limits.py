"""Which in-process settings count as the limit of a cell."""

from bench.limits import Limit, Setting, at_batch, best
from bench.servers import cores


def _limit(sessions: int, threads: int, batch: int, rate: float) -> Limit:
    return Limit(sessions, threads, batch, rows_per_s=rate, cpu_ms_per_row=1, p50_ms=1, p99_ms=1)


_SWEEP = [_limit(1, 1, 1, 10), _limit(1, 2, 1, 15), _limit(1, 2, 8, 30), _limit(2, 1, 8, 40), _limit(2, 1, 32, 50)]


def test_no_more_rows_than_calls_in_flight() -> None:
    assert best(_SWEEP, 1) == [Setting(1, 2, 1), Setting(1, 1, 1)]
    assert best(_SWEEP, 32) == [Setting(2, 1, 8), Setting(1, 2, 8)]
    assert best(_SWEEP, 64)[0] == Setting(2, 1, 32)


def test_the_batch_nearest_to_a_servers_average() -> None:
    assert at_batch(3.6, concurrency=1) == Setting(1, 1, 4)
    assert at_batch(0.2, concurrency=64) == Setting(cores(), 1, 1)
