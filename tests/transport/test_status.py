"""The status document, of a real batcher on fake devices."""

import asyncio
import inspect
import math
import re
from bisect import bisect_left
from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.core.model import BatchPolicy, InstanceGroup, SessionSettings
from runtime.core.verdict import CpuLayout, RunCost, Verdict
from runtime.repository.gate import Candidate
from runtime.repository.index import Entry, ServedModel, ServingIndex
from runtime.serving import admission as admission_module
from runtime.serving import planner as planner_module
from runtime.serving.admission import Limits
from runtime.serving.statistics import LATENCY_BOUNDS_S, Histogram
from runtime.transport.access import HTTP_ROLES
from runtime.transport.metrics import FAILURE_REASONS
from runtime.transport.status import CUTS, FAILURES, REFUSALS, quantile, status_document
from runtime.transport.status_document import Serving, StatusDocument, VersionStatus
from runtime.wire.pb import model_config_pb2 as pb
from tests.fakes.clock import simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, echo_spec
from tests.transport.http_harness import NO_STATUS, serving

VERDICT = Verdict(
    provider="cpu",
    skipped=(("cuda", "no driver"),),
    base_bytes=100,
    peak_bytes=500,
    load_s=0.25,
    layout=CpuLayout(instances=2, threads=3),
    runtime_versions="onnxruntime 1",
)


@dataclass
class Repository:
    states: ServingIndex = field(default_factory=ServingIndex)

    def serve(self, rig: Rig, verdict: Verdict = VERDICT) -> None:
        served = ServedModel(
            name="echo",
            version=1,
            versions=(),
            config=pb.ModelConfig(),
            spec=rig.batcher.spec,
            verdict=verdict,
            scheduler=rig.batcher,
            candidate=Candidate.__new__(Candidate),  # of no interest here
        )
        self.states.update("echo", {1: Entry("READY", "", served)})

    def served(self) -> list[ServedModel]:
        return self.states.served()

    def index(self) -> list[object]:
        return self.states.listing([])  # type: ignore[return-value]


def described(repository: Repository, thread_budget: int = 4) -> StatusDocument:
    document = status_document(
        repository,  # type: ignore[arg-type] # index() is what the Protocol wants
        version="1.2",
        uptime_s=5.0,
        ready=True,
        draining=False,
        thread_budget=thread_budget,
    )
    assert msgspec.json.decode(msgspec.json.encode(document), type=StatusDocument) == document
    return document


def serving_of(rig: Rig, verdict: Verdict = VERDICT) -> Serving:
    repository = Repository()
    repository.serve(rig, verdict)
    found = described(repository).models[0].serving
    assert found is not None
    return found


@simulated
async def test_before_the_first_request() -> None:
    costs = (RunCost(rows=1, run_s=0.001), RunCost(rows=8, run_s=0.002))
    rig = Rig(runners=[FakeRunner(), FakeRunner()])
    found = serving_of(rig, msgspec.structs.replace(VERDICT, costs=costs))
    assert (found.provider, found.instances, found.threads, found.inline) == ("cpu", 2, 3, False)
    assert [(each.provider, each.reason) for each in found.skipped] == [("cuda", "no driver")]
    assert (found.batching, found.max_batch_size) == (True, 8)
    assert (found.counters.batches, found.counters.average_batch, found.latency) == (0, 0.0, None)
    (measured,) = found.run_times
    assert (measured.shapes, measured.pays) == ({"x": (-1,)}, 8)
    assert [(point.rows, point.run_s) for point in measured.points] == [(1, 0.001), (8, 0.002)]
    assert (found.trial.peak_bytes, found.trial.load_s) == (500, 0.25)
    await rig.settle()


