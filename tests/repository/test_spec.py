"""From a completed config to a ModelSpec."""

from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import LoadFailed
from runtime.core.model import BatchPolicy, InstanceGroup, ModelSpec, ProviderChoice, QueuePolicy, SessionSettings
from runtime.core.tensor import TensorSpec
from runtime.core.verdict import GraphFacts
from runtime.repository.complete import complete
from runtime.repository.spec import make_spec
from tests.fakes.trial import MLP, graph, tensor
from tests.repository.configs import config


def spec_of(text: str, folder: Path = Path("/none"), facts: GraphFacts = MLP) -> ModelSpec:
    full = complete(config(text), facts, default_max_batch_size=4)
    return make_spec(full, facts, name="m", version=3, path=folder / "3" / "model.onnx", folder=folder)


def refusal(text: str, folder: Path = Path("/none"), facts: GraphFacts = MLP) -> str:
    with pytest.raises(LoadFailed) as caught:
        spec_of(text, folder, facts)
    assert str(caught.value).startswith("load failed for model 'm': ")
    return caught.value.reason


def test_a_model_without_config() -> None:
    spec = spec_of("")
    assert spec == ModelSpec(
        name="m",
        version=3,
        path=Path("/none/3/model.onnx"),
        inputs=(TensorSpec("x", "FP32", (4,)),),
        outputs=(TensorSpec("y", "FP32", (2,)),),
        max_batch_size=4,
        batching=BatchPolicy(),
    )


def test_dynamic_batching() -> None:
    spec = spec_of("""max_batch_size: 8
        dynamic_batching {
          preferred_batch_size: [ 8, 4, 4 ]
          max_queue_delay_microseconds: 1500
          priority_levels: 3
          default_priority_level: 2
          default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 100 max_queue_size: 7 }
          priority_queue_policy { key: 1 value { allow_timeout_override: true } }
        }""")
    assert spec.batching == BatchPolicy(
        preferred_batch_sizes=(4, 8),
        max_queue_delay_s=0.0015,
        priority_levels=3,
        default_priority_level=2,
        queue_policy=QueuePolicy("DELAY", 0.0001, allow_timeout_override=False, max_queue_size=7),
        priority_queue_policies={1: QueuePolicy(allow_timeout_override=True)},
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("preferred_batch_size: 9", "preferred_batch_size 9 is not within 1..max_batch_size 8"),
        ("preferred_batch_size: 0", "preferred_batch_size 0 is not within"),
        ("priority_levels: 2", "default_priority_level 0 is not within 1..priority_levels 2"),
        ("priority_levels: 2 default_priority_level: 3", "default_priority_level 3"),
        (
            "priority_levels: 2 default_priority_level: 1 priority_queue_policy { key: 3 value { } }",
            "priority_queue_policy is for level 3",
        ),
        ("preserve_ordering: true priority_levels: 2 default_priority_level: 1", "priority_levels is 2"),
        (
            "preserve_ordering: true default_queue_policy { timeout_action: DELAY default_timeout_microseconds: 1 }",
            "exclude each other",
        ),
        ("max_queue_delay_microseconds: 18446744073709551615", "max_queue_delay_microseconds 18446744073709551615"),
    ],
)
def test_dynamic_batching_out_of_range(text: str, words: str) -> None:
    assert words in refusal(f"max_batch_size: 8 dynamic_batching {{ {text} }}")


def test_the_batch_limit_has_a_limit() -> None:
    assert "max_batch_size 70000 is not within" in refusal("max_batch_size: 70000")


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("instance_group { }", ()),
        ("instance_group { count: 2 }", (InstanceGroup(2, "AUTO"),)),
        ("instance_group { kind: KIND_CPU }", (InstanceGroup(1, "CPU"),)),
        ("instance_group { kind: KIND_MODEL count: 3 }", (InstanceGroup(3, "AUTO"),)),
        ("instance_group { kind: KIND_GPU gpus: [ 0, 2 ] }", (InstanceGroup(1, "GPU", (0, 2)),)),
        ("instance_group { gpus: 1 }", (InstanceGroup(1, "GPU", (1,)),)),
    ],
)
def test_instance_groups(text: str, groups: tuple[InstanceGroup, ...]) -> None:
    assert spec_of(text).instance_groups == groups


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("count: -1", "count -1"),
        ("kind: KIND_CPU gpus: 0", "kind KIND_CPU but lists gpus [0]"),
        ("kind: KIND_GPU gpus: [ 1, 1 ]", "write each device index once"),
        ("kind: KIND_GPU gpus: -1", "write each device index once"),
        ("count: 300", "300 instances, limit 256"),
    ],
)
def test_instance_groups_out_of_range(text: str, words: str) -> None:
    assert words in refusal(f"instance_group {{ {text} }}")


