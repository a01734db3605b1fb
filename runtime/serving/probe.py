"""How long batches run, and how many instances with how many threads do the most: measured, within a time limit.

Used by the trial child, so that the daemon starts with figures and spends nothing. What is measured decides, by the
pure rules of `layout.py`: a small model runs best on one thread, a large one either as one session on all threads or as
several sessions on one thread each, and which differs by model and machine (research/arch.md section 2).
"""

import logging
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing

import numpy as np

from runtime.core.clock import Clock, monotonic
from runtime.core.errors import ExecutionError
from runtime.core.model import ModelSpec
from runtime.core.tensor import BYTES, DATA_TYPES, Array, TensorSpec
from runtime.core.verdict import CpuLayout, RunCost
from runtime.serving.binding import graph_shape
from runtime.serving.layout import Rates, best_layout, fixed_layout
from runtime.serving.work import Runner, Work

log = logging.getLogger(__name__)

OpenRunner = Callable[[int], Runner]
"""Blocking: another runner of the same model with that many threads."""

SMALL_RUN_S = 0.0005
"""A model this quick gains nothing from a second thread; it is not even tried."""
SLOW_SHARE = 8
"""A model that fits less often than this into the time for measuring is not measured further."""
STEP = 4
"""From one measured batch size to the next."""
RUNS = 7
CHEAP_SHARE = 0.02
"""More than the least runs of a size are made while they take no more than this of the whole time."""
LEAST_RUNS = 3
"""Of each batch size, the first included, which allocates and does not count."""
MAX_SAMPLE_BYTES = 256 << 20


class Stopwatch:
    """What is left of the time for measuring. Seconds."""

    def __init__(self, limit_s: float, clock: Clock = monotonic) -> None:
        self.limit_s = limit_s
        self._begun = clock()
        self.now = clock

    def left_s(self, share: float = 1.0) -> float:
        """Seconds until that share of the time is over; negative after it."""
        return self._begun + self.limit_s * share - self.now()

    def spent_s(self) -> float:
        """Seconds since the start."""
        return self.now() - self._begun

    def fits(self, run_s: float) -> bool:
        """Tell whether a run of `run_s` would fit into the whole time often enough to learn from."""
        return run_s * SLOW_SHARE <= self.limit_s


def sample_feeds(spec: ModelSpec, rows: int) -> Mapping[str, Array] | None:
    """A batch of `rows` rows that the model accepts: warm-up data, or zeros; None where a size is unknown or huge."""
    if spec.warmup:
        row = spec.warmup[0].inputs
        nbytes = sum(array.nbytes for array in row.values())
        return batch_of(spec, row, rows) if nbytes * rows <= MAX_SAMPLE_BYTES else None
    wanted = [tensor for tensor in spec.inputs if not tensor.optional]
    if any(dim < 0 for tensor in wanted for dim in tensor.dims):
        return None
    if rows * sum(map(_zero_bytes, wanted)) > MAX_SAMPLE_BYTES:
        return None
    return batch_of(spec, {tensor.name: _zeros(tensor) for tensor in wanted}, rows)


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


def _zero_bytes(tensor: TensorSpec) -> int:
    return math.prod(tensor.dims) * DATA_TYPES[tensor.datatype].dtype.itemsize


def _zeros(tensor: TensorSpec) -> Array:
    if tensor.datatype == BYTES:
        return np.full(tensor.dims, "", dtype=object)
    return np.zeros(tensor.dims, DATA_TYPES[tensor.datatype].dtype)


def warm_up(spec: ModelSpec, runner: Runner) -> None:
    """Run the config's samples, or one row of zeros where the shapes are known: the first answer must not be slow.

    Zeros may be no input that the graph accepts; only the config's own samples can fail a load.

    Raises:
        ExecutionError: a sample of the config failed; the text names it.
        DeviceLost: as `Runner.run`.
    """
    for sample in spec.warmup:
        feeds = batch_of(spec, sample.inputs, sample.batch_size)
        for _ in range(sample.count):
            try:
                _run(spec, runner, feeds, sample.batch_size)
            except ExecutionError as error:
                raise ExecutionError(f"model_warmup '{sample.name}': {error}") from error
    if not spec.warmup and (zeros := sample_feeds(spec, 1)) is not None:
        try:
            _run(spec, runner, zeros, 1)
        except ExecutionError as error:
            log.info("model refuses zeros", extra={"model": spec.name, "error": str(error)})


def batch_fault(spec: ModelSpec, runner: Runner, watch: Stopwatch) -> str:
    """Why the first axis cannot be the batch, though the graph leaves it open; empty where nothing speaks against it.

    Exporters write a free first axis into graphs that have one row built in, and detectors put the number of boxes
    there. Such a model must not share a batch between requests. One row is enough of a model that is very slow.
    """
    if not spec.max_batch_size:
        return ""
    for rows in range(1, min(2, spec.max_batch_size) + 1):
        feeds = sample_feeds(spec, rows)
        if feeds is None or (rows > 1 and not watch.fits(watch.spent_s())):
            return ""
        try:
            outputs = _run(spec, runner, feeds, rows)
        except ExecutionError as error:
            # where even one row fails, the sample is no input for this graph and proves nothing
            return f"a batch of {rows} rows fails, one row does not: {error}" if rows > 1 else ""
        for tensor, array in zip(spec.outputs, outputs, strict=True):
            if not array.ndim or array.shape[0] != rows:
                return f"output '{tensor.name}' has shape {list(array.shape)} for a batch of {rows}"
    return ""


