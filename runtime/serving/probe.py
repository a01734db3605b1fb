"""How long batches run, and how many instances with how many threads do the most: measured, within a time limit.

Used by the trial child, so that the daemon starts with figures and spends nothing. Never assumes that batching or
threads pay (research/arch.md section 2, peers.md section 0): a small model runs best on one thread, a large one either
as one session on all threads or as several sessions on one thread each, and which differs by model and machine.
"""

import logging
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from runtime.core.errors import ExecutionError
from runtime.core.model import ModelSpec
from runtime.core.tensor import BYTES, DATA_TYPES, Array, TensorSpec
from runtime.core.verdict import CpuLayout, RunCost
from runtime.serving.binding import graph_shape
from runtime.serving.work import Runner, Work

log = logging.getLogger(__name__)

OpenRunner = Callable[[int], Runner]
"""Blocking: another runner of the same model with that many threads."""

SMALL_RUN_S = 0.0005
"""A model this quick gains nothing from a second thread; it is not even tried."""
BETTER = 1.1
"""Several one-thread sessions must do this much more than one session on all threads: they hold the weights twice."""
MAX_DOUBLED_WEIGHTS = 256 << 20
RUNS = 7
SLOW_SHARE = 8
"""A model that fits less often than this into the time for measuring is not measured further."""


class Stopwatch:
    """What is left of the time for measuring. Seconds."""

    def __init__(self, limit_s: float) -> None:
        self._ends = time.perf_counter() + limit_s

    def left_s(self) -> float:
        """Seconds left; negative when over."""
        return self._ends - time.perf_counter()


def sample_feeds(spec: ModelSpec, rows: int) -> Mapping[str, Array] | None:
    """A batch of `rows` rows that the model accepts: warm-up data, or zeros; None where a size is unknown."""
    if spec.warmup:
        return batch_of(spec, spec.warmup[0].inputs, rows)
    if any(dim < 0 for tensor in spec.inputs for dim in tensor.dims):
        return None
    return batch_of(spec, {tensor.name: _zeros(tensor) for tensor in spec.inputs if not tensor.optional}, rows)


def batch_of(spec: ModelSpec, row: Mapping[str, Array], rows: int) -> Mapping[str, Array]:
    """`rows` copies of one row (arrays as clients see them, without the batch axis), in the shapes of the graph."""
    batched = bool(spec.max_batch_size)
    feeds: dict[str, Array] = {}
    for tensor in spec.inputs:
        if tensor.name in row:
            array = np.repeat(row[tensor.name][np.newaxis], rows, axis=0) if batched else row[tensor.name]
            target = tensor.reshape
            feeds[tensor.name] = (
                array if target is None else array.reshape(graph_shape(array.shape, target, batched=batched))
            )
    return feeds


def _zeros(tensor: TensorSpec) -> Array:
    if tensor.datatype == BYTES:
        return np.full(tensor.dims, "", dtype=object)
    return np.zeros(tensor.dims, DATA_TYPES[tensor.datatype].dtype)


def warm_up(spec: ModelSpec, runner: Runner) -> None:
    """Run the config's samples, or one row of zeros where the shapes are known: the first answer must not be slow.

    Zeros may be no input that the graph accepts; only the config's own samples can fail a load (ExecutionError).
    """
    names = [tensor.name for tensor in spec.outputs]
    for sample in spec.warmup:
        feeds = batch_of(spec, sample.inputs, sample.batch_size)
        for _ in range(sample.count):
            runner.run(names, feeds, Work((), sample.batch_size, names))
    if not spec.warmup and (zeros := sample_feeds(spec, 1)) is not None:
        try:
            runner.run(names, zeros, Work((), 1, names))
        except ExecutionError as error:
            log.info("model refuses zeros", extra={"model": spec.name, "error": str(error)})


