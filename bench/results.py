"""What a bench run measured, kept as a flat list of samples, and the medians that tables and targets read.

Every sample is kept and written to the JSON file; a median is taken over rounds, of each figure for itself.
"""

from collections.abc import Callable, Sequence
from statistics import median

import msgspec

from bench.harness import Load
from bench.limits import Limit


class Sample(msgspec.Struct, frozen=True):
    """One load on one server in one round."""

    model: str
    server: str
    cell: str  # c1, c8, c32 or open
    round: int
    load: Load
    server_cpu_ms: float  # of the whole tree, for one answer
    mean_batch: float | None = None  # rows of one run, as the server's statistics say
    ort_cpu_ms: float | None = None  # ONNX Runtime's part for one row at that batch size (bench/limits.py)
    ort_wall_ms: float | None = None  # compute_infer for one row, as the server's statistics say


class LimitSample(msgspec.Struct, frozen=True):
    """In-process ONNX Runtime in the best setting for one cell, in one round."""

    model: str
    cell: str
    round: int
    limit: Limit


class Standing(msgspec.Struct, frozen=True):
    """A server measured alone: from exec to its first good answer, and its memory before and after a short load."""

    model: str
    server: str
    first_start_s: float  # with an empty state directory
    start_bytes: int
    loaded_bytes: int
    start_s: float | None = None  # once more, with what the first start left behind


class Absent(msgspec.Struct, frozen=True):
    """A server that did not take part, and why."""

    model: str
    server: str
    reason: str


class Results(msgspec.Struct):
    """One bench run."""

    machine: dict[str, str]
    settings: dict[str, str]
    samples: list[Sample] = []
    limits: list[LimitSample] = []
    standings: list[Standing] = []
    absent: list[Absent] = []

    def of(self, model: str, server: str, cell: str) -> list[Sample]:
        """The samples of one cell, a round each."""
        return [s for s in self.samples if (s.model, s.server, s.cell) == (model, server, cell)]

    def figure(self, model: str, server: str, cell: str, read: Callable[[Sample], float | None]) -> float | None:
        """The median over rounds; None where a round has no such figure or the cell was not measured."""
        return middle([read(sample) for sample in self.of(model, server, cell)])

    def rate(self, model: str, server: str, cell: str) -> float | None:
        """Good answers a second."""
        return self.figure(model, server, cell, lambda sample: sample.load.goodput)

    def limit_rate(self, model: str, cell: str) -> float | None:
        """Rows a second of the in-process limit."""
        return middle([s.limit.rows_per_s for s in self.limits if (s.model, s.cell) == (model, cell)])


def middle(values: Sequence[float | None]) -> float | None:
    """The median; None for no values or a missing one."""
    known = [value for value in values if value is not None]
    return median(known) if known and len(known) == len(values) else None


def overhead_ms(sample: Sample) -> float | None:
    """Server CPU for one answer without ONNX Runtime's part."""
    return None if sample.ort_cpu_ms is None else sample.server_cpu_ms - sample.ort_cpu_ms


def ort_share(sample: Sample) -> float | None:
    """ONNX Runtime's part of the server's CPU."""
    return None if sample.ort_cpu_ms is None else sample.ort_cpu_ms / sample.server_cpu_ms