@simulated
async def test_after_some_requests() -> None:
    rig = Rig(limits=Limits(max_requests=2))
    rig.send()
    await asyncio.sleep(0)  # the first one starts alone
    rig.send_many(2, width=5)
    rig.send()  # over the limit
    now = serving_of(rig)
    assert (now.queued_requests, now.queued_bytes, now.running) == (2, 40, 1)
    await rig.settle()
    found = serving_of(rig)
    counters = found.counters
    assert (counters.answered, counters.failed, counters.rows, counters.batches) == (3, 1, 3, 2)
    assert counters.average_batch == 1.5
    assert sum(each.count for each in counters.cuts) == 2
    assert [(each.reason, each.count) for each in counters.refusals] == [("requests", 1)]
    assert [(each.reason, each.count) for each in counters.failures] == [("REJECTED", 1)]
    for reason in (*counters.cuts, *counters.refusals, *counters.failures):
        assert reason.meaning
    assert {tuple(each.shapes.items()) for each in found.run_times} == {(("x", (4,)),), (("x", (5,)),)}
    assert found.latency is not None
    assert 0 < found.latency.p50_s <= found.latency.p90_s <= found.latency.p99_s


@simulated
async def test_a_model_that_takes_requests_one_by_one_says_so() -> None:
    rig = Rig(echo_spec(batching=None))
    rig.send()
    await rig.settle()
    found = serving_of(rig)
    assert not found.batching
    assert [each.meaning for each in found.counters.cuts] == [
        "the model takes one request at a time (no dynamic batching)"
    ]


@simulated
async def test_threads_are_those_of_the_config_where_it_names_some() -> None:
    asked = echo_spec(instance_groups=(InstanceGroup(2, "CPU"),))
    rig = Rig(asked, [FakeRunner(), FakeRunner()])
    assert serving_of(rig).threads == 2, "budget 4 over two instances"
    await rig.settle()
    rig = Rig(echo_spec(session=SessionSettings(intra_op_threads=1)))
    assert serving_of(rig).threads == 1
    await rig.settle()
    rig = Rig()
    assert serving_of(rig, msgspec.structs.replace(VERDICT, layout=None)).threads == 4
    await rig.settle()


def test_what_is_not_served_has_a_state_and_a_reason() -> None:
    repository = Repository()
    repository.states.update("bad", {0: Entry("FAILED", "no file")})
    document = described(repository)
    assert document.models == (VersionStatus(model="bad", version=0, state="FAILED", reason="no file"),)
    assert (document.server, document.version, document.uptime_s, document.ready) == ("spillway", "1.2", 5.0, True)


def test_every_word_of_serving_has_a_meaning() -> None:
    """Looks for the words in the source: a new one without a meaning fails here."""
    planner, admission = inspect.getsource(planner_module), inspect.getsource(admission_module)
    cuts = set(re.findall(r'"([a-z]+)"', planner)) - {"wait"}  # a plan to wait cuts nothing
    assert cuts | {"shape"} == set(CUTS)
    assert set(re.findall(r'return "([a-z_]+)",', admission)) == set(REFUSALS)
    assert set(FAILURE_REASONS) == set(FAILURES)


def histogram(values: list[float]) -> Histogram:
    made = Histogram(LATENCY_BOUNDS_S)
    for value in values:
        made.observe(value)
    return made


@given(
    values=st.lists(st.floats(0, 9.9), min_size=1, max_size=50),
    share=st.floats(0.01, 1.0),
)
def test_a_quantile_is_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    true = sorted(values)[math.ceil(share * len(values)) - 1]
    bucket = bisect_left(LATENCY_BOUNDS_S, true)
    low = LATENCY_BOUNDS_S[bucket - 1] if bucket else 0.0
    assert low <= quantile(histogram(values), share) <= LATENCY_BOUNDS_S[bucket]


@pytest.mark.parametrize(
    ("values", "share", "found"),
    [([100.0], 0.5, 10.0), ([0.04] * 4, 0.5, 0.0375), ([0.04, 0.04, 100.0], 0.99, 10.0)],
)
def test_quantiles(values: list[float], share: float, found: float) -> None:
    assert quantile(histogram(values), share) == pytest.approx(found)


async def test_it_is_for_operators_over_http() -> None:
    assert HTTP_ROLES["GET", "/status"] == "operate"
    async with serving() as app:
        status, body = await app.get("/status")
    assert status == 200
    assert msgspec.convert(body, StatusDocument) == NO_STATUS


async def test_other_policies_are_described_too() -> None:
    rig = Rig(echo_spec(batching=BatchPolicy(preferred_batch_sizes=(4,), max_queue_delay_s=0.01)))
    assert serving_of(rig).batching
    await rig.settle()
