"""One ONNX Runtime session on one device: the only module that knows ONNX Runtime's Python interface.

Rules
- Foreign errors are turned into ours here, once.
- Plain `run` is the default: it is the cheapest call on the CPU (research/arch.md section 2). BF16 has no numpy type,
  so it travels as uint16 in OrtValues; on CUDA inputs and outputs are bound, so that copies use the device's stream.
- Threads never spin: the front shares the cores.
- A provider that cannot start is skipped with its reason; the caller decides whether the rest will do.
"""

import ctypes
import gc
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.core.errors import DeviceLost, ExecutionError
from runtime.core.model import ProviderChoice, SessionSettings
from runtime.core.tensor import BY_ONNX, Array
from runtime.core.verdict import GraphTensor
from runtime.serving.work import Work

# The official wheels keep a device id on disk and report sessions and models to Microsoft, unless they are told not to
# before they are loaded (Privacy.md in the wheel). What a node serves is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime as ort
except ImportError as missing:
    raise ImportError(
        "neither onnxruntime nor onnxruntime-gpu is installed: "
        "pip install 'spillway-runtime[cpu]' (any machine) or 'spillway-runtime[gpu]' (NVIDIA, CUDA 13)"
    ) from missing

log = logging.getLogger(__name__)

PROVIDERS = {
    "tensorrt": "TensorrtExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
    "cpu": "CPUExecutionProvider",
}
NOT_BUILT_IN = "not in the installed build of onnxruntime"
VERSION: str = ort.__version__
_LEVELS = {
    -1: ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    0: ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
    1: ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    2: ort.GraphOptimizationLevel.ORT_DISABLE_ALL,  # as Triton's onnxruntime backend reads it
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16
_LOST = (
    "CUDA failure",
    "CUDA error",
    "cudaError",
    "CUBLAS failure",
    "CUDNN failure",
    "device is lost",
    "TensorRT EP failed",
)
ort.set_default_logger_severity(3)  # its warnings about graphs are for model authors; errors come as exceptions


class SessionRunner:
    """A loaded session; implements `work.Runner`. It holds no state of a run: a GPU gets batches from two threads."""

    def __init__(self, session: Any, provider: str, settings: SessionSettings) -> None:
        self._session = session
        self._provider = provider
        self._shrink = settings.arena_shrinkage
        self._bfloat16 = any("bfloat16" in node.type for node in (*session.get_inputs(), *session.get_outputs()))
        self._bf16_inputs = {node.name for node in session.get_inputs() if "bfloat16" in node.type}

    @property
    def provider(self) -> str:
        """Short name of the execution provider that came first."""
        return self._provider

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        """Execute one batch; see `work.Runner`."""
        options = self._new_options()  # 0.2 us; a late `terminate` of the last batch must not reach this one
        work.stop = self._stopper(options)
        if work.dead:  # `terminate` came between the caller's look and this one
            options.terminate = True
        try:
            if self._bfloat16:
                return self._run_values(names, feeds, options)
            if self._provider in ("cuda", "tensorrt"):
                return self._run_bound(names, feeds, options)
            outputs: list[Array] = self._session.run(names, feeds, options)
        except Exception as error:  # ONNX Runtime has no common exception class: this is the boundary
            raise self._translated(error) from error
        return outputs

    def close(self) -> None:
        """Drop the session, so that its memory can go back."""
        self._session = None
        gc.collect()

    def graph(self) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
        """Inputs and outputs as the graph declares them."""
        return _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())

    def _run_values(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        values = {name: self._value(name, array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(names, values, options)]

    def _value(self, name: str, array: Array) -> Any:
        if name in self._bf16_inputs:
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array), _BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))

    def _run_bound(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        binding = self._session.io_binding()
        arrays = {name: np.ascontiguousarray(array) for name, array in feeds.items()}  # the binding keeps none alive
        for name, array in arrays.items():
            binding.bind_cpu_input(name, array)
        for name in names:
            binding.bind_output(name, "cpu")
        self._session.run_with_iobinding(binding, options)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def _new_options(self) -> Any:
        options = ort.RunOptions()
        if self._shrink:
            device = "gpu:0" if self._provider in ("cuda", "tensorrt") else "cpu:0"
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", device)
        return options

    def _stopper(self, options: Any) -> Any:
        def stop() -> None:
            options.terminate = True

        return stop

    def _translated(self, error: Exception) -> ExecutionError | DeviceLost:
        text = " ".join(str(error).split())[:500]
        if any(sign in text for sign in _LOST):
            return DeviceLost(f"device of provider {self._provider} is lost: {text}")
        return ExecutionError(f"onnx runtime error: {text}")


def open_session(
    path: Path, settings: SessionSettings, threads: int, providers: Sequence[ProviderChoice], device: int = 0
) -> tuple[SessionRunner, list[tuple[str, str]]]:
    """Load `path` on the first provider of `providers` that starts.

    Returns the runner and, for each provider skipped before it, its name and the reason. Blocking.

    Raises:
        ExecutionError: no provider could load the model; the text is ONNX Runtime's reason.
    """
    skipped: list[tuple[str, str]] = []
    for choice in providers:
        full_name = PROVIDERS.get(choice.name, choice.name)
        if full_name not in ort.get_available_providers():
            skipped.append((choice.name, NOT_BUILT_IN))
            continue
        try:
            session = _session(path, settings, threads, full_name, _options_of(choice, device))
        except Exception as error:  # noqa: BLE001 - the boundary again: any provider's own exceptions
            skipped.append((choice.name, " ".join(str(error).split())[:500]))
            continue
        if full_name not in session.get_providers():
            skipped.append((choice.name, "did not start; a library or the device is missing"))
            continue
        return SessionRunner(session, choice.name, settings), skipped
    raise ExecutionError("; ".join(f"{name}: {reason}" for name, reason in skipped) or "no provider configured")


def _session(path: Path, settings: SessionSettings, threads: int, provider: str, options: dict[str, str]) -> Any:
    session_options = ort.SessionOptions()
    session_options.intra_op_num_threads = threads
    session_options.inter_op_num_threads = settings.inter_op_threads or 1
    session_options.graph_optimization_level = _LEVELS[settings.graph_level]
    session_options.enable_cpu_mem_arena = settings.enable_mem_arena
    session_options.enable_mem_pattern = settings.enable_mem_pattern
    if settings.execution_mode == "PARALLEL":
        session_options.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    session_options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session_options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    for key, value in settings.entries.items():
        session_options.add_session_config_entry(key, value)
    names = [provider] if provider == PROVIDERS["cpu"] else [provider, PROVIDERS["cpu"]]
    all_options = [options] if len(names) == 1 else [options, {}]
    return ort.InferenceSession(
        str(path), session_options, providers=names, provider_options=all_options, enable_fallback=0
    )


def _options_of(choice: ProviderChoice, device: int) -> dict[str, str]:
    options = dict(choice.options)
    if choice.name in ("cuda", "tensorrt"):
        options.setdefault("device_id", str(device))
    return options


def _tensors(nodes: Sequence[Any]) -> tuple[GraphTensor, ...]:
    return tuple(
        GraphTensor(
            name=node.name,
            datatype=BY_ONNX[node.type].name if node.type in BY_ONNX else node.type,
            shape=tuple(dim if isinstance(dim, int) else -1 for dim in node.shape) if node.shape is not None else None,
        )
        for node in nodes
    )


def _array(value: Any) -> Array:
    """An output as numpy, BF16 as its bit patterns. Copied: the graph may hand an input through as it is."""
    if value.element_type() != _BFLOAT16:
        return np.array(value.numpy())
    shape = tuple(value.shape())
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, np.uint16).reshape(shape)
