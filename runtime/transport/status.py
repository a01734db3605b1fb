"""Makes the status document from what serving and the repository know; `status_document.py` says what it holds.

Rules
- Nothing is recorded here and nothing waits: one pass over counters that are kept anyway. Event loop only.
- It says why: each count by reason comes with the reason in words for people.
"""

from collections.abc import Mapping, Sequence
from typing import Final, Protocol, runtime_checkable

from runtime.core.model import ModelSpec
from runtime.repository.index import IndexEntry, ServedModel
from runtime.serving.binding import ShapeKey
from runtime.serving.cost import CostModel
from runtime.serving.devices import DevicePool
from runtime.serving.layout import places
from runtime.serving.statistics import Histogram, Statistics
from runtime.transport.status_document import (
    Counters,
    Latency,
    Point,
    Reason,
    RunTime,
    Serving,
    Skipped,
    StatusDocument,
    Trial,
    VersionStatus,
)

CUTS: Final = {
    "full": "the batch reached max_batch_size",
    "pays": "larger batches do not pay, as measured",
    "shared": "another instance was free and got its part",
    "large": "the next request would not have fitted",
    "empty": "nobody else was waiting (clients wait for their answers one at a time)",
    "shape": "others waited, but with different shapes",
    "preferred": "a preferred_batch_size was reached",
    "delay": "max_queue_delay_microseconds was over",
}
ALONE: Final = "the model takes one request at a time (no dynamic batching)"
REFUSALS: Final = {
    "deadline": "its deadline had passed on arrival",
    "queue_size": "the queue was at max_queue_size of the model's queue policy",
    "requests": "the queue was at max_queued_requests of [serving]",
    "bytes": "the queue was at max_queued_bytes of [serving]",
    "predicted": "the answer would have come after its deadline, as predicted",
    "wait": "the wait would have been longer than max_wait_s of [serving], as predicted",
}
FAILURES: Final = {
    "REJECTED": "there was no room: refused at the door, timed out in the queue, or stopping",
    "CANCELED": "the caller took it back",
    "BACKEND": "the model failed on it, or its device was lost",
    "OTHER": "the request was wrong, or its deadline passed",
}


class Repository(Protocol):
    """Knows what is served, and the state of everything else."""

    def served(self) -> Sequence[ServedModel]:
        """Versions that answer now."""
        ...

    def index(self) -> Sequence[IndexEntry]:
        """All versions that are known, whatever their state."""
        ...


@runtime_checkable
class Explained(Protocol):
    """A scheduler that can be asked how it works: the batcher."""

    statistics: Statistics

    @property
    def pool(self) -> DevicePool:
        """Its devices."""
        ...

    def costs(self) -> Mapping[ShapeKey, CostModel]:
        """Run times that it learned."""
        ...


def status_document(
    repository: Repository, *, version: str, uptime_s: float, ready: bool, draining: bool, thread_budget: int
) -> StatusDocument:
    """Describe the server now. `thread_budget`: CPU threads that one model may keep busy."""
    served = {(each.name, each.version): each for each in repository.served()}
    return StatusDocument(
        server="spillway",
        version=version,
        uptime_s=uptime_s,
        ready=ready,
        draining=draining,
        models=tuple(
            VersionStatus(
                model=entry.name,
                version=entry.version,
                state=entry.state,
                reason=entry.reason,
                serving=_serving(served.get((entry.name, entry.version)), thread_budget),
            )
            for entry in repository.index()
        ),
    )


def _serving(served: ServedModel | None, thread_budget: int) -> Serving | None:
    if served is None or not isinstance(served.scheduler, Explained):
        return None
    spec, verdict, scheduler = served.spec, served.verdict, served.scheduler
    pool, statistics = scheduler.pool, scheduler.statistics
    # The pool knows what runs now; where its last device is lost, the trial's choice is all there is to say.
    provider = pool.devices[0].provider if pool.devices else verdict.provider
    place = places(spec, verdict, provider, budget=thread_budget, gpus=1)[0]  # the loader's rule, alike for all
    return Serving(
        provider=provider,
        skipped=tuple(Skipped(provider=name, reason=reason) for name, reason in verdict.skipped),
        instances=len(pool.devices),
        threads=place.threads,
        inline=pool.inline,
        batching=_batches(spec),
        max_batch_size=spec.max_batch_size,
        queued_requests=statistics.pending_requests,
        queued_bytes=statistics.pending_bytes,
        running=sum(device.in_flight for device in pool.devices),
        counters=_counters(statistics, batches=_batches(spec)),
        latency=_latency(statistics.latency),
        run_times=_run_times(served, scheduler),
        trial=Trial(
            base_bytes=verdict.base_bytes,
            peak_bytes=verdict.peak_bytes,
            load_s=verdict.load_s,
            runtime_versions=verdict.runtime_versions,
        ),
    )


def _batches(spec: ModelSpec) -> bool:
    return spec.batching is not None and spec.max_batch_size > 1


def _counters(statistics: Statistics, *, batches: bool) -> Counters:
    runs = statistics.execution_count
    cuts = CUTS if batches else {**CUTS, "full": ALONE}
    return Counters(
        answered=statistics.success.count,
        failed=statistics.fail.count,
        rows=statistics.inference_count,
        batches=runs,
        average_batch=statistics.inference_count / runs if runs else 0.0,
        cuts=_reasons(statistics.cuts, cuts),
        refusals=_reasons(statistics.refusals, REFUSALS),
        failures=_reasons(statistics.failures, FAILURES),
    )


def _reasons(counts: Mapping[str, int], meanings: Mapping[str, str]) -> tuple[Reason, ...]:
    """The most frequent first."""
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Reason(reason=reason, count=count, meaning=meanings.get(reason, "")) for reason, count in ordered)


def _latency(histogram: Histogram) -> Latency | None:
    if not any(histogram.counts):
        return None
    return Latency(p50_s=quantile(histogram, 0.5), p90_s=quantile(histogram, 0.9), p99_s=quantile(histogram, 0.99))


def quantile(histogram: Histogram, share: float) -> float:
    """Estimate the value below which `share` of the observations lie; there must be some.

    Linear within a bucket, as Prometheus estimates; what is above the last bound counts as the last bound.
    """
    rank = share * sum(histogram.counts)
    below, low = 0, 0.0
    for bound, count in zip(histogram.bounds, histogram.counts, strict=False):
        if count and below + count >= rank:
            return low + (bound - low) * (rank - below) / count
        below, low = below + count, bound
    return low


def _run_times(served: ServedModel, scheduler: Explained) -> tuple[RunTime, ...]:
    """What was learned, by shapes; before the first request what the trial measured."""
    spec, costs = served.spec, scheduler.costs()
    if costs or not served.verdict.costs:
        return tuple(_run_time(spec, key, cost) for key, cost in costs.items() if cost.known)
    measured = CostModel(spec.max_batch_size if _batches(spec) else 1, scheduler.pool.overhead_s, served.verdict.costs)
    return (_run_time(spec, [tensor.dims for tensor in spec.inputs], measured),)


def _run_time(spec: ModelSpec, key: Sequence[tuple[int, ...] | None], cost: CostModel) -> RunTime:
    return RunTime(
        shapes={tensor.name: shape for tensor, shape in zip(spec.inputs, key, strict=True)},
        fixed_s=cost.fixed_s,
        row_s=cost.row_s,
        pays=cost.pays,
        points=tuple(Point(rows=point.rows, run_s=point.run_s) for point in cost.points()),
    )