def parameters(**values: str) -> str:
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()
    )


def test_session_settings() -> None:
    text = parameters(
        **{
            "intra_op_thread_count": "3",
            "inter_op_thread_count": "0",
            "execution_mode": "1",
            "enable_mem_arena": "false",
            "enable_mem_pattern": "0",
            "memory.enable_memory_arena_shrinkage": "cpu:0;gpu:0",
            "session.use_device_allocator_for_initializers": "1",
            "session.model_external_initializers_file_folder_path": "/etc",
            "unknown": "1",
        }
    )
    assert spec_of(f"{text} optimization {{ graph {{ level: -1 }} }}").session == SessionSettings(
        intra_op_threads=3,
        inter_op_threads=None,
        execution_mode="PARALLEL",
        graph_level=-1,
        enable_mem_arena=False,
        enable_mem_pattern=False,
        arena_shrinkage=True,
        entries={"session.use_device_allocator_for_initializers": "1"},
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("intra_op_thread_count", "-1"),
        ("intra_op_thread_count", "many"),
        ("inter_op_thread_count", "5000"),
        ("execution_mode", "2"),
        ("enable_mem_arena", "yes"),
        ("enable_mem_pattern", ""),
        ("memory.enable_memory_arena_shrinkage", "tpu:0"),
    ],
)
def test_session_settings_out_of_range(key: str, value: str) -> None:
    assert f"parameter {key} is {value!r}" in refusal(parameters(**{key: value}))


def test_the_graph_level_is_one_of_four() -> None:
    assert "graph level 3 is not one of [-1, 0, 1, 2]" in refusal("optimization { graph { level: 3 } }")


TENSORRT = """gpu_execution_accelerator [ { name: "tensorrt"
    parameters { key: "precision_mode" value: "FP16" }
    parameters { key: "max_workspace_size_bytes" value: "1024" }
    parameters { key: "trt_cuda_graph_enable" value: "true" } } ]"""
OPENVINO = 'cpu_execution_accelerator { name: "openvino" parameters { key: "num_streams" value: "2" } }'


def accelerated(text: str, more: str = "") -> tuple[ProviderChoice, ...]:
    return spec_of(f"optimization {{ execution_accelerators {{ {text} }} }} {more}").providers


def test_providers_follow_triton_in_their_order() -> None:
    tensorrt = {"trt_fp16_enable": "1", "trt_max_workspace_size": "1024", "trt_cuda_graph_enable": "1"}
    choices = (
        ProviderChoice("tensorrt", tensorrt),
        ProviderChoice("cuda"),
        ProviderChoice("openvino", {"num_streams": "2"}),
        ProviderChoice("cpu"),
    )
    assert accelerated(TENSORRT + OPENVINO) == choices
    assert accelerated(TENSORRT + OPENVINO, "instance_group { kind: KIND_CPU }") == choices[2:]
    assert accelerated("") == ()
    assert accelerated("", "instance_group { kind: KIND_CPU }") == (ProviderChoice("cpu"),)
    with_options = 'gpu_execution_accelerator { name: "cuda" parameters { key: "use_tf32" value: "false" } }'
    assert accelerated(with_options) == (ProviderChoice("cuda", {"use_tf32": "0"}), ProviderChoice("cpu"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('gpu_execution_accelerator { name: "openvino" }', "unknown gpu_execution_accelerator 'openvino'"),
        ('cpu_execution_accelerator { name: "xnnpack" }', "unknown cpu_execution_accelerator 'xnnpack'"),
        ('cpu_execution_accelerator [ { name: "openvino" }, { name: "openvino" } ]', "name one twice"),
        (TENSORRT.replace("FP16", "FP8"), "precision_mode 'FP8' is not one of"),
        (TENSORRT.replace("max_workspace_size_bytes", "x"), "unknown tensorrt parameter 'x'"),
        (TENSORRT.replace("max_workspace_size_bytes", "trt_extra_plugin_lib_paths"), "names a file or folder"),
        (TENSORRT.replace("max_workspace_size_bytes", "trt_engine_cache_path"), "names a file or folder"),
        ('gpu_execution_accelerator { name: "cuda" parameters { key: "user_compute_stream" value: "1" } }', "unknown"),
        (OPENVINO.replace("num_streams", "cache_dir"), "names a file or folder"),
    ],
)
def test_accelerators_that_are_refused(text: str, words: str) -> None:
    assert words in refusal(f"optimization {{ execution_accelerators {{ {text} }} }}")


