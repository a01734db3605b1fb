"""Counters of one served model version, in Triton's meaning, and histograms of our own.

Written on the event loop only, read by the control plane and at metrics scrapes. Plain integers: recording one
request costs a few additions, never a lock or an allocation.

Meaning (Triton's statistics extension): `inference_count` counts batch elements, `execution_count` runs on the device;
`success`, `queue`, `compute_input`, `compute_infer`, `compute_output` are per request. A request refused before the
queue changes `failures` only.
"""

import time
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass, field

from runtime.core.errors import Cancelled, CapacityError, DeviceLost, ExecutionError, SpillwayError

LATENCY_BOUNDS_S = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
SIZE_BOUNDS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


@dataclass(slots=True)
class Duration:
    """A count and the sum of that many durations in nanoseconds."""

    count: int = 0
    ns: int = 0

    def add(self, seconds: float, times: int = 1) -> None:
        """Record `times` durations of `seconds` each."""
        self.count += times
        self.ns += int(seconds * 1e9) * times


class Histogram:
    """Counts per bucket; `bounds` are inclusive upper bounds, one more bucket takes the rest."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        """Record `value`, `times` times."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.total += value * times


@dataclass(slots=True)
class BatchStatistics:
    """Durations of the runs with one batch size (rows)."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class Statistics:
    """Everything counted for one version of one model."""

    def __init__(self) -> None:
        self.success = Duration()
        self.fail = Duration()
        self.queue = Duration()
        self.compute_input = Duration()
        self.compute_infer = Duration()
        self.compute_output = Duration()
        self.inference_count = 0
        self.execution_count = 0
        self.last_inference_ms = 0
        """Wall clock, milliseconds since the epoch; 0 before the first."""
        self.batches: dict[int, BatchStatistics] = {}
        self.failures: Counter[str] = Counter()
        """By Triton's reason: REJECTED, CANCELED, BACKEND, OTHER."""
        self.refusals: Counter[str] = Counter()
        """Our own finer reasons: deadline at the door, predicted late, queue full ..."""
        self.cuts: Counter[str] = Counter()
        """Why each batch was not larger (see `serving/planner.py`)."""
        self.pending_requests = 0
        """Gauge: accepted and waiting in a queue (not running)."""
        self.pending_bytes = 0
        self.latency = Histogram(LATENCY_BOUNDS_S)
        self.queue_wait = Histogram(LATENCY_BOUNDS_S)
        self.batch_rows = Histogram(SIZE_BOUNDS)
        self.queue_depth = Histogram(SIZE_BOUNDS)
        """Requests waiting, seen by each arriving request (itself included)."""

    def ran(self, rows: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Record one successful run of `rows` batch elements."""
        self.inference_count += rows
        self.execution_count += 1
        self.last_inference_ms = time.time_ns() // 1_000_000
        self.batch_rows.observe(rows)
        batch = self.batches.get(rows)
        if batch is None:
            batch = self.batches[rows] = BatchStatistics()
        batch.compute_input.add(input_s)
        batch.compute_infer.add(infer_s)
        batch.compute_output.add(output_s)

    def computed(self, requests: int, input_s: float, infer_s: float, output_s: float) -> None:
        """Record how long the batch of `requests` answered requests took."""
        self.compute_input.add(input_s, requests)
        self.compute_infer.add(infer_s, requests)
        self.compute_output.add(output_s, requests)

    def succeeded(self, elapsed_s: float, queued_s: float) -> None:
        """Record one answered request: door to answer, and time in the queue."""
        self.success.add(elapsed_s)
        self.latency.observe(elapsed_s)
        self.queue.add(queued_s)
        self.queue_wait.observe(queued_s)

    def failed(self, error: SpillwayError, elapsed_s: float = 0.0) -> None:
        """Record one request that ended with an error."""
        self.failures[_reason(error)] += 1
        self.fail.add(elapsed_s)


def _reason(error: SpillwayError) -> str:
    """Triton's word for why a request failed."""
    if isinstance(error, Cancelled):
        return "CANCELED"
    if isinstance(error, ExecutionError | DeviceLost):
        return "BACKEND"
    return "REJECTED" if isinstance(error, CapacityError) else "OTHER"
