"""T(b): how long a batch of b rows runs, learned per shape key.

Pure arithmetic, no clock. Starts from what the trial measured and follows what the batches show: a moving average per
batch size, and T(b) = a + c*b by least squares of relative errors through those averages, for sizes never seen. An
average of few runs leans on the line, so that one bad moment does not decide.
It never assumes that batching pays: `pays` is the smallest batch within 5 % of the best measured time per row
(a convolution on the CPU often gains nothing, a matrix product gains tenfold; research/arch.md section 2).
"""

from collections.abc import Iterable

from runtime.core.verdict import RunCost

LEARN = 0.1
"""Share of a new run in the average of its size."""
TRUST = 4
"""So many runs of a size weigh as much as the line through all sizes."""
OUTLIER = 4.0
"""A run this many times over its prediction counts as this many times: a descheduled thread teaches nothing."""
TOLERANCE = 1.05
REFIT_EVERY = 8
"""Runs between two looks at the figures; a run of a size not seen before is looked at once."""
EXPLORE_EVERY = 64
"""Every so many batches one may be twice as large as `pays` says, or the model would never learn that it changed."""


class CostModel:
    """Learned run time of one shape key. Seconds and rows."""

    def __init__(self, max_rows: int, overhead_s: float, seed: Iterable[RunCost] = ()) -> None:
        self._max_rows = max_rows
        self._overhead_s = overhead_s  # fixed cost of a batch outside the run: hand-over between threads
        self._mean: dict[int, float] = {}
        self._seen: dict[int, int] = {}
        self.fixed_s = 0.0
        self.row_s = 0.0
        self.pays = max_rows
        self._runs = 0
        for cost in seed:
            if cost.rows <= max_rows:
                self._learn(cost.rows, cost.run_s)
                self._seen[cost.rows] = 2 * TRUST  # the trial gives the median of several runs
        if self._mean:
            self._refit()

    @property
    def known(self) -> bool:
        """True once anything was measured."""
        return bool(self._mean)

    def observe(self, rows: int, run_s: float) -> None:
        """Learn from a finished run."""
        before = self._mean.get(rows)
        self._learn(rows, run_s if before is None else min(run_s, OUTLIER * before))
        self._runs += 1
        if before is None or self._runs % REFIT_EVERY == 0:
            self._refit()

    def predict(self, rows: int) -> float:
        """Seconds that `rows` rows run; 0 while nothing is known."""
        line = self.fixed_s + self.row_s * rows
        mean = self._mean.get(rows)
        if mean is None:
            return line
        seen = self._seen[rows]
        return (seen * mean + TRUST * line) / (seen + TRUST)

    def limit(self) -> int:
        """Rows that the next batch may have."""
        if self._runs % EXPLORE_EVERY == EXPLORE_EVERY - 1:
            return min(self._max_rows, 2 * self.pays)
        return self.pays

    def backlog_s(self, rows: int, handover_s: float = 0.0) -> float:
        """Seconds that one instance needs for `rows` rows in batches that pay, each of which is handed over."""
        return rows * (self.predict(self.pays) + handover_s) / self.pays

    def points(self) -> list[RunCost]:
        """What was measured, by batch size, for people to look at."""
        return [RunCost(rows=rows, run_s=mean) for rows, mean in sorted(self._mean.items())]

    def _learn(self, rows: int, run_s: float) -> None:
        before = self._mean.get(rows)
        self._mean[rows] = run_s if before is None else before + (run_s - before) * LEARN
        self._seen[rows] = self._seen.get(rows, 0) + 1

    def _refit(self) -> None:
        """The line a + c*b that misses the averages least, each miss counted as a share of its average."""
        w = b = t = bb = bt = 0.0
        for rows, mean in self._mean.items():
            weight = 1.0 / max(mean, 1e-9) ** 2
            w += weight
            b += weight * rows
            t += weight * mean
            bb += weight * rows * rows
            bt += weight * rows * mean
        spread = w * bb - b * b
        if len(self._mean) > 1 and spread > 0:
            self.row_s = min(max(0.0, (w * bt - b * t) / spread), t / b)
            self.fixed_s = max(0.0, (t - self.row_s * b) / w)
        else:  # one batch size seen: its time could be all fixed or all per row; per row assumes least
            self.row_s = t / b
            self.fixed_s = 0.0
        self.pays = self._smallest_good()

    def _smallest_good(self) -> int:
        sizes = sorted({*self._mean, self._max_rows})
        if len(self._mean) == 1:
            return self._max_rows  # no evidence against batching yet: the first larger batch gives it
        per_row = {rows: (self.predict(rows) + self._overhead_s) / rows for rows in sizes}
        best = min(per_row.values()) * TOLERANCE
        return next(rows for rows in sizes if per_row[rows] <= best)