@pytest.mark.parametrize(
    ("dims", "reshape", "is_right"),
    [
        ([2, 2], [4], True),
        ([1, 4], [4], True),
        ([-1, 2, 2], [-1, 4], True),
        ([2, 3], [4], False),
        ([4, -1], [-1, 4], False),
        ([-1, -1], [-1, -1], False),
    ],
)
def test_a_reshape_keeps_the_elements(dims: list[int], reshape: list[int], *, is_right: bool) -> None:
    facts = graph([tensor("x", reshape)], [tensor("y", (-1, 2))])
    text = f'input {{ name: "x" dims: {dims} reshape {{ shape: {reshape} }} }}'
    if is_right:
        assert spec_of(text, facts=facts).inputs == (TensorSpec("x", "FP32", tuple(dims), tuple(reshape)),)
    else:
        assert f"reshape {reshape} of dims {dims}" in refusal(text, facts=facts)


def test_a_format_needs_three_dims() -> None:
    assert "format FORMAT_NCHW, which needs 3 dims" in refusal('input { name: "x" format: FORMAT_NCHW }')


def test_sizes_below_minus_one_are_refused() -> None:
    facts = graph([tensor("x", None)], [tensor("y", (2,))])
    assert "dims [-2]" in refusal('input { name: "x" data_type: TYPE_FP32 dims: [ -2 ] }', facts=facts)