def measure(
    spec: ModelSpec,
    first: Runner,
    reopen: OpenRunner,
    *,
    budget: int,
    may_multiply: Callable[[], bool],
    watch: Stopwatch,
) -> tuple[CpuLayout, tuple[RunCost, ...]]:
    """Choose instances x threads within `budget` threads and measure T(b) for the choice.

    `first` is an open runner with one thread; `may_multiply`, asked after it has run, allows one for each thread.

    Raises:
        ExecutionError: the sample is no input for this graph, or another session could not be opened.
    """
    asked = fixed_layout(spec, budget)
    if asked is not None and asked.threads == 1:
        return asked, run_costs(spec, first, watch)
    single = run_costs(spec, first, watch, 0.35)
    wide = asked or CpuLayout(instances=1, threads=budget)
    if not single:
        return wide, ()
    if asked is None and (budget == 1 or single[0].run_s < SMALL_RUN_S):
        return CpuLayout(instances=1, threads=1), single
    if not watch.fits(single[0].run_s):
        return wide, ()  # too slow to try out here: requests will teach it
    opening_s = watch.now()
    with closing(reopen(wide.threads)) as runner:
        opening_s = watch.now() - opening_s
        costs = run_costs(spec, runner, watch, 0.7)
    if asked is not None:
        return asked, costs
    measured = {cost.rows for cost in costs} & {cost.rows for cost in single}  # time may have ended one of them early
    best = max((cost for cost in single if cost.rows in measured), key=_rate)
    rates = Rates(_rate(best), max(_rate(cost) for cost in costs if cost.rows in measured))
    if may_multiply() and opening_s * (budget - 1) + LEAST_RUNS * best.run_s < watch.left_s():
        rates = Rates(rates.one, rates.wide, _rate_of_several(spec, first, reopen, budget, best, watch))
    layout = best_layout(rates, budget)
    return layout, single if layout.threads == 1 else costs


def _rate(cost: RunCost) -> float:
    return cost.rows / max(cost.run_s, 1e-9)


def run_costs(spec: ModelSpec, runner: Runner, watch: Stopwatch, share: float = 1.0) -> tuple[RunCost, ...]:
    """Median seconds for 1, 4, 16 ... max_batch_size rows, as far as the time goes; empty where nothing can be fed.

    Steps of four, because the largest batch says most about what a layout can do, and must be reached in time.
    """
    costs: list[RunCost] = []
    limit = spec.max_batch_size if spec.batching is not None else 1
    rows = 1
    while (feeds := sample_feeds(spec, rows)) is not None:
        costs.append(RunCost(rows=rows, run_s=_median_run(spec, runner, feeds, rows, watch, share)))
        following = min(STEP * rows, limit)
        if rows >= limit or watch.left_s(share) < LEAST_RUNS * _expected_s(costs, following):
            break
        rows = following
    return tuple(costs)


def _expected_s(costs: Sequence[RunCost], rows: int) -> float:
    """Run time of a larger batch: along the last two measured, or half of what it would be if nothing were gained."""
    last = costs[-1]
    if len(costs) == 1:
        return last.run_s * max(1.0, rows / last.rows / 2)
    before = costs[-2]
    slope = max(0.0, (last.run_s - before.run_s) / (last.rows - before.rows))
    return last.run_s + slope * (rows - last.rows)


def _median_run(
    spec: ModelSpec, runner: Runner, feeds: Mapping[str, Array], rows: int, watch: Stopwatch, share: float
) -> float:
    """The first run allocates and does not count, unless it is all there is time for."""
    times: list[float] = []
    while len(times) < LEAST_RUNS or (len(times) <= RUNS and sum(times) < watch.limit_s * CHEAP_SHARE):
        begun = watch.now()
        _run(spec, runner, feeds, rows)
        times.append(watch.now() - begun)
        if watch.left_s(share) < 0:
            break
    return statistics.median(times[1:] or times)


def _rate_of_several(
    spec: ModelSpec, first: Runner, reopen: OpenRunner, count: int, batch: RunCost, watch: Stopwatch
) -> float:
    """Rows per second of `count` one-thread runners side by side, in batches like `batch`."""
    feeds = sample_feeds(spec, batch.rows)
    assert feeds is not None, "the batch was measured before"

    def once(runner: Runner) -> None:
        _run(spec, runner, feeds, batch.rows)

    def until_the_end(runner: Runner) -> int:
        runs = 0
        while runs < LEAST_RUNS - 1 or watch.left_s() > batch.run_s:
            once(runner)
            runs += 1
        return runs

    with ExitStack() as opened, ThreadPoolExecutor(count) as threads:
        runners = [first, *(opened.enter_context(closing(reopen(1))) for _ in range(count - 1))]
        list(threads.map(once, runners))  # allocates
        begun = watch.now()
        runs = sum(threads.map(until_the_end, runners))
        return runs * batch.rows / max(watch.now() - begun, 1e-9)


def _run(spec: ModelSpec, runner: Runner, feeds: Mapping[str, Array], rows: int) -> Sequence[Array]:
    names = [tensor.name for tensor in spec.outputs]
    return runner.run(names, feeds, Work((), rows, names))
