"""The trial: verdicts on good and wrong models, in this process. Hostile ones are in test_trial_child.py."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, ValueInfoProto, helper
from onnx import numpy_helper as arrays

from runtime.core.verdict import CpuLayout, GraphTensor, Verdict
from runtime.repository.complete import complete
from runtime.serving.trial import try_model
from tests.repository.configs import config
from tests.serving import hostile
from tests.serving.hostile import SECRET, X, Y, model
from tests.serving.jobs import job_of, write

IDENTITY = helper.make_node("Identity", ["x"], ["y"])


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
    assert [cost.rows for cost in verdict.costs] == [1, 4]
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
