import asyncio
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from runtime.core.errors import QueueFull
from runtime.core.verdict import Verdict
from runtime.repository.index import IndexEntry
from runtime.serving.statistics import Statistics
from runtime.transport.loop_lag import PERIOD_S, LoopLag
from runtime.transport.metrics import Metrics
from tests.transport.http_harness import FakeRepository

ONE = {"model": "m", "version": "3"}


@dataclass
class Counting:
    """A scheduler that does nothing but count."""

    statistics: Statistics = field(default_factory=Statistics)


@dataclass
class Served:
    name: str
    version: int
    scheduler: object = field(default_factory=Counting)
    verdict: Verdict = field(default_factory=lambda: Verdict(load_s=0.25))


@dataclass
class Repository(FakeRepository):
    models: list[Served] = field(default_factory=list)

    def served(self) -> list[Served]:
        return self.models


@pytest.fixture
def statistics() -> Statistics:
    return Statistics()


@pytest.fixture
def metrics(statistics: Statistics) -> Metrics:
    entries = [IndexEntry("m", 3, "READY"), IndexEntry("broken", 1, "FAILED")]
    repository = Repository(entries, [Served("m", 3, Counting(statistics))])
    return Metrics(repository, LoopLag(), {"version": "0.1.0"})  # type: ignore[arg-type]


def value(metrics: Metrics, name: str, **labels: str) -> float:
    """The one sample of that name that has these labels."""
    found = [
        sample.value
        for family in families(metrics)
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    ]
    assert len(found) == 1, (name, labels, found)
    return found[0]


def families(metrics: Metrics) -> Iterator[Metric]:
    return iter(text_string_to_metric_families(metrics.scrape().decode()))


def test_tritons_counters_by_their_very_names(metrics: Metrics, statistics: Statistics) -> None:
    statistics.success.add(0.002, 3)
    statistics.queue.add(0.001)
    statistics.compute_input.add(0.0001)
    statistics.compute_infer.add(0.0005)
    statistics.compute_output.add(0.0002)
    statistics.ran(4, 0.1, 0.2, 0.3)
    statistics.failed(QueueFull("m", 4))
    statistics.failed(QueueFull("m", 4))
    statistics.pending_requests = 7
    text = metrics.scrape().decode()
    for line in (
        'nv_inference_request_success{model="m",version="3"} 3',
        'nv_inference_count{model="m",version="3"} 4',
        'nv_inference_exec_count{model="m",version="3"} 1',
        'nv_inference_pending_request_count{model="m",version="3"} 7',
        'nv_inference_request_duration_us{model="m",version="3"} 6000',
        'nv_inference_queue_duration_us{model="m",version="3"} 1000',
        'nv_inference_compute_input_duration_us{model="m",version="3"} 100',
        'nv_inference_compute_infer_duration_us{model="m",version="3"} 500',
        'nv_inference_compute_output_duration_us{model="m",version="3"} 200',
        'nv_inference_request_failure{model="m",version="3",reason="REJECTED"} 2',
        'nv_inference_request_failure{model="m",version="3",reason="CANCELED"} 0',
        'nv_inference_request_failure{model="m",version="3",reason="BACKEND"} 0',
        'nv_inference_request_failure{model="m",version="3",reason="OTHER"} 0',
        "# TYPE nv_inference_request_success counter",
        "# TYPE nv_inference_pending_request_count gauge",
    ):
        assert f"{line}\n" in text
    assert not re.search(r"nv_\w+_total[ {]", text)


def test_histograms_are_cumulative(metrics: Metrics, statistics: Statistics) -> None:
    for rows in (1, 2, 2, 5000):
        statistics.batch_rows.observe(rows)
    name = "spillway_batch_rows"
    assert value(metrics, f"{name}_bucket", le="1", **ONE) == 1
    assert value(metrics, f"{name}_bucket", le="2", **ONE) == 3
    assert value(metrics, f"{name}_bucket", le="1024", **ONE) == 3
    assert value(metrics, f"{name}_bucket", le="+Inf", **ONE) == 4
    assert value(metrics, f"{name}_count", **ONE) == 4
    assert value(metrics, f"{name}_sum", **ONE) == 5005


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("spillway_request_latency_seconds", "latency"),
        ("spillway_queue_wait_seconds", "queue_wait"),
        ("spillway_queue_depth_requests", "queue_depth"),
    ],
)
def test_each_histogram_shows_its_own(metrics: Metrics, statistics: Statistics, name: str, attribute: str) -> None:
    getattr(statistics, attribute).observe(2.0)
    assert value(metrics, f"{name}_sum", **ONE) == 2.0
    assert value(metrics, f"{name}_count", **ONE) == 1


