"""One ONNX Runtime session on one device: the only module that knows ONNX Runtime's Python interface.

Rules
- Foreign errors are turned into ours here, once.
- Plain `run` is the default: it is the cheapest call on the CPU (research/arch.md section 2). BF16 has no numpy type,
  so it travels as uint16 in OrtValues; on CUDA inputs and outputs are bound, in page-locked host memory where there is
  some: the device copies it without a detour. (Written from ONNX Runtime's sources and run with plain memory on a CPU;
  tests/serving/test_gpu.py is what a machine with a GPU has to say about it.)
- Threads never spin: the front shares the cores.
- A provider that cannot start is skipped with its reason; the caller decides whether the rest will do.
"""

import ctypes
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.core.errors import ConfigError, DeviceLost, ExecutionError
from runtime.core.model import ProviderChoice, SessionSettings
from runtime.core.tensor import BY_ONNX, Array
from runtime.core.verdict import GraphTensor
from runtime.serving.work import Work

# The official wheels keep a device id on disk and report sessions and models to Microsoft, unless they are told not to
# before they are loaded (Privacy.md in the wheel). What a node serves is nobody else's business.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

try:
    import onnxruntime as ort
    from onnxruntime.capi import _pybind_state as _native
except ImportError as missing:
    raise ConfigError(
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
_GPU = ("cuda", "tensorrt")
_HOST_ACCESSIBLE, _NVIDIA = 5, 0x10DE  # OrtDevice::MemType and VendorIds; Python has no names for them
_NOISE = re.compile(r".*\[ONNXRuntimeError\] : \d+ : \w+ : |\S*onnxruntime/core/\S+:\d+ ")
"""Codes and places in its sources, which ONNX Runtime puts before what it has to say."""
ort.set_default_logger_severity(4)  # what it would print comes as an exception, or is for model authors


class SessionRunner:
    """A loaded session; implements `work.Runner`. It holds no state of a run: a GPU gets batches from two threads."""

    def __init__(self, session: Any, provider: str, settings: SessionSettings, device: int = 0) -> None:
        self._session = session
        self._provider = provider
        self._shrink = settings.arena_shrinkage
        self._device = device if provider in _GPU else -1
        types = {node.type for node in (*session.get_inputs(), *session.get_outputs())}
        self._bfloat16 = "tensor(bfloat16)" in types
        self._bf16_inputs = {node.name for node in session.get_inputs() if "bfloat16" in node.type}
        self._host_memory = _host_memory(session, self._device) if self._device >= 0 else None
        self._host_memory_works = False
        self._bound = provider in _GPU and "tensor(string)" not in types  # text is no memory that could be bound

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
            if self._bound:
                return self._run_bound(names, feeds, options)
            outputs: list[Array] = self._session.run(names, feeds, options)
        except Exception as error:  # ONNX Runtime has no common exception class: this is the boundary
            raise self._translated(error) from error
        return outputs

    def close(self) -> None:
        """Drop the session, so that its memory can go back.

        It is in no cycle, so it goes at once. A run of the garbage collector would hold the interpreter lock for 40 ms,
        and stopping with hundreds of models loaded would take half a minute.
        """
        self._session = None

    def graph(self) -> tuple[tuple[GraphTensor, ...], tuple[GraphTensor, ...]]:
        """Inputs and outputs as the graph declares them."""
        return _tensors(self._session.get_inputs()), _tensors(self._session.get_outputs())

    def _run_values(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        values = {name: self._value(name, array) for name, array in feeds.items()}
        return [_array(value) for value in self._session.run_with_ort_values(names, values, options)]

    def _value(self, name: str, array: Array) -> Any:
        whole = np.asarray(array, order="C")
        if name in self._bf16_inputs:
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(whole, _BFLOAT16)
        return ort.OrtValue.ortvalue_from_numpy(whole)

    def _run_bound(self, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        """Run with bound inputs and outputs, in page-locked memory if that works: the first run shows it."""
        if self._host_memory is not None:
            try:
                outputs = self._run_in(self._host_memory, names, feeds, options)
            except Exception as error:
                if self._host_memory_works:
                    raise
                outputs = self._run_in(None, names, feeds, options)  # raises too where the input is at fault
                log.warning("page-locked memory not used", extra={"error": _told(error)})
                self._host_memory = None
            else:
                self._host_memory_works = True
            return outputs
        return self._run_in(None, names, feeds, options)

    def _run_in(self, memory: Any, names: Sequence[str], feeds: Mapping[str, Array], options: Any) -> list[Array]:
        binding = self._session.io_binding()
        for name, array in feeds.items():
            if memory is None:
                binding.bind_cpu_input(name, np.asarray(array, order="C"))
            else:
                lent = _allocate(self._session, array.shape, array.dtype, memory)
                lent.numpy()[...] = array
                binding.bind_ortvalue_input(name, ort.OrtValue(lent))
        for name in names:
            if memory is None:
                binding.bind_output(name, "cpu")
            else:
                binding._iobinding.bind_output(name, memory)  # noqa: SLF001 - as in _allocate
        self._session.run_with_iobinding(binding, options)
        outputs: list[Array] = binding.copy_outputs_to_cpu()
        return outputs

    def _new_options(self) -> Any:
        options = ort.RunOptions()
        if self._shrink:
            device = f"gpu:{self._device}" if self._device >= 0 else "cpu:0"
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", device)
        return options

    def _stopper(self, options: Any) -> Any:
        def stop() -> None:
            options.terminate = True

        return stop

    def _translated(self, error: Exception) -> ExecutionError | DeviceLost:
        whole = str(error)
        if any(sign in whole for sign in _LOST) and "out of memory" not in whole:
            return DeviceLost(f"device of provider {self._provider} is lost: {_told(error)}")
        return ExecutionError(f"onnx runtime error: {_told(error)}")


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
            options = _options_of(choice, device)
            session = _session(path, settings, threads, full_name, options)
        except Exception as error:  # noqa: BLE001 - the boundary again: any provider's own exceptions
            skipped.append((choice.name, _told(error).replace(str(path), path.name)))
            continue
        if full_name not in session.get_providers():
            skipped.append((choice.name, "did not start; a library or the device is missing"))
            continue
        return SessionRunner(session, choice.name, settings, int(options.get("device_id", device))), skipped
    tried = [(name, reason) for name, reason in skipped if reason != NOT_BUILT_IN] or skipped
    raise ExecutionError("; ".join(f"{name}: {reason}" for name, reason in tried) or "no provider configured")


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


def _host_memory(session: Any, device: int) -> Any:
    """Host memory that GPU `device` reads and writes itself (page-locked); None where this build gives us none."""
    try:
        memory = _native.OrtDevice(_native.OrtDevice.gpu(), _HOST_ACCESSIBLE, _NVIDIA, device)
        _allocate(session, (1,), np.dtype(np.uint8), memory).numpy()
    except Exception as error:  # noqa: BLE001 - an older or newer build may lack any of this
        log.info("no page-locked memory", extra={"device": device, "error": _told(error)})
        return None
    return memory


def _allocate(session: Any, shape: Sequence[int], dtype: np.dtype[Any], memory: Any) -> Any:
    """A tensor in `memory`; past the public wrapper, which only knows a device's own memory."""
    return session._sess.create_ortvalue_from_shape_and_type(list(shape), dtype, memory)  # noqa: SLF001 - see above


def _told(error: Exception) -> str:
    """What ONNX Runtime has to say, in one line."""
    return _NOISE.sub("", " ".join(str(error).split()))[:500]


def _options_of(choice: ProviderChoice, device: int) -> dict[str, str]:
    options = dict(choice.options)
    if choice.name in _GPU:
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
