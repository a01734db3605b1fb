"""Measuring, with runners that take simulated time: what is run how often, and what it is taken for."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.core.errors import DeviceLost, ExecutionError
from runtime.core.model import BatchPolicy, InstanceGroup, ModelSpec, SessionSettings, WarmupSample
from runtime.core.tensor import Array, TensorSpec
from runtime.core.verdict import CpuLayout
from runtime.serving.probe import (
    MAX_SAMPLE_BYTES,
    Stopwatch,
    batch_fault,
    batch_of,
    measure,
    run_costs,
    sample_feeds,
    warm_up,
)
from runtime.serving.work import Work
from tests.fakes.timed import Machine, TimedRunner


def spec_of(*, rows: int = 8, dims: tuple[int, ...] = (4,), **fields: Any) -> ModelSpec:
    settled: dict[str, Any] = {"batching": BatchPolicy(), "max_batch_size": rows, **fields}
    return ModelSpec(
        "m", 1, Path("m.onnx"), (TensorSpec("x", "FP32", dims),), (TensorSpec("y", "FP32", (1,)),), **settled
    )


def sample(**arrays: Array) -> WarmupSample:
    return WarmupSample("s", 2, 3, arrays)


# --- feeds


def test_zeros_are_fed_where_the_sizes_are_known() -> None:
    feeds = sample_feeds(spec_of(dims=(4, 2)), 3)
    assert feeds is not None
    assert feeds["x"].shape == (3, 4, 2)
    assert feeds["x"].dtype == np.float32
    assert not feeds["x"].any()


@pytest.mark.parametrize("datatype", ["FP32", "BYTES", "BF16", "BOOL"])
def test_zeros_of_every_kind(datatype: str) -> None:
    spec = ModelSpec("m", 1, Path("m"), (TensorSpec("x", datatype, (2,)),), ())
    feeds = sample_feeds(spec, 1)
    assert feeds is not None
    assert feeds["x"].shape == (2,), "no batch axis"
    assert feeds["x"].tolist() in ([0, 0], ["", ""], [False, False])


def test_scalars_and_empty_tensors() -> None:
    inputs = (TensorSpec("s", "INT64", (1,), reshape=()), TensorSpec("none", "FP32", (0,)))
    feeds = sample_feeds(ModelSpec("m", 1, Path("m"), inputs, ()), 1)
    assert feeds is not None
    assert (feeds["s"].shape, feeds["none"].shape) == ((), (0,))


def test_nothing_is_fed_where_a_size_is_unknown_or_absurd() -> None:
    assert sample_feeds(spec_of(dims=(-1, 4)), 1) is None
    assert sample_feeds(spec_of(dims=(MAX_SAMPLE_BYTES // 4096,)), 1) is not None
    assert sample_feeds(spec_of(dims=(MAX_SAMPLE_BYTES // 4096,)), 1025) is None
    assert sample_feeds(spec_of(dims=(2**40, 2**40)), 1) is None
    assert sample_feeds(spec_of(warmup=(sample(x=np.zeros(MAX_SAMPLE_BYTES // 8, np.float32)),)), 3) is None


def test_optional_inputs_are_left_out() -> None:
    inputs = (TensorSpec("x", "FP32", (2,)), TensorSpec("o", "FP32", (-1,), optional=True))
    feeds = sample_feeds(ModelSpec("m", 1, Path("m"), inputs, ()), 1)
    assert feeds is not None
    assert set(feeds) == {"x"}


def test_warm_up_data_is_repeated_and_reshaped_for_the_graph() -> None:
    spec = ModelSpec("m", 1, Path("m"), (TensorSpec("x", "FP32", (1,), reshape=()),), (), max_batch_size=4)
    feeds = batch_of(spec, {"x": np.array([7], np.float32)}, 3)
    assert feeds["x"].tolist() == [7, 7, 7]


# --- warm-up


def test_the_samples_of_the_config_are_run_as_often_as_it_says() -> None:
    machine = Machine()
    runner = TimedRunner(machine, 0.001)
    warm_up(spec_of(warmup=(sample(x=np.full(4, 5, np.float32)),)), runner)
    assert runner.rows == [2, 2, 2]
    assert runner.feeds[0]["x"].tolist() == [[5] * 4] * 2


def test_one_row_of_zeros_warms_a_model_without_samples() -> None:
    runner = TimedRunner(Machine(), 0.001)
    warm_up(spec_of(), runner)
    assert runner.rows == [1]
    unknown = TimedRunner(Machine(), 0.001)
    warm_up(spec_of(dims=(-1,)), unknown)
    assert unknown.rows == []


class Failing(TimedRunner):
    """Fails from `rows` rows on."""

    def __init__(self, rows: int = 1, error: Exception | None = None) -> None:
        super().__init__(Machine(), 0.001)
        self._from = rows
        self._error = error or ExecutionError("index out of range")

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        if work.rows >= self._from:
            raise self._error
        return super().run(names, feeds, work)


def test_only_samples_of_the_config_can_fail_a_load(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        warm_up(spec_of(), Failing())
    assert [record.message for record in caplog.records] == ["model refuses zeros"]
    with pytest.raises(ExecutionError, match="model_warmup 's': index out of range"):
        warm_up(spec_of(warmup=(sample(x=np.zeros(4, np.float32)),)), Failing())
    with pytest.raises(DeviceLost):
        warm_up(spec_of(), Failing(error=DeviceLost("gone")))


# --- is the first axis the batch?


def test_a_graph_that_runs_two_rows_can_batch() -> None:
    machine = Machine()
    runner = TimedRunner(machine, 0.1)
    assert batch_fault(spec_of(), runner, machine.watch(0.8)) == ""
    assert runner.rows == [1, 2]


def test_one_row_is_enough_of_a_model_that_is_very_slow() -> None:
    machine = Machine()
    runner = TimedRunner(machine, 0.2)
    assert batch_fault(spec_of(), runner, machine.watch(0.8)) == ""
    assert runner.rows == [1]


def test_a_graph_that_only_runs_single_rows_cannot_batch() -> None:
    assert (
        batch_fault(spec_of(), Failing(2), Stopwatch(9))
        == "a batch of 2 rows fails, one row does not: index out of range"
    )


def test_an_output_of_another_length_cannot_be_cut_into_rows() -> None:
    class Boxes(TimedRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            return [np.zeros((17, 6))]

    class Sum(TimedRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            return [np.zeros(())]

    assert (
        batch_fault(spec_of(), Boxes(Machine(), 0.0), Stopwatch(9)) == "output 'y' has shape [17, 6] for a batch of 1"
    )
    assert batch_fault(spec_of(rows=1), Sum(Machine(), 0.0), Stopwatch(9)) == "output 'y' has shape [] for a batch of 1"


@pytest.mark.parametrize(
    ("spec", "runs"),
    [(spec_of(rows=0, batching=None), []), (spec_of(dims=(-1,)), []), (spec_of(rows=1), [1])],
)
def test_nothing_is_held_against_what_was_not_tried(spec: ModelSpec, runs: list[int]) -> None:
    runner = TimedRunner(Machine(), 0.001)
    assert batch_fault(spec, runner, Stopwatch(9)) == ""
    assert runner.rows == runs


def test_a_sample_that_fails_alone_proves_nothing() -> None:
    assert batch_fault(spec_of(), Failing(1), Stopwatch(9)) == ""


# --- run times


def test_batch_sizes_grow_fourfold_up_to_the_limit() -> None:
    machine = Machine()
    runner = TimedRunner(machine, row_s=0.0001, fixed_s=0.001)
    costs = run_costs(spec_of(rows=12), runner, machine.watch(10.0))
    assert [cost.rows for cost in costs] == [1, 4, 12]
    assert [cost.run_s for cost in costs] == pytest.approx([0.0011, 0.0014, 0.0022])
    assert runner.rows.count(4) == 8, "seven count"


def test_the_first_run_of_each_size_does_not_count() -> None:
    machine = Machine()

    class Allocating(TimedRunner):
        def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
            if work.rows not in self.rows:
                machine.spend(1.0)
            return super().run(names, feeds, work)

    costs = run_costs(spec_of(rows=2), Allocating(machine, 0.001), machine.watch(100.0))
    assert [cost.run_s for cost in costs] == pytest.approx([0.001, 0.002])


def test_a_model_that_does_not_batch_is_measured_with_one_row() -> None:
    machine = Machine()
    costs = run_costs(spec_of(batching=None), TimedRunner(machine, 0.001), machine.watch(1.0))
    assert [cost.rows for cost in costs] == [1]


def test_measuring_ends_with_the_time() -> None:
    machine = Machine()
    runner = TimedRunner(machine, row_s=0.1)
    costs = run_costs(spec_of(rows=64), runner, machine.watch(1.0))
    assert [cost.rows for cost in costs] == [1, 4]
    assert machine.now_s == pytest.approx(1.1), "the run under way at the end is the last"
    slow = Machine()
    assert run_costs(spec_of(), TimedRunner(slow, row_s=5.0), slow.watch(1.0))[0].run_s == 5.0
    assert slow.runs() == 1


# --- layouts


def measured(
    machine: Machine,
    spec: ModelSpec,
    row_s: Mapping[int, float],
    *,
    budget: int = 4,
    may_multiply: bool = True,
    limit_s: float = 0.9,
    several_s: float | None = None,
) -> tuple[CpuLayout, list[float]]:
    """Measure a model whose rows take `row_s[threads]`, and `several_s` where all one-thread runners run at once."""
    first = TimedRunner(machine, row_s[1])

    def reopen(threads: int) -> TimedRunner:
        machine.spend(machine.opening_s)
        if threads == 1:
            machine.share = (several_s or row_s[1]) / row_s[1] / budget
        return TimedRunner(machine, row_s[threads])

    watch = machine.watch(limit_s)
    layout, costs = measure(spec, first, reopen, budget=budget, may_multiply=lambda: may_multiply, watch=watch)
    assert all(runner.closed for runner in machine.opened if runner is not first), "all but the first are closed"
    assert not first.closed
    return layout, [round(cost.run_s, 6) for cost in costs]


def test_a_small_model_runs_on_one_thread_and_nothing_else_is_tried() -> None:
    machine = Machine()
    layout, costs = measured(machine, spec_of(rows=2), {1: 0.0001})
    assert layout == CpuLayout(instances=1, threads=1)
    assert costs == [0.0001, 0.0002]
    assert len(machine.opened) == 1


def test_one_wide_session_is_chosen_where_threads_pay_and_its_costs_are_told() -> None:
    machine = Machine()
    layout, costs = measured(machine, spec_of(rows=2), {1: 0.010, 4: 0.003}, several_s=0.013)
    assert layout == CpuLayout(instances=1, threads=4)
    assert costs == [0.003, 0.006]
    assert len(machine.opened) == 5


def test_several_sessions_are_chosen_where_they_do_more_and_the_costs_are_of_one_thread() -> None:
    machine = Machine()
    layout, costs = measured(machine, spec_of(rows=2), {1: 0.010, 4: 0.005}, several_s=0.010)
    assert layout == CpuLayout(instances=4, threads=1)
    assert costs == [0.010, 0.020]


def test_several_sessions_are_not_tried_where_they_may_not_be() -> None:
    machine = Machine()
    layout, _ = measured(machine, spec_of(rows=2), {1: 0.010, 4: 0.005}, may_multiply=False)
    assert layout == CpuLayout(instances=1, threads=4)
    assert len(machine.opened) == 2


def test_several_sessions_are_not_tried_where_opening_them_takes_too_long() -> None:
    machine = Machine()
    machine.opening_s = 0.25
    layout, _ = measured(machine, spec_of(rows=2), {1: 0.010, 4: 0.005})
    assert layout == CpuLayout(instances=1, threads=4)
    assert len(machine.opened) == 2


def test_layouts_are_compared_at_batch_sizes_that_both_had_time_for() -> None:
    """One thread reaches 32 rows in time, all threads were slow to open and reach 4: they still do more at 4."""
    machine = Machine()
    machine.opening_s = 0.3
    layout, _ = measured(machine, spec_of(rows=32), {1: 0.0008, 4: 0.0005}, may_multiply=False)
    assert layout == CpuLayout(instances=1, threads=4)


def test_a_budget_of_one_leaves_nothing_to_choose() -> None:
    machine = Machine()
    layout, costs = measured(machine, spec_of(rows=1), {1: 0.050}, budget=1)
    assert layout == CpuLayout(instances=1, threads=1)
    assert costs == [0.050]


def test_unknown_sizes_leave_the_budget_and_no_costs() -> None:
    machine = Machine()
    assert measured(machine, spec_of(dims=(-1,)), {1: 0.1}) == (CpuLayout(instances=1, threads=4), [])
    assert machine.runs() == 0


def test_a_slow_model_is_not_measured_further() -> None:
    machine = Machine()
    assert measured(machine, spec_of(), {1: 3.0}) == (CpuLayout(instances=1, threads=4), [])
    assert machine.runs() == 1


@pytest.mark.parametrize(
    ("fields", "layout", "costs", "opened"),
    [
        ({"instance_groups": (InstanceGroup(2, "CPU"),)}, (2, 2), [0.006, 0.012], 2),
        ({"instance_groups": (InstanceGroup(4, "AUTO"),)}, (4, 1), [0.010, 0.020], 1),
        ({"session": SessionSettings(intra_op_threads=2)}, (2, 2), [0.006, 0.012], 2),
        ({"session": SessionSettings(intra_op_threads=1)}, (4, 1), [0.010, 0.020], 1),
    ],
)
def test_what_the_config_asks_for_is_measured_and_nothing_else(
    fields: dict[str, Any], layout: tuple[int, int], costs: list[float], opened: int
) -> None:
    machine = Machine()
    found = measured(machine, spec_of(rows=2, **fields), {1: 0.010, 2: 0.006})
    assert found == (CpuLayout(instances=layout[0], threads=layout[1]), costs)
    assert len(machine.opened) == opened


@pytest.mark.parametrize("row_s", [0.0001, 0.001, 0.005, 0.02, 0.05, 0.08, 0.1, 0.11, 0.2])
@pytest.mark.parametrize("rows", [1, 4, 64])
@pytest.mark.parametrize("budget", [2, 64])
def test_measuring_takes_about_as_long_as_it_may(row_s: float, rows: int, budget: int) -> None:
    machine = Machine()
    machine.opening_s = 0.02
    measured(machine, spec_of(rows=rows), {1: row_s, budget: row_s / 1.5}, budget=budget)
    assert machine.now_s <= 1.0


def test_a_session_that_cannot_be_opened_closes_those_before_it() -> None:
    machine = Machine()
    left = iter([2, 1, 1])

    def reopen(threads: int) -> TimedRunner:
        if next(left, None) is None:
            raise ExecutionError("no memory")
        return TimedRunner(machine, 0.010)

    first, watch = TimedRunner(machine, 0.010), machine.watch(0.9)
    with pytest.raises(ExecutionError, match="no memory"):
        measure(spec_of(rows=1), first, reopen, budget=4, may_multiply=lambda: True, watch=watch)
    assert [runner.closed for runner in machine.opened] == [False, True, True, True]
