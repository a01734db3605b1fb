"""The trial: verdicts on good, wrong and hostile models; the hostile ones in the real child."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as arrays

from runtime.core.verdict import CpuLayout, GraphTensor, TrialJob, Verdict
from runtime.repository.complete import complete
from runtime.repository.examine import needed_bytes
from runtime.repository.trial_process import TrialProcess, child_environment
from runtime.serving.trial import try_model
from tests.repository.configs import config
from tests.serving import hostile
from tests.serving.hostile import HOSTILE, SECRET, Hostile, X, Y, model

MIB = 1 << 20
CHILD = [sys.executable, "-m", "runtime.serving.trial"]
IDENTITY = helper.make_node("Identity", ["x"], ["y"])


def job_of(folder: Path, text: str = "", **fields: Any) -> TrialJob:
    settled: dict[str, Any] = {
        "path": str(folder / "1" / "model.onnx"),
        "folder": str(folder),
        "config": config(text, "m").SerializeToString(),
        "providers": ("cuda", "cpu"),
        "thread_budget": 2,
        "default_max_batch_size": 4,
        "probe_s": 0.02,
        **fields,
    }
    return TrialJob(model="m", version=1, **settled)


def write(folder: Path, content: ModelProto) -> Path:
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(content.SerializeToString())
    return folder


def tried(folder: Path, content: ModelProto, text: str = "", **fields: Any) -> Verdict:
    """The verdict on a model, in this process."""
    verdict = try_model(job_of(write(folder, content), text, **fields))
    assert msgspec.json.decode(msgspec.json.encode(verdict), type=Verdict) == verdict
    return verdict


def value(name: str, shape: Sequence[int | str] | None, element: int = TensorProto.FLOAT) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, element, shape)


# --- accepted


def test_a_good_model_is_described_and_measured(tmp_path: Path) -> None:
    verdict = tried(tmp_path, model([IDENTITY]), probe_s=0.05)
    assert (verdict.error, verdict.stage) == ("", "")
    assert verdict.provider == "cpu"
    assert [name for name, _ in verdict.skipped] == ["cuda"]
    assert verdict.graph is not None
    assert verdict.graph.inputs == (GraphTensor(name="x", datatype="FP32", shape=(-1, 4)),)
    assert verdict.graph.outputs == (GraphTensor(name="y", datatype="FP32", shape=(-1, 4)),)
    assert verdict.graph.weight_bytes == (tmp_path / "1" / "model.onnx").stat().st_size
    assert not verdict.graph.control_flow
    assert verdict.layout == CpuLayout(instances=1, threads=1)
    assert [cost.rows for cost in verdict.costs] == [1, 2, 4]
    assert all(0 < cost.run_s < 0.1 for cost in verdict.costs)
    assert verdict.load_s > 0
    assert verdict.runtime_versions.startswith("onnxruntime 1.")


def test_sizes_that_are_not_known_are_not_measured(tmp_path: Path) -> None:
    free = model([IDENTITY], [value("x", ["N", "W"])], [value("y", ["N", "W"])])
    verdict = tried(tmp_path, free, thread_budget=3)
    assert not verdict.error
    assert (verdict.layout, verdict.costs) == (CpuLayout(instances=1, threads=3), ())


def test_what_zeros_cannot_measure_is_accepted_without_costs(tmp_path: Path) -> None:
    pair = [value(name, ["N"], TensorProto.INT32) for name in "aby"]
    verdict = tried(tmp_path, model([helper.make_node("Div", ["a", "b"], ["y"])], pair[:2], pair[2:]))
    assert not verdict.error
    assert (verdict.layout, verdict.costs) == (CpuLayout(instances=1, threads=2), ())


def test_a_layout_that_the_config_asks_for(tmp_path: Path) -> None:
    verdict = tried(tmp_path, model([IDENTITY]), "instance_group { count: 3 kind: KIND_CPU }")
    assert verdict.layout == CpuLayout(instances=3, threads=1)
    assert [cost.rows for cost in verdict.costs][:1] == [1]


@pytest.mark.parametrize(
    ("inputs", "outputs", "expected"),
    [
        ([value("x", [])], [value("y", [])], ((), ())),
        ([value("x", ["N", 0])], [value("y", ["N", 0])], ((-1, 0), (-1, 0))),
        ([value("x", [-5, 4])], [value("y", [-5, 4])], ((-1, 4), (-1, 4))),
        ([value("x", [2, 3])], [value("y", None)], ((2, 3), (2, 3))),  # ONNX Runtime finds it out
    ],
    ids=["scalar", "zero size", "negative size", "rank inferred"],
)
def test_shapes_as_graphs_write_them(
    inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], expected: tuple[Any, Any], tmp_path: Path
) -> None:
    verdict = tried(tmp_path, model([IDENTITY], inputs, outputs))
    assert not verdict.error
    assert verdict.graph is not None
    assert (verdict.graph.inputs[0].shape, verdict.graph.outputs[0].shape) == expected


def test_an_output_of_unknown_rank(tmp_path: Path) -> None:
    shape = value("s", ["K"], TensorProto.INT64)
    reshape = helper.make_node("Reshape", ["x", "s"], ["y"])
    verdict = tried(tmp_path, model([reshape], [X, shape], [value("y", None)]))
    assert not verdict.error
    assert verdict.graph is not None
    assert verdict.graph.outputs[0].shape is None


@pytest.mark.parametrize("ir_version", [3, 8])
def test_an_input_that_has_a_value_already_is_none(tmp_path: Path, ir_version: int) -> None:
    """Old exporters list every weight among the inputs, too."""
    weights = [arrays.from_array(SECRET, "w")]
    verdict = tried(tmp_path, model([hostile.ADD], [X, value("w", [4])], [Y], weights, ir_version=ir_version))
    assert not verdict.error
    assert verdict.graph is not None
    assert [tensor.name for tensor in verdict.graph.inputs] == ["x"]


def test_a_model_without_inputs(tmp_path: Path) -> None:
    weights = [arrays.from_array(SECRET, "w")]
    identity = helper.make_node("Identity", ["w"], ["y"])
    verdict = tried(tmp_path, model([identity], [], [value("y", [4])], weights))
    assert not verdict.error


def test_external_data_behind_links_that_the_operator_allows(tmp_path: Path) -> None:
    """As a cache of downloads has it: both files are links into a folder of blobs."""
    blobs = tmp_path / "blobs"
    blobs.mkdir()
    (blobs / "1f").write_bytes(hostile.with_external("w.bin").SerializeToString())
    (blobs / "2e").write_bytes(SECRET.tobytes())
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").symlink_to(blobs / "1f")
    (tmp_path / "m" / "1" / "w.bin").symlink_to(blobs / "2e")
    assert not try_model(job_of(tmp_path / "m", allow_external_links=True)).error
    assert "follow_links is off" in try_model(job_of(tmp_path / "m")).error


# --- a first axis that is not the batch


def single_row() -> ModelProto:
    """The graph says that the first axis is free, and has one row built in."""
    shape = arrays.from_array(np.array([1, 4], np.int64), "shape")
    nodes = [helper.make_node("Reshape", ["x", "shape"], ["row"]), helper.make_node("Add", ["x", "row"], ["y"])]
    return model(nodes, weights=[shape])


def boxes() -> ModelProto:
    """As many rows out as it finds."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["found"]),
        helper.make_node("Transpose", ["found"], ["each"]),
        helper.make_node("Cast", ["each"], ["y"], to=TensorProto.FLOAT),
    ]
    return model(nodes, outputs=[value("y", ["boxes", 2])])


