"""How a config wants ONNX Runtime set up: `parameters`, `optimization.graph`, `optimization.execution_accelerators`.

Pure. Names and values are those of Triton's ONNX Runtime backend. Nothing here lets a config name a file or a library
that the process would open: such options are refused, or skipped and reported (`skipped_options`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Literal

from runtime.core.model import ProviderChoice, SessionSettings
from runtime.repository.scheduling import on_cpu_only
from runtime.wire.pb import model_config_pb2 as pb

MAX_THREADS = 1024

_GRAPH_LEVELS = (-1, 0, 1, 2)
_SHRINKAGE = re.compile(r"(?:cpu|gpu):[0-9]{1,3}(?:;(?:cpu|gpu):[0-9]{1,3})*")
_NAMES_A_FILE = re.compile(r"path|file|folder|directory|_dir\b|prefix")
_READ = frozenset(
    {
        "intra_op_thread_count",
        "inter_op_thread_count",
        "execution_mode",
        "enable_mem_arena",
        "enable_mem_pattern",
        "memory.enable_memory_arena_shrinkage",
    }
)

_TENSORRT = {
    "max_workspace_size_bytes": "trt_max_workspace_size",
    "int8_calibration_table_name": "trt_int8_calibration_table_name",
    "int8_use_native_calibration_table": "trt_int8_use_native_calibration_table",
}
_PRECISION = {"FP32": {}, "FP16": {"trt_fp16_enable": "1"}, "INT8": {"trt_int8_enable": "1"}}
_CUDA = frozenset(
    {
        "arena_extend_strategy",
        "cudnn_conv_algo_search",
        "cudnn_conv_use_max_workspace",
        "cudnn_conv1d_pad_to_nc1d",
        "do_copy_in_default_stream",
        "gpu_mem_limit",
        "prefer_nhwc",
        "use_ep_level_unified_stream",
        "use_tf32",
    }
)
_OPENVINO = frozenset(
    {"device_type", "precision", "num_of_threads", "num_streams", "disable_dynamic_shapes", "model_priority"}
)


def session_settings(config: pb.ModelConfig) -> SessionSettings:
    """Read the session options.

    Raises:
        ValueError: a value has the wrong form or is out of range.
    """
    values = {key: parameter.string_value.strip() for key, parameter in config.parameters.items()}
    level = config.optimization.graph.level
    if level not in _GRAPH_LEVELS:
        raise ValueError(f"optimization graph level {level} is not one of {list(_GRAPH_LEVELS)}")
    shrinkage = values.get("memory.enable_memory_arena_shrinkage", "")
    if shrinkage and not _SHRINKAGE.fullmatch(shrinkage):
        raise ValueError(f"parameter memory.enable_memory_arena_shrinkage is {shrinkage!r}: write cpu:0 or cpu:0;gpu:0")
    return SessionSettings(
        intra_op_threads=_count(values, "intra_op_thread_count"),
        inter_op_threads=_count(values, "inter_op_thread_count"),
        execution_mode=_execution_mode(values.get("execution_mode", "0")),
        graph_level=level,
        enable_mem_arena=_flag("enable_mem_arena", values.get("enable_mem_arena", "1")),
        enable_mem_pattern=_flag("enable_mem_pattern", values.get("enable_mem_pattern", "1")),
        arena_shrinkage=bool(shrinkage),
        entries={key: value for key, value in sorted(values.items()) if _handed_through(key)},
    )


def skipped_options(config: pb.ModelConfig) -> Iterator[tuple[str, str]]:
    """Yield the key of each parameter that has no effect here, and why."""
    for key in sorted(config.parameters):
        if key not in _READ and not _handed_through(key):
            known = key.startswith("session.")
            yield key, "it names a file" if known else "unknown here"


def _handed_through(key: str) -> bool:
    return key.startswith("session.") and not _NAMES_A_FILE.search(key)


def _count(values: Mapping[str, str], key: str) -> int | None:
    """A number of threads; None for 0 or nothing: the node chooses."""
    text = values.get(key, "0")
    if not re.fullmatch(r"[0-9]{1,9}", text) or int(text) > MAX_THREADS:
        raise ValueError(f"parameter {key} is {text!r}: write a number within 0..{MAX_THREADS}")
    return int(text) or None


def _flag(key: str, text: str) -> bool:
    if text.lower() not in ("0", "1", "true", "false"):
        raise ValueError(f"parameter {key} is {text!r}: write 0 or 1")
    return text.lower() in ("1", "true")


def _execution_mode(text: str) -> Literal["SEQUENTIAL", "PARALLEL"]:
    if text not in ("0", "1"):
        raise ValueError(f"parameter execution_mode is {text!r}: write 0 (sequential) or 1 (parallel)")
    return "PARALLEL" if text == "1" else "SEQUENTIAL"


def provider_choices(config: pb.ModelConfig) -> tuple[ProviderChoice, ...]:
    """Read the execution accelerators, in order of preference; empty lets the node choose.

    As in Triton, CUDA follows the other GPU accelerators and the plain CPU provider comes last. Instance groups that
    are all for the CPU leave the GPU's out.

    Raises:
        ValueError: an accelerator or one of its parameters is unknown.
    """
    accelerators = config.optimization.execution_accelerators
    gpu = [_choice("gpu", each) for each in accelerators.gpu_execution_accelerator]
    cpu = [_choice("cpu", each) for each in accelerators.cpu_execution_accelerator]
    if on_cpu_only(config):
        return _with_fallback(cpu, "cpu")
    if not gpu and not cpu:
        return ()
    return _with_fallback(gpu, "cuda") + _with_fallback(cpu, "cpu")


def _with_fallback(choices: list[ProviderChoice], name: str) -> tuple[ProviderChoice, ...]:
    names = [choice.name for choice in choices]
    if len(set(names)) != len(names):
        raise ValueError(f"execution accelerators {names} name one twice")
    return tuple(choices) if name in names else (*choices, ProviderChoice(name))


def _choice(device: str, accelerator: pb.ModelOptimizationPolicy.ExecutionAccelerators.Accelerator) -> ProviderChoice:
    readers: Mapping[str, Mapping[str, Callable[[str, str], dict[str, str]]]] = {
        "gpu": {"tensorrt": _tensorrt_option, "cuda": _cuda_option},
        "cpu": {"openvino": _openvino_option},
    }
    name = accelerator.name.lower()
    reader = readers[device].get(name)
    if reader is None:
        raise ValueError(
            f"unknown {device}_execution_accelerator {accelerator.name!r}, known are {sorted(readers[device])}"
        )
    options: dict[str, str] = {}
    for key, value in sorted(accelerator.parameters.items()):
        if _NAMES_A_FILE.search(key):
            raise ValueError(f"{name} parameter {key} names a file or folder, which a model's config may not")
        options |= reader(key, value)
    return ProviderChoice(name, options)


def _tensorrt_option(key: str, value: str) -> dict[str, str]:
    if key == "precision_mode":
        if value not in _PRECISION:
            raise ValueError(f"tensorrt precision_mode {value!r} is not one of {sorted(_PRECISION)}")
        return dict(_PRECISION[value])
    full = _TENSORRT.get(key, key)
    if not full.startswith("trt_"):
        raise ValueError(f"unknown tensorrt parameter {key!r}")
    return {full: _as_ort(value)}


def _cuda_option(key: str, value: str) -> dict[str, str]:
    if key not in _CUDA:
        raise ValueError(f"unknown cuda parameter {key!r}, known are {sorted(_CUDA)}")
    return {key: _as_ort(value)}


def _openvino_option(key: str, value: str) -> dict[str, str]:
    if key not in _OPENVINO:
        raise ValueError(f"unknown openvino parameter {key!r}, known are {sorted(_OPENVINO)}")
    return {key: value}


def _as_ort(value: str) -> str:
    """Triton takes true and false where ONNX Runtime wants 1 and 0."""
    return {"true": "1", "false": "0"}.get(value.lower(), value)