def test_reasons(metrics: Metrics, statistics: Statistics) -> None:
    statistics.cuts["full"] += 2
    statistics.refusals["deadline"] += 1
    statistics.pending_bytes = 11
    assert value(metrics, "spillway_batch_cuts_total", reason="full", **ONE) == 2
    assert value(metrics, "spillway_refusals_total", reason="deadline", **ONE) == 1
    assert value(metrics, "spillway_pending_bytes", **ONE) == 11


def test_states_and_load_times(metrics: Metrics) -> None:
    assert value(metrics, "spillway_model_state", model="m", state="READY") == 1
    assert value(metrics, "spillway_model_state", model="m", state="FAILED") == 0
    assert value(metrics, "spillway_model_state", model="broken", state="FAILED") == 1
    assert value(metrics, "spillway_model_load_seconds", **ONE) == 0.25


def test_process_and_machine(metrics: Metrics) -> None:
    assert value(metrics, "spillway_build_info", version="0.1.0") == 1
    assert value(metrics, "spillway_process_threads") >= 1
    assert value(metrics, "process_resident_memory_bytes") > 1e6
    assert value(metrics, "process_open_fds") >= 3
    assert 0 <= value(metrics, "nv_cpu_utilization") <= 1
    assert 0 < value(metrics, "nv_cpu_memory_used_bytes") < value(metrics, "nv_cpu_memory_total_bytes")


def test_text_is_what_prometheus_reads(metrics: Metrics, statistics: Statistics) -> None:
    statistics.cuts['a "quoted"\\reason\n'] += 1
    text = metrics.scrape().decode()
    parsed = list(text_string_to_metric_families(text))
    assert text.endswith("\n")
    assert value(metrics, "spillway_batch_cuts_total", reason='a "quoted"\\reason\n') == 1
    names = re.findall(r"^# TYPE (\S+) ", text, re.MULTILINE)
    assert len(names) == len(set(names)) == len(parsed)
    for family in parsed:
        samples = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(samples) == len(set(samples)), family.name
        assert family.documentation, family.name
        assert family.type != "unknown", family.name


def test_series_grow_with_models_only(metrics: Metrics, statistics: Statistics) -> None:
    def series() -> int:
        return sum(len(family.samples) for family in families(metrics))

    before = series()
    for rows in range(1, 1000):
        statistics.ran(rows, 0.0, 0.0, 0.0)
        statistics.failed(QueueFull("m", rows))
    assert series() == before


def test_without_models_there_is_a_scrape() -> None:
    empty = Metrics(Repository(), LoopLag(), {"version": "0"})  # type: ignore[arg-type]
    names = {family.name for family in families(empty)}
    assert "spillway_build_info" in names
    assert not any(name.startswith("nv_inference") for name in names)


def test_a_scheduler_that_does_not_count_is_left_out() -> None:
    repository = Repository([], [Served("m", 3, object())])
    text = Metrics(repository, LoopLag(), {"version": "0"}).scrape().decode()  # type: ignore[arg-type]
    assert "nv_inference" not in text
    assert 'spillway_model_load_seconds{model="m",version="3"} 0.25' in text


async def test_loop_lag_is_sampled() -> None:
    lag = LoopLag()
    loop = asyncio.get_running_loop()
    lag._sample(loop, loop.time() - 0.3)
    lag.stop()
    lag.stop()
    assert sum(lag.histogram.counts) == 1
    assert 0.3 <= lag.histogram.total < 5
    assert lag._timer is None


async def test_loop_lag_takes_its_next_sample_one_period_later() -> None:
    lag = LoopLag()
    lag.start()
    assert lag._timer is not None
    left = lag._timer.when() - asyncio.get_running_loop().time()
    assert PERIOD_S / 2 < left <= PERIOD_S
    lag.stop()
    assert sum(lag.histogram.counts) == 0
