"""Loading: which sessions are opened where, what becomes of them when something fails, and what runs inline."""

import asyncio
import gc
import logging
import os
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper
from onnx import numpy_helper as arrays

from runtime.core.errors import DeviceLost, ExecutionError, LoadFailed
from runtime.core.inference import InferRequest, InferResult, Outcome, RequestHead, TensorHead
from runtime.core.model import (
    BatchPolicy,
    InstanceGroup,
    ModelSpec,
    ProviderChoice,
    SessionSettings,
    WarmupSample,
)
from runtime.core.tensor import TensorSpec
from runtime.core.verdict import CpuLayout, GraphFacts, RunCost, Verdict
from runtime.repository.memory import give_back, resident_bytes
from runtime.serving.batcher import Batcher
from runtime.serving.instance import NOT_BUILT_IN, SessionRunner
from runtime.serving.loader import INLINE_MAX_BATCH_S, SessionLoader, may_run_inline, visible_gpus
from runtime.serving.settings import ServingSettings
from tests.fakes.runner import FakeRunner
from tests.serving import graphs, hostile

ONE = CpuLayout(instances=1, threads=1)
FACTS = GraphFacts(inputs=(), outputs=())
QUICK = (RunCost(rows=1, run_s=0.00001), RunCost(rows=8, run_s=0.00002))
TRIED = Verdict(provider="cpu", layout=ONE, graph=FACTS, costs=QUICK)
SAMPLE = WarmupSample("s", 1, 1, {"x": np.zeros(4, np.float32)})


def spec_of(path: Path = Path("m.onnx"), **fields: Any) -> ModelSpec:
    settled: dict[str, Any] = {"max_batch_size": 8, "batching": BatchPolicy(), **fields}
    return ModelSpec("m", 1, path, (TensorSpec("x", "FP32", (4,)),), (TensorSpec("y", "FP32", (4,)),), **settled)


class Sessions:
    """Opens fake sessions and notes how. `absent` providers do not start; `failures` are of the openings to come."""

    def __init__(self, absent: Sequence[str] = (), failures: Sequence[Exception | None] = ()) -> None:
        self.absent = set(absent)
        self.failures = list(failures)
        self.asked: list[tuple[tuple[str, ...], int, int]] = []
        """Providers, device, threads of each call."""
        self.options: list[dict[str, str]] = []
        self.opened: list[FakeRunner] = []
        self.run_failure: Exception | None = None

    def __call__(
        self, path: Path, settings: SessionSettings, threads: int, providers: Sequence[ProviderChoice], device: int = 0
    ) -> tuple[FakeRunner, list[tuple[str, str]]]:
        self.asked.append((tuple(choice.name for choice in providers), device, threads))
        self.options += [dict(choice.options) for choice in providers]
        failure = self.failures.pop(0) if self.failures else None
        if failure is not None:
            raise failure
        started = [choice.name for choice in providers if choice.name not in self.absent]
        if not started:
            raise ExecutionError("; ".join(f"{choice.name}: {NOT_BUILT_IN}" for choice in providers))
        runner = FakeRunner(started[0])
        runner.failures.extend([self.run_failure])
        self.opened.append(runner)
        return runner, []


async def loaded(
    sessions: Sessions, spec: ModelSpec, verdict: Verdict = TRIED, *, gpus: int = 1, **settings: Any
) -> Batcher:
    settled = ServingSettings(**{"threads": 4, **settings})
    batcher = await SessionLoader(settled, sessions, gpus).load(spec, verdict)
    assert isinstance(batcher, Batcher)
    return batcher


# --- where


@pytest.mark.parametrize(
    ("spec", "verdict", "asked"),
    [
        (spec_of(), TRIED, [(("cpu",), 0, 1)]),
        (
            spec_of(),
            Verdict(provider="cpu", layout=CpuLayout(instances=3, threads=1)),
            [(("cpu",), 0, 1)] * 3,
        ),
        (spec_of(), Verdict(provider="cpu"), [(("cpu",), 0, 4)]),
        (spec_of(instance_groups=(InstanceGroup(2, "CPU"),)), TRIED, [(("cpu",), 0, 2)] * 2),
        (spec_of(session=SessionSettings(intra_op_threads=3)), TRIED, [(("cpu",), 0, 3)]),
    ],
)
async def test_sessions_on_the_cpu(
    spec: ModelSpec, verdict: Verdict, asked: list[tuple[tuple[str, ...], int, int]]
) -> None:
    sessions = Sessions()
    batcher = await loaded(sessions, spec, verdict, providers=("cpu",))
    assert sessions.asked == asked
    assert len(batcher.pool.devices) == len(asked)
    assert [runner.sizes for runner in sessions.opened] == [[1]] * len(asked), "each was warmed up"
    await batcher.close()
    assert all(runner.closed for runner in sessions.opened)


