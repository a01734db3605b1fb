"""What Prometheus sees: Triton's `nv_inference_*` under their very names, and `spillway_*` of our own.

Rules
- Nothing is recorded here: a scrape reads the counters that serving keeps anyway. A request costs metrics nothing.
- Labels are models, versions and words of ours: the number of series is bounded by what is in the repository.
- Triton's counters have no `_total`; ours have it, as the convention wants.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Protocol, get_args

import psutil
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from runtime.repository.index import IndexEntry, ModelState, ServedModel
from runtime.serving.statistics import Duration, Histogram, Statistics
from runtime.transport.describe import Measured
from runtime.transport.loop_lag import LoopLag

FAILURE_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_MODEL = ("model", "version")


class Repository(Protocol):
    """Knows what is served, and the state of everything else."""

    def served(self) -> Sequence[ServedModel]:
        """Versions that answer now."""
        ...

    def index(self) -> Sequence[IndexEntry]:
        """All versions that are known, whatever their state."""
        ...


class Metrics:
    """Makes scrapes. Event loop only: counters are read without a lock."""

    def __init__(self, repository: Repository, lag: LoopLag, build: Mapping[str, str]) -> None:
        """Collect from `repository` and `lag`; `build` are the labels of `spillway_build_info`."""
        self._registry = CollectorRegistry()
        self._registry.register(_Models(repository))
        self._registry.register(_Machine(lag, build))
        ProcessCollector(registry=self._registry)

    def scrape(self) -> bytes:
        """The text format, version 0.0.4."""
        return "".join(_text(self._registry.collect())).encode()


def _text(families: Iterable[Metric]) -> Iterator[str]:
    """Families as text.

    Not by the library's `generate_latest`: that puts `_total` into every counter's header, where Triton has none, and
    takes twice as long on the event loop.
    """
    for family in families:
        if not family.samples:
            continue
        name = family.samples[0].name if family.type == "counter" else family.name
        yield f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n"
        for sample in family.samples:
            labels = ",".join([f'{key}="{_escaped(value)}"' for key, value in sample.labels.items()])
            yield f"{sample.name}{{{labels}}} {sample.value}\n" if labels else f"{sample.name} {sample.value}\n"


def _escaped(value: str) -> str:
    if value.isalnum():
        return value
    return value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')


class _Models(Collector):
    """Everything with a model in its labels."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository

    def collect(self) -> Iterator[Metric]:
        served = self._repository.served()
        counted = [
            ((model.name, str(model.version)), model.scheduler.statistics)
            for model in served
            if isinstance(model.scheduler, Measured)
        ]
        yield from _triton(counted)
        yield from _histograms(counted)
        yield from _reasons(counted)
        load = GaugeMetricFamily("spillway_model_load_seconds", "Seconds its load took in the trial", labels=_MODEL)
        for model in served:
            load.add_metric((model.name, str(model.version)), model.verdict.load_s)
        yield load
        state = GaugeMetricFamily("spillway_model_state", "1 for the version's state", labels=(*_MODEL, "state"))
        for entry in self._repository.index():
            for word in get_args(ModelState):
                state.add_metric((entry.name, str(entry.version), word), float(entry.state == word))
        yield state


_Counted = Sequence[tuple[tuple[str, str], Statistics]]

_TRITON: tuple[tuple[str, str, Callable[[Statistics], int]], ...] = (
    ("nv_inference_request_success", "Successful requests, all batch sizes", lambda s: s.success.count),
    ("nv_inference_count", "Inferences performed, a batch of n counts n", lambda s: s.inference_count),
    ("nv_inference_exec_count", "Executions of the model", lambda s: s.execution_count),
    ("nv_inference_request_duration_us", "Microseconds of successful requests", lambda s: _us(s.success)),
    ("nv_inference_queue_duration_us", "Microseconds that requests were in the queue", lambda s: _us(s.queue)),
    ("nv_inference_compute_input_duration_us", "Microseconds on inputs", lambda s: _us(s.compute_input)),
    ("nv_inference_compute_infer_duration_us", "Microseconds in the model", lambda s: _us(s.compute_infer)),
    ("nv_inference_compute_output_duration_us", "Microseconds on outputs", lambda s: _us(s.compute_output)),
)