def test_labels_are_lines(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes("zwölf\r\n\neins\x0bzwei\n".encode())
    text = 'output { name: "y" label_filename: "labels.txt" }'
    assert spec_of(text, tmp_path).outputs[0].labels == ("zwölf", "", "eins\x0bzwei")
    (tmp_path / "labels.txt").write_bytes(b"a\n\xff\n")
    assert "label file 'labels.txt' is not UTF-8 text at byte 2" in refusal(text, tmp_path)
    (tmp_path / "labels.txt").unlink()
    assert "file 'labels.txt' does not exist" in refusal(text, tmp_path)
    assert "is not a plain relative path" in refusal(text.replace("labels.txt", "../labels.txt"), tmp_path)


def warmup(inputs: str, rest: str = "") -> str:
    return f'max_batch_size: 8 model_warmup {{ name: "w" {rest} inputs {{ key: "x" value {{ {inputs} }} }} }}'


FLOATS = "data_type: TYPE_FP32 dims: 4"


def test_warmup_with_zeros_and_seeded_random_values() -> None:
    (zeros,) = spec_of(warmup(f"{FLOATS} zero_data: true", "batch_size: 2 count: 5")).warmup
    assert (zeros.name, zeros.batch_size, zeros.count) == ("w", 2, 5)
    assert zeros.inputs["x"].tolist() == [0, 0, 0, 0]
    assert zeros.inputs["x"].dtype == np.float32
    (first,) = spec_of(warmup(f"{FLOATS} random_data: true")).warmup
    (second,) = spec_of(warmup(f"{FLOATS} random_data: true")).warmup
    assert (first.batch_size, first.count) == (1, 1)
    assert first.inputs["x"].tolist() == second.inputs["x"].tolist()
    assert 0 <= first.inputs["x"].min() < first.inputs["x"].max() <= 1


@pytest.mark.parametrize("datatype", ["BOOL", "INT64", "UINT8", "FP16", "FP64", "BF16", "BYTES"])
@pytest.mark.parametrize("source", ["zero_data", "random_data"])
def test_warmup_of_every_kind_of_type(datatype: str, source: str) -> None:
    facts = graph([tensor("x", (-1, 2, 3), datatype)], [tensor("y", (-1, 2))])
    kind = "TYPE_STRING" if datatype == "BYTES" else f"TYPE_{datatype}"
    (sample,) = spec_of(warmup(f"data_type: {kind} dims: [ 2, 3 ] {source}: true"), facts=facts).warmup
    assert sample.inputs["x"].shape == (2, 3)
    if datatype == "BYTES":
        assert all(isinstance(each, str) for each in sample.inputs["x"].ravel())


def test_warmup_without_a_batch_axis() -> None:
    facts = graph([tensor("x", (4,))], [tensor("y", (2,))])
    text = warmup(f"{FLOATS} zero_data: true", "batch_size: 1").replace("max_batch_size: 8", "")
    assert spec_of(text, facts=facts).warmup[0].batch_size == 0


def test_warmup_from_files(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    data = np.arange(4, dtype="<f4")
    (tmp_path / "warmup" / "x.bin").write_bytes(data.tobytes())
    text = warmup(f'{FLOATS} input_data_file: "x.bin"')
    assert spec_of(text, tmp_path).warmup[0].inputs["x"].tolist() == [0, 1, 2, 3]
    (tmp_path / "warmup" / "x.bin").write_bytes(b"123")
    assert "has 3 bytes, dims [4] want 16" in refusal(text, tmp_path)
    facts = graph([tensor("x", (-1, 2), "BYTES")], [tensor("y", (-1, 2))])
    (tmp_path / "warmup" / "x.bin").write_bytes(b"\x01\0\0\0a\x02\0\0\0bc")
    strings = warmup('data_type: TYPE_STRING dims: 2 input_data_file: "x.bin"')
    assert spec_of(strings, tmp_path, facts).warmup[0].inputs["x"].tolist() == ["a", "bc"]
    (tmp_path / "warmup" / "x.bin").write_bytes(b"\x01\0\0\0a\x02\0\0\0b")
    assert "exceeds the 1 left" in refusal(strings, tmp_path, facts)


@pytest.mark.parametrize(
    ("inputs", "rest", "words"),
    [
        (FLOATS, "", "says no data"),
        ("data_type: TYPE_INT8 dims: 4 zero_data: true", "", "write data_type: TYPE_FP32"),
        ("data_type: TYPE_FP32 dims: 5 zero_data: true", "", "the model wants [4]"),
        ("data_type: TYPE_FP32 dims: -1 zero_data: true", "", "the model wants [4]"),
        (f"{FLOATS} zero_data: true", "batch_size: 9", "batch_size 9, max_batch_size is 8"),
        (f"{FLOATS} zero_data: true", "count: 20000", "20000 runs, limit 10000"),
        (f'{FLOATS} input_data_file: "../x"', "", "is not a plain relative path"),
        (f'{FLOATS} input_data_file: "none"', "", "file 'none' does not exist"),
    ],
)
def test_warmup_that_is_refused(tmp_path: Path, inputs: str, rest: str, words: str) -> None:
    assert words in refusal(warmup(inputs, rest), tmp_path)


def test_warmup_names_the_models_inputs() -> None:
    text = warmup(f"{FLOATS} zero_data: true")
    assert "has inputs ['z'], the model's are ['x']" in refusal(text.replace('"x"', '"z"'))
    assert "lacks inputs ['x']" in refusal('model_warmup { name: "w" }')


def test_warmup_is_bounded_in_bytes() -> None:
    facts = graph([tensor("x", (-1, -1))], [tensor("y", (-1, 2))])
    huge = warmup("data_type: TYPE_FP32 dims: 1073741824 zero_data: true")
    assert "4294967296 bytes" in refusal(huge, facts=facts)
    batch = warmup("data_type: TYPE_FP32 dims: 16777216 zero_data: true", "batch_size: 8")
    assert "67108864 bytes, and 33554432 are left" in refusal(batch, facts=facts)
    half = warmup("data_type: TYPE_FP32 dims: 1048576 zero_data: true", "batch_size: 8")
    second = half.replace("max_batch_size: 8", "").replace("1048576", "58720257").replace("batch_size: 8", "")
    assert "234881028 bytes, and 234881024 are left" in refusal(half + second, facts=facts)