@pytest.mark.parametrize(
    ("content", "fault"),
    [(single_row(), "a batch of 2 rows fails, one row does not"), (boxes(), "output 'y' has shape [0, 2] for a batch")],
)
def test_such_a_model_is_served_without_a_batch(content: ModelProto, fault: str, tmp_path: Path) -> None:
    verdict = tried(tmp_path, content)
    assert not verdict.error
    assert verdict.graph is not None
    assert fault in verdict.graph.batch_fault
    full = complete(config(""), verdict.graph, default_max_batch_size=4)
    assert full.max_batch_size == 0
    assert list(full.input[0].dims) == [-1, 4]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("max_batch_size: 8", "max_batch_size is 8, but a batch of 2 rows fails, one row does not: onnx runtime error"),
        (
            'input { name: "x" data_type: TYPE_FP32 dims: 4 }',
            "the first axis is not the batch (a batch of 2 rows fails, one row does not: onnx runtime error",
        ),
    ],
)
def test_a_config_that_makes_it_the_batch_is_refused(text: str, words: str, tmp_path: Path) -> None:
    verdict = tried(tmp_path, single_row(), text)
    assert verdict.stage == "warm-up"
    assert words in verdict.error


# --- refused: what the protocol cannot carry, and configs


@pytest.mark.parametrize(
    ("nodes", "inputs", "outputs", "words"),
    [
        (
            [helper.make_node("SequenceAt", ["s", "at"], ["y"])],
            [helper.make_value_info("s", helper.make_sequence_type_proto(X.type)), value("at", [], TensorProto.INT64)],
            [Y],
            "input 's' is seq(tensor(float)) in the graph, which the protocol cannot carry",
        ),
        (
            [helper.make_node("SequenceConstruct", ["x"], ["s"])],
            [X],
            [helper.make_value_info("s", helper.make_sequence_type_proto(X.type))],
            "output 's' is seq(tensor(float)) in the graph, which the protocol cannot carry: list only the other",
        ),
        (
            [helper.make_node("OptionalGetElement", ["o"], ["y"])],
            [helper.make_value_info("o", helper.make_optional_type_proto(X.type))],
            [Y],
            "input 'o' is optional(tensor(float)) in the graph, which the protocol cannot carry",
        ),
        ([IDENTITY], [value("x", None)], [Y], "input 'x' has no known rank in the graph: write its dims"),
    ],
    ids=["sequence in", "sequence out", "optional", "unknown rank in"],
)
def test_inputs_and_outputs_that_no_request_could_hold(
    nodes: list[Any], inputs: list[ValueInfoProto], outputs: list[ValueInfoProto], words: str, tmp_path: Path
) -> None:
    verdict = tried(tmp_path, model(nodes, inputs, outputs))
    assert verdict.stage == "load"
    assert words in verdict.error
    assert verdict.graph is not None, "so that a config can be proposed"


