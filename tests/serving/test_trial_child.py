"""The trial child as a process: hostile models, loops without end, memory, and what becomes of it without a daemon."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, helper
from onnx import numpy_helper as arrays

from runtime.repository.examine import needed_bytes
from runtime.repository.trial_process import TrialProcess, child_environment
from tests.serving import hostile
from tests.serving.hostile import HOSTILE, Hostile, model
from tests.serving.jobs import job_of, write

MIB = 1 << 20
CHILD = [sys.executable, "-m", "runtime.serving.trial"]
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


@pytest.fixture(scope="module")
def child() -> Iterator[TrialProcess]:
    trial = TrialProcess(CHILD, 1024 * MIB, 60.0)
    yield trial
    trial.close()


@pytest.mark.parametrize("case", HOSTILE, ids=str)
def test_the_child_refuses_what_means_harm_and_lives(case: Hostile, child: TrialProcess, tmp_path: Path) -> None:
    case.write(tmp_path / "m" / "1")
    verdict = child.try_model(job_of(tmp_path / "m"))
    assert verdict.stage == case.stage
    assert case.words in verdict.error
    assert str(tmp_path) not in verdict.error, "the reason goes to callers, who need not know where we keep files"
    assert child._child is not None
    assert child._child.is_alive()


@pytest.mark.parametrize(
    "content",
    [hostile.expand(), hostile.constant_of_shape(), hostile.gather(), hostile.divide()],
    ids=["expand", "constant of shape", "gather", "divide"],
)
def test_the_child_accepts_what_only_some_requests_break(
    content: ModelProto, child: TrialProcess, tmp_path: Path
) -> None:
    verdict = child.try_model(job_of(write(tmp_path, content)))
    assert not verdict.error


def test_four_tebibytes_are_refused_by_the_system_or_by_the_guard(child: TrialProcess, tmp_path: Path) -> None:
    """Where the system promises any amount (overcommit), the guard sees it being filled."""
    verdict = child.try_model(job_of(write(tmp_path, hostile.four_tebibytes())))
    assert verdict.stage in ("", "memory")


class Pace:
    """A clock that goes on by `step` each time it is read."""

    def __init__(self) -> None:
        self.step = 0.0
        self._now = 0.0

    def __call__(self) -> float:
        self._now += self.step
        return self._now


@pytest.mark.slow
def test_a_loop_without_end_is_ended_and_so_is_one_that_eats_memory(tmp_path: Path) -> None:
    pace = Pace()
    trial = TrialProcess(CHILD, 400 * MIB, 30.0, pace)
    try:
        assert not trial.try_model(job_of(write(tmp_path / "good", model([IDENTITY])))).error
        verdict = trial.try_model(job_of(write(tmp_path / "glutton", hostile.glutton(600))))
        assert verdict.stage == "memory"
        assert "MiB of memory, limit 400 MiB" in verdict.error
        assert not trial.try_model(job_of(tmp_path / "good")).error, "a fresh child"
        pace.step = 1.0
        verdict = trial.try_model(job_of(write(tmp_path / "endless", hostile.endless())))
        assert (verdict.stage, verdict.error) == ("crash", "the trial did not end within 30 s")
    finally:
        trial.close()


@pytest.mark.slow
def test_a_child_whose_daemon_died_ends_in_the_middle_of_a_trial(tmp_path: Path) -> None:
    job = msgspec.json.encode(job_of(write(tmp_path, hostile.endless())))
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=child_environment()) as process:
        assert process.stdin is not None
        try:
            process.stdin.write(job + b"\n")
            process.stdin.close()
            assert process.wait(60) == 0
        finally:
            process.kill()


@pytest.mark.slow
def test_a_fault_of_ours_ends_the_child_with_a_word() -> None:
    with subprocess.Popen(CHILD, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env=child_environment()) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"{}\n")
        process.stdin.flush()
        words = process.stderr.read().decode()
        assert process.wait(60) == 1
    assert "missing required field" in words
    assert "Fatal Python error" not in words


# --- memory


def weighty(mebibytes: int) -> ModelProto:
    """y = x + sum of that many MiB of weights."""
    weights = [arrays.from_array(np.ones((mebibytes << 18,), np.float32), "weights")]
    nodes = [
        helper.make_node("MatMul", ["row", "weights"], ["sum"]),
        helper.make_node("Add", ["x", "sum"], ["y"]),
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("ConstantOfShape", ["count"], ["row"]),
    ]
    order = [nodes[3], nodes[0], nodes[1]]
    count = arrays.from_array(np.array([mebibytes << 18], np.int64), "count")
    return model(order, weights=[*weights, count])


@pytest.mark.slow
def test_memory_is_counted_for_each_model_alone(child: TrialProcess, tmp_path: Path) -> None:
    large = child.try_model(job_of(write(tmp_path / "large", weighty(64))))
    small = child.try_model(job_of(write(tmp_path / "small", model([IDENTITY]))))
    twice = child.try_model(job_of(tmp_path / "large", "instance_group { count: 2 kind: KIND_CPU }"))
    assert not large.error
    assert 64 * MIB <= needed_bytes(large) < 400 * MIB
    assert needed_bytes(small) < 16 * MIB
    assert needed_bytes(twice) > 1.6 * needed_bytes(large)
    assert small.base_bytes < large.base_bytes + 32 * MIB, "the large model is gone"


@pytest.mark.slow
def test_the_parent_is_not_counted(tmp_path: Path) -> None:
    """A process that is started inherits its parent's greatest size in what getrusage says."""
    kept = bytearray(os.urandom(1 << 20)) * 300
    trial = TrialProcess(CHILD, 1024 * MIB, 60.0)
    try:
        verdict = trial.try_model(job_of(write(tmp_path, model([IDENTITY]))))
    finally:
        trial.close()
    assert len(kept) > 0
    assert needed_bytes(verdict) < 64 * MIB