def measure(
    spec: ModelSpec, first: Runner, reopen: OpenRunner, *, budget: int, weight_bytes: int, limit_s: float
) -> tuple[CpuLayout, tuple[RunCost, ...]]:
    """Choose instances x threads within `budget` threads and measure T(b) for the choice.

    `first` is an open runner with one thread. Spends about `limit_s` seconds.
    """
    asked = fixed_layout(spec, budget)
    if asked is not None and asked.threads == 1:
        return asked, run_costs(spec, first, Stopwatch(limit_s))
    single = run_costs(spec, first, Stopwatch(limit_s / 3))
    if asked is None and single and (budget == 1 or single[0].run_s < SMALL_RUN_S):
        return CpuLayout(instances=1, threads=1), single
    layout = asked or CpuLayout(instances=1, threads=budget)
    if not single or single[0].run_s * SLOW_SHARE > limit_s:
        return layout, ()  # too slow to try out here: requests will teach it
    wide = reopen(layout.threads)
    try:
        costs = run_costs(spec, wide, Stopwatch(limit_s / 3))
    finally:
        wide.close()
    if asked is None and weight_bytes <= MAX_DOUBLED_WEIGHTS:
        rows = max(single, key=_rate).rows
        side_by_side = _parallel_rate(spec, first, reopen, budget, rows, Stopwatch(limit_s / 3))
        if side_by_side > BETTER * max(map(_rate, costs)):
            return CpuLayout(instances=budget, threads=1), single
    return layout, costs


def _rate(cost: RunCost) -> float:
    return cost.rows / cost.run_s


def fixed_layout(spec: ModelSpec, budget: int) -> CpuLayout | None:
    """The layout that the model's config asks for, or None where it leaves the choice to us."""
    threads = spec.session.intra_op_threads
    count = sum(group.count for group in spec.instance_groups if group.kind in ("CPU", "AUTO"))
    if count:
        return CpuLayout(instances=count, threads=threads or max(1, budget // count))
    if threads:
        return CpuLayout(instances=max(1, budget // threads), threads=threads)
    return None


def run_costs(spec: ModelSpec, runner: Runner, watch: Stopwatch) -> tuple[RunCost, ...]:
    """Median seconds for 1, 2, 4 ... max_batch_size rows, as far as the time goes; empty where nothing can be fed."""
    costs: list[RunCost] = []
    limit = spec.max_batch_size if spec.batching is not None else 1
    rows = 1
    while True:
        feeds = sample_feeds(spec, rows)
        if feeds is None:
            return ()
        costs.append(RunCost(rows=rows, run_s=_median_run(spec, runner, feeds, watch)))
        if rows >= limit or watch.left_s() < 3 * 2 * costs[-1].run_s:
            return tuple(costs)
        rows = min(2 * rows, limit)


def _median_run(spec: ModelSpec, runner: Runner, feeds: Mapping[str, Array], watch: Stopwatch) -> float:
    names = [tensor.name for tensor in spec.outputs]
    times: list[float] = []
    while len(times) <= RUNS and (len(times) < 3 or watch.left_s() > 0):
        begun = time.perf_counter()
        runner.run(names, feeds, Work((), 1, names))
        times.append(time.perf_counter() - begun)
        if watch.left_s() < 0 and len(times) == 1:
            return times[0]
    return statistics.median(times[1:])  # the first allocates


def _parallel_rate(
    spec: ModelSpec, first: Runner, reopen: OpenRunner, count: int, rows: int, watch: Stopwatch
) -> float:
    """Rows per second of `count` one-thread runners side by side, batches of `rows`."""
    feeds = sample_feeds(spec, rows)
    assert feeds is not None
    others = [reopen(1) for _ in range(count - 1)]
    try:
        names = [tensor.name for tensor in spec.outputs]
        for runner in others:
            runner.run(names, feeds, Work((), rows, names))
        with ThreadPoolExecutor(count) as threads:
            begun = time.perf_counter()
            runs = sum(threads.map(lambda runner: _runs_until(runner, names, feeds, rows, watch), [first, *others]))
            return runs * rows / (time.perf_counter() - begun)
    finally:
        for runner in others:
            runner.close()


def _runs_until(runner: Runner, names: Sequence[str], feeds: Mapping[str, Array], rows: int, watch: Stopwatch) -> int:
    runs = 0
    while runs < 3 or watch.left_s() > 0:
        runner.run(names, feeds, Work((), rows, names))
        runs += 1
    return runs
