"""Runners that take simulated time, on a machine whose clock a test reads."""

import threading
from collections.abc import Mapping, Sequence

import numpy as np

from runtime.core.tensor import Array
from runtime.serving.probe import Stopwatch
from runtime.serving.work import Work


class Machine:
    """Simulated time, and every runner that was opened on it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.share = 1.0
        """Of a run's time that passes for all: less than 1 where runs go side by side."""
        self.opening_s = 0.0
        self.opened: list[TimedRunner] = []
        self._lock = threading.Lock()

    def clock(self) -> float:
        return self.now_s

    def spend(self, seconds: float) -> None:
        with self._lock:
            self.now_s += seconds * self.share

    def watch(self, limit_s: float) -> Stopwatch:
        return Stopwatch(limit_s, self.clock)

    def runs(self) -> int:
        return sum(len(runner.rows) for runner in self.opened)


class TimedRunner:
    """T(rows) = fixed_s + row_s * rows. Returns as many rows as it got, and notes what it got."""

    def __init__(self, machine: Machine, row_s: float, fixed_s: float = 0.0) -> None:
        self._machine = machine
        self._row_s = row_s
        self._fixed_s = fixed_s
        self.rows: list[int] = []
        self.feeds: list[Mapping[str, Array]] = []
        self.closed = False
        machine.opened.append(self)

    @property
    def provider(self) -> str:
        return "cpu"

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        assert not self.closed
        self.rows.append(work.rows)
        self.feeds.append(feeds)
        self._machine.spend(self._fixed_s + self._row_s * work.rows)
        return [np.zeros((work.rows, 1)) for _ in names]

    def close(self) -> None:
        self.closed = True