def test_maps_which_classifiers_answer_with(tmp_path: Path) -> None:
    labels = helper.make_node("ZipMap", ["x"], ["z"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2, 3])
    mapped = helper.make_map_type_proto(TensorProto.INT64, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    whole = model([IDENTITY, labels], [X], [Y, helper.make_value_info("z", helper.make_sequence_type_proto(mapped))])
    whole.opset_import.append(helper.make_opsetid("ai.onnx.ml", 1))
    verdict = tried(tmp_path / "all", whole)
    assert verdict.stage == "load"
    assert "output 'z' is seq(map(int64,tensor(float))) in the graph" in verdict.error
    rest = tried(tmp_path / "one", whole, 'output { name: "y" }')
    assert not rest.error, "left out, it is in nobody's way"


FIRST = 'model_warmup { name: "first" inputs { key: "x" value { data_type: TYPE_FP32 %s } } }'


@pytest.mark.parametrize(
    ("text", "stage", "words"),
    [
        ('input { name: "z" data_type: TYPE_FP32 dims: 4 }', "load", "input 'z' is not in the graph"),
        ('input { name: "x" data_type: TYPE_INT8 dims: 4 }', "load", "write data_type: TYPE_FP32"),
        ('parameters { key: "intra_op_thread_count" value { string_value: "many" } }', "load", "write a number"),
        ('output { name: "y" label_filename: "none.txt" }', "load", "file 'none.txt' does not exist"),
        (
            FIRST % "dims: 5 zero_data: true",
            "load",
            "model_warmup 'first' input 'x' has dims [5]",
        ),
        (
            'parameters { key: "session.set_denormal_as_zero" value { string_value: "maybe" } }',
            "",
            "",
        ),
    ],
)
def test_configs(text: str, stage: str, words: str, tmp_path: Path) -> None:
    verdict = tried(tmp_path, model([IDENTITY]), text)
    assert verdict.stage == stage
    assert words in verdict.error


def test_a_warm_up_that_fails_is_refused_by_the_name_of_its_sample(tmp_path: Path) -> None:
    tensors = 'input { name: "x" data_type: TYPE_INT64 dims: -1 } output { name: "y" data_type: TYPE_FP32 dims: -1 }'
    sample = 'model_warmup { name: "%s" inputs { key: "x" value { data_type: TYPE_INT64 dims: 1 %s } } }'
    near, far = sample % ("near", "zero_data: true"), sample % ("far", 'input_data_file: "index"')
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "index").write_bytes(np.array([99], np.int64).tobytes())
    assert not tried(tmp_path, hostile.gather(), tensors + near).error
    verdict = try_model(job_of(tmp_path, tensors + near + far))
    assert verdict.stage == "warm-up"
    assert verdict.error.startswith("model_warmup 'far': onnx runtime error: ")
    assert "out of data bounds" in verdict.error


def test_a_provider_that_does_not_start_is_named_with_its_reason(tmp_path: Path) -> None:
    verdict = tried(tmp_path, model([IDENTITY]), providers=("openvino",))
    assert verdict.stage == "load"
    assert verdict.error == "openvino: not in the installed build of onnxruntime"


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    verdict = try_model(job_of(tmp_path))
    assert (verdict.stage, verdict.error) == ("check", "the file cannot be read: No such file or directory")


# --- hostile, in the real child


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
    [hostile.expand(), hostile.constant_of_shape(), hostile.gather(), hostile.divide(), hostile.four_tebibytes()],
    ids=["expand", "constant of shape", "gather", "divide", "four tebibytes"],
)
def test_the_child_accepts_what_only_some_requests_break(
    content: ModelProto, child: TrialProcess, tmp_path: Path
) -> None:
    verdict = child.try_model(job_of(write(tmp_path, content)))
    assert not verdict.error


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