async def test_sessions_on_gpus_are_where_the_groups_say() -> None:
    sessions = Sessions()
    verdict = Verdict(provider="cuda", layout=ONE, skipped=())
    spec = spec_of(instance_groups=(InstanceGroup(1, "GPU", (2, 1)),))
    batcher = await loaded(sessions, spec, verdict)
    assert sessions.asked == [(("cuda",), 2, 1), (("cuda",), 1, 1)]
    assert batcher.pool.capacity == 4, "two batches in flight on each"
    await batcher.close()


async def test_a_model_without_groups_is_on_every_gpu() -> None:
    sessions = Sessions()
    batcher = await loaded(sessions, spec_of(), Verdict(provider="cuda", layout=ONE), gpus=2)
    assert sessions.asked == [(("cuda",), 0, 1), (("cuda",), 1, 1)]
    await batcher.close()


@pytest.mark.parametrize(("listed", "count"), [("0,1,3", 3), ("GPU-8932f937", 1), ("", 1), (" 0 , ", 1), (None, 1)])
def test_gpus_that_this_process_may_use(listed: str | None, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    if listed is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        assert visible_gpus() >= count
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        assert visible_gpus() == count


# --- which provider


async def test_what_did_not_start_in_the_trial_is_reported_and_not_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    skipped = (("cuda", "libcudart.so.13 is missing"), ("openvino", NOT_BUILT_IN))
    sessions = Sessions()
    with caplog.at_level(logging.INFO):
        batcher = await loaded(sessions, spec_of(), Verdict(provider="cpu", layout=ONE, skipped=skipped))
    assert sessions.asked == [(("cpu",), 0, 1)]
    told = [(record.levelname, vars(record)["provider"]) for record in caplog.records if "skipped" in record.message]
    assert told == [("WARNING", "cuda")], "what was not built in is no event"
    await batcher.close()


async def test_providers_of_the_config_come_in_its_order_with_its_options() -> None:
    sessions = Sessions(absent=["tensorrt"])
    choices = (ProviderChoice("tensorrt", {"trt_fp16_enable": "1"}), ProviderChoice("cuda", {"use_tf32": "0"}))
    verdict = Verdict(provider="cuda", layout=ONE)
    batcher = await loaded(sessions, spec_of(providers=(*choices, ProviderChoice("cpu"))), verdict)
    assert [names for names, _, _ in sessions.asked] == [("tensorrt",), ("cuda",)]
    assert sessions.options == [{"trt_fp16_enable": "1"}, {"use_tf32": "0"}]
    assert batcher.pool.devices[0].provider == "cuda"
    await batcher.close()


async def test_a_provider_that_is_gone_since_the_trial_leaves_the_next_with_nothing_taken_for_measured() -> None:
    sessions = Sessions(absent=["cuda", "openvino"])
    verdict = Verdict(provider="cuda", layout=ONE, graph=FACTS, costs=QUICK)
    batcher = await loaded(sessions, spec_of(), verdict)
    assert sessions.asked == [(("cuda",), 0, 1), (("openvino",), 0, 4), (("cpu",), 0, 4)]
    assert batcher.pool.devices[0].provider == "cpu"
    assert not batcher.pool.inline
    assert not batcher.costs()
    await batcher.close()


async def test_without_a_provider_the_refusal_says_why_for_each() -> None:
    sessions = Sessions(absent=["cpu"])
    verdict = Verdict(provider="cuda", skipped=(("openvino", "no such device"),))
    sessions.absent.add("cuda")
    with pytest.raises(LoadFailed) as refused:
        await loaded(sessions, spec_of(), verdict)
    assert "no such device" in refused.value.reason
    assert f"cuda: {NOT_BUILT_IN}; cpu: {NOT_BUILT_IN}" in refused.value.reason
    with pytest.raises(LoadFailed):
        await loaded(sessions, spec_of(providers=(ProviderChoice("openvino"),)), verdict)


# --- failures


@pytest.mark.parametrize("failure", [ExecutionError("no memory"), DeviceLost("gone"), MemoryError()])
async def test_a_session_that_cannot_be_opened_closes_those_before_it(failure: Exception) -> None:
    sessions = Sessions(failures=[None, None, failure])
    verdict = Verdict(provider="cpu", layout=CpuLayout(instances=3, threads=1))
    with pytest.raises(MemoryError if isinstance(failure, MemoryError) else LoadFailed):
        await loaded(sessions, spec_of(), verdict, providers=("cpu",))
    assert [runner.closed for runner in sessions.opened] == [True, True]


@pytest.mark.parametrize("failure", [ExecutionError("index out of range"), DeviceLost("gone")])
async def test_a_warm_up_that_fails_closes_all(failure: Exception) -> None:
    sessions = Sessions()
    sessions.run_failure = failure
    verdict = Verdict(provider="cpu", layout=CpuLayout(instances=2, threads=1))
    with pytest.raises(LoadFailed, match=str(failure)):
        await loaded(sessions, spec_of(warmup=(SAMPLE,)), verdict, providers=("cpu",))
    assert [runner.closed for runner in sessions.opened] == [True, True]


# --- a lost device


@pytest.mark.parametrize(
    ("lost", "left"), [("cuda", ("openvino", "cpu")), ("tensorrt", ("cuda", "openvino", "cpu")), ("cpu", ("cuda",))]
)
async def test_a_lost_provider_is_not_tried_again(lost: str, left: tuple[str, ...]) -> None:
    providers = ("tensorrt", *left) if lost != "cpu" else ("cuda", "cpu")
    if lost == "cuda":
        providers = ("tensorrt", "cuda", "openvino", "cpu")
    sessions = Sessions(absent=["openvino"])
    loader = SessionLoader(ServingSettings(threads=4, providers=providers), sessions, 1)
    runner = loader._replacement(spec_of(), lost)
    assert sessions.asked == [(left, 0, 4)]
    assert runner.provider == next(name for name in left if name != "openvino")
    assert sessions.opened[0].sizes == [1]


async def test_a_replacement_that_fails_its_warm_up_is_closed() -> None:
    sessions = Sessions()
    sessions.run_failure = ExecutionError("no")
    loader = SessionLoader(ServingSettings(), sessions, 1)
    with pytest.raises(ExecutionError):
        loader._replacement(spec_of(warmup=(SAMPLE,)), "cuda")
    assert sessions.opened[0].closed
    with pytest.raises(ExecutionError):
        SessionLoader(ServingSettings(providers=("cuda",)), sessions, 1)._replacement(spec_of(), "cuda")


async def test_requests_move_to_the_replacement() -> None:
    sessions = Sessions()
    batcher = await loaded(sessions, spec_of(), Verdict(provider="cuda", layout=ONE))
    gpu = sessions.opened[0]
    gpu.failures.append(DeviceLost("CUDA failure 999"))
    assert (await answer(batcher, 3.0)).outputs[0].array.tolist() == [[3.0] * 4]
    assert gpu.closed
    assert [runner.provider for runner in sessions.opened] == ["cuda", "openvino"]
    await batcher.close()


async def answer(batcher: Batcher, number: float) -> InferResult:
    """What a request of one row is answered."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
    head = RequestHead("m", "", (TensorHead("x", "FP32", (1, 4)),))
    batcher.submit(InferRequest(head, (np.full((1, 4), number, np.float32).tobytes(),)), done.set_result)
    outcome = await done
    assert isinstance(outcome, InferResult), outcome
    return outcome


# --- inline


def change(verdict: Verdict, **fields: Any) -> Verdict:
    return Verdict(**{**{name: getattr(verdict, name) for name in verdict.__struct_fields__}, **fields})


def test_a_tiny_predictable_model_may_run_inline() -> None:
    assert may_run_inline(spec_of(), TRIED, "cpu")


def text_spec() -> ModelSpec:
    return ModelSpec("m", 1, Path("m"), (TensorSpec("x", "BYTES", (1,)),), (TensorSpec("y", "FP32", (1,)),))


@pytest.mark.parametrize(
    ("spec", "verdict", "provider"),
    [
        (spec_of(), TRIED, "cuda"),
        (spec_of(), change(TRIED, provider="cuda"), "cpu"),
        (spec_of(), change(TRIED, layout=CpuLayout(instances=1, threads=2)), "cpu"),
        (spec_of(), change(TRIED, layout=CpuLayout(instances=2, threads=1)), "cpu"),
        (spec_of(), change(TRIED, layout=None), "cpu"),
        (spec_of(), change(TRIED, costs=()), "cpu"),
        (spec_of(), change(TRIED, costs=(RunCost(rows=1, run_s=INLINE_MAX_BATCH_S),)), "cpu"),
        (spec_of(), change(TRIED, graph=None), "cpu"),
        (spec_of(), change(TRIED, graph=GraphFacts(inputs=(), outputs=(), control_flow=True)), "cpu"),
        (spec_of(session=SessionSettings(execution_mode="PARALLEL")), TRIED, "cpu"),
        (ModelSpec("m", 1, Path("m"), (TensorSpec("x", "FP32", (-1,)),), ()), TRIED, "cpu"),
        (ModelSpec("m", 1, Path("m"), (), (TensorSpec("y", "FP32", (-1, 6)),)), TRIED, "cpu"),
        (text_spec(), TRIED, "cpu"),
    ],
    ids=[
        "GPU",
        "tried on a GPU",
        "two threads",
        "two instances",
        "not measured",
        "no costs",
        "too slow",
        "unknown graph",
        "control flow",
        "parallel",
        "free input",
        "free output",
        "text",
    ],
)
def test_nothing_else_may(spec: ModelSpec, verdict: Verdict, provider: str) -> None:
    assert not may_run_inline(spec, verdict, provider)


def test_the_largest_batch_that_pays_decides() -> None:
    rising = (RunCost(rows=1, run_s=0.0001), RunCost(rows=8, run_s=0.0010))
    paying = (RunCost(rows=1, run_s=0.0001), RunCost(rows=8, run_s=0.0003))
    assert may_run_inline(spec_of(), change(TRIED, costs=rising), "cpu"), "one row is as good as eight"
    assert not may_run_inline(spec_of(), change(TRIED, costs=paying), "cpu")
    assert may_run_inline(spec_of(batching=None), change(TRIED, costs=paying[:1]), "cpu")


@pytest.mark.parametrize(("settings", "inline"), [({}, True), ({"inline": False}, False)])
async def test_inline_is_for_who_allows_it(settings: dict[str, Any], *, inline: bool) -> None:
    batcher = await loaded(Sessions(), spec_of(), providers=("cpu",), **settings)
    assert batcher.pool.inline is inline
    await batcher.close()


# --- real sessions


async def test_instances_answer_apart_from_each_other(tmp_path: Path) -> None:
    """Each has a session of its own: what one is asked does not show in another's answers."""
    spec = spec_of(graphs.identity(tmp_path / "m.onnx"))
    verdict = Verdict(provider="cpu", layout=CpuLayout(instances=3, threads=1))
    loader = SessionLoader(ServingSettings(threads=3, providers=("cpu",)))
    batcher = await loader.load(spec, verdict)
    assert isinstance(batcher, Batcher)
    sessions = [device.runner._session for device in batcher.pool.devices]  # type: ignore[attr-defined]
    assert len({id(session) for session in sessions}) == 3
    answers = await asyncio.gather(*(answer(batcher, number) for number in range(60)))
    assert [each.outputs[0].array.tolist() for each in answers] == [[[float(number)] * 4] for number in range(60)]
    await batcher.close()


async def test_a_file_that_is_no_model_leaves_nothing_open(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(b"nothing")
    with pytest.raises(LoadFailed, match="cpu: "):
        await SessionLoader(ServingSettings(providers=("cpu",))).load(spec_of(tmp_path / "m.onnx"), TRIED)


@pytest.mark.slow
async def test_what_a_closed_model_held_is_free(tmp_path: Path) -> None:
    """Without a run of the garbage collector: sessions are in no cycle."""
    weights = [arrays.from_array(np.ones((13, 1 << 20), np.float32), "weights")]  # 52 MiB
    nodes = [
        helper.make_node("ReduceMax", ["weights"], ["one"], keepdims=0),
        helper.make_node("Mul", ["x", "one"], ["y"]),
        helper.make_node("Identity", ["weights"], ["z"]),
    ]
    z = helper.make_tensor_value_info("z", 1, [13, 1 << 20])
    (tmp_path / "m.onnx").write_bytes(hostile.model(nodes, outputs=[hostile.Y, z], weights=weights).SerializeToString())
    loader = SessionLoader(ServingSettings(providers=("cpu",)))
    sizes: list[int] = []
    alive: list[weakref.ref[Any]] = []
    gc.disable()
    try:
        for _ in range(8):
            batcher = await loader.load(spec_of(tmp_path / "m.onnx"), TRIED)
            assert isinstance(batcher, Batcher)
            runner = batcher.pool.devices[0].runner
            assert isinstance(runner, SessionRunner)
            alive.append(weakref.ref(runner._session))
            await answer(batcher, 1.0)
            await batcher.close()
            del runner, batcher
            give_back()
            sizes.append(resident_bytes(os.getpid()))
    finally:
        gc.enable()
    assert [each() for each in alive] == [None] * 8
    assert sizes[-1] - sizes[1] < 20 << 20, sizes