def _us(duration: Duration) -> int:
    return duration.ns // 1000


def _triton(counted: _Counted) -> Iterator[Metric]:
    """The metrics that dashboards made for Triton ask for."""
    failed = Metric("nv_inference_request_failure", "Failed requests", "counter")
    pending = Metric("nv_inference_pending_request_count", "Requests that wait for execution", "gauge")
    for (model, version), statistics in counted:
        for reason in FAILURE_REASONS:
            labels = {"model": model, "version": version, "reason": reason}
            failed.add_sample(failed.name, labels, statistics.failures[reason])
        pending.add_sample(pending.name, {"model": model, "version": version}, statistics.pending_requests)
    yield from (failed, pending)
    for name, text, read in _TRITON:
        family = Metric(name, text, "counter")
        for (model, version), statistics in counted:
            family.add_sample(name, {"model": model, "version": version}, read(statistics))
        yield family


def _histograms(counted: _Counted) -> Iterator[Metric]:
    for name, text, field in (
        ("spillway_request_latency_seconds", "Seconds from submission to answer, successful requests", "latency"),
        ("spillway_queue_wait_seconds", "Seconds successful requests waited for a device", "queue_wait"),
        ("spillway_batch_rows", "Rows of each batch that ran", "batch_rows"),
        ("spillway_queue_depth_requests", "Waiting requests that each arrival saw, itself included", "queue_depth"),
    ):
        family = HistogramMetricFamily(name, text, labels=_MODEL)
        for labels, statistics in counted:
            histogram = getattr(statistics, field)
            family.add_metric(labels, buckets=_buckets(histogram), sum_value=histogram.total)
        yield family


def _buckets(histogram: Histogram) -> list[tuple[str, float]]:
    below = 0
    buckets: list[tuple[str, float]] = []
    for bound, count in zip((*histogram.bounds, math.inf), histogram.counts, strict=True):
        below += count
        buckets.append(("+Inf" if bound == math.inf else f"{bound:g}", below))
    return buckets


def _reasons(counted: _Counted) -> Iterator[Metric]:
    for name, text, field in (
        ("spillway_batch_cuts", "Batches by the reason that they were not larger", "cuts"),
        ("spillway_refusals", "Requests refused at the door, by reason", "refusals"),
    ):
        family = CounterMetricFamily(name, text, labels=(*_MODEL, "reason"))
        for labels, statistics in counted:
            for reason, count in getattr(statistics, field).items():
                family.add_metric((*labels, reason), count)
        yield family
    held = GaugeMetricFamily("spillway_pending_bytes", "Input bytes of waiting requests", labels=_MODEL)
    for labels, statistics in counted:
        held.add_metric(labels, statistics.pending_bytes)
    yield held


class _Machine(Collector):
    """The process and the machine under it, beyond what the library's ProcessCollector knows."""

    def __init__(self, lag: LoopLag, build: Mapping[str, str]) -> None:
        self._lag = lag
        self._build = dict(build)
        psutil.cpu_percent(None)  # the first call only starts the interval

    def collect(self) -> Iterable[Metric]:
        memory = psutil.virtual_memory()
        build = GaugeMetricFamily("spillway_build_info", "Versions of what runs", labels=tuple(self._build))
        build.add_metric(tuple(self._build.values()), 1)
        lag = HistogramMetricFamily("spillway_event_loop_lag_seconds", "How late the event loop ran a timer")
        lag.add_metric((), buckets=_buckets(self._lag.histogram), sum_value=self._lag.histogram.total)
        return (
            GaugeMetricFamily("nv_cpu_utilization", "CPU utilization of the machine, 0 to 1", _busy()),
            GaugeMetricFamily("nv_cpu_memory_total_bytes", "Memory of the machine in bytes", memory.total),
            GaugeMetricFamily("nv_cpu_memory_used_bytes", "Used memory of the machine in bytes", memory.used),
            GaugeMetricFamily("spillway_process_threads", "Threads of the process", _threads()),
            build,
            lag,
        )


def _busy() -> float:
    """Share of all cores since the last scrape."""
    return psutil.cpu_percent(None) / 100


def _threads() -> int:
    return psutil.Process().num_threads()
