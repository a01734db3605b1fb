"""What a model is to this node: its tensors, and how it wants to be scheduled and run.

A `ModelSpec` is what `config.pbtxt` says, completed from the graph, in plain values. `repository/` makes it,
`serving/` obeys it; neither the protobuf message nor the ONNX graph is seen past it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.core.tensor import Array, TensorSpec


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """Triton's ModelQueuePolicy: when a waiting request is given up. 0 means none."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_s: float = 0.0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """Triton's ModelDynamicBatching. `priority_levels` 0 means no priorities; else 1 is the highest.

    `max_queue_delay_s` counts from the arrival of the oldest waiting request. `preferred_batch_sizes` is ascending.
    `priority_queue_policies` overrides `queue_policy` for some levels.
    """

    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_s: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0
    default_priority_level: int = 0
    queue_policy: QueuePolicy = QueuePolicy()
    priority_queue_policies: Mapping[int, QueuePolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """Triton's ModelInstanceGroup: `count` instances on each of `gpus` (none: all of them), or on the CPU.

    `AUTO`: on GPUs where the provider that started is one of theirs, else on the CPU.
    """

    count: int
    kind: Literal["AUTO", "CPU", "GPU"]
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ProviderChoice:
    """An ONNX Runtime execution provider with its options, by short name: `tensorrt`, `cuda`, `openvino`, `cpu`."""

    name: str
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SessionSettings:
    """ONNX Runtime session options from `parameters` and `optimization` of the config.

    `intra_op_threads` None lets the node choose by measurement within its thread budget. `graph_level` is -1 (basic),
    0 (all; the default), 1 (extended) or 2 (none), as Triton's `optimization.graph.level`; `entries` are
    `session.*` keys handed through.
    """

    intra_op_threads: int | None = None
    inter_op_threads: int | None = None
    execution_mode: Literal["SEQUENTIAL", "PARALLEL"] = "SEQUENTIAL"
    graph_level: int = 0
    enable_mem_arena: bool = True
    enable_mem_pattern: bool = True
    arena_shrinkage: bool = False
    entries: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WarmupSample:
    """One `model_warmup` entry: `count` runs of a batch of `batch_size`; arrays without the batch axis."""

    name: str
    batch_size: int
    count: int
    inputs: Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """One version of one model, ready to be loaded.

    `max_batch_size` 0 means that the model does not batch and `dims` are full shapes. `batching` None means that each
    request runs alone even if `max_batch_size` > 0 allows a batch axis (Triton: no `dynamic_batching`).
    `instance_groups` empty and `providers` empty let the node choose. `path` is the ONNX file.
    """

    name: str
    version: int
    path: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch_size: int = 0
    batching: BatchPolicy | None = None
    instance_groups: tuple[InstanceGroup, ...] = ()
    providers: tuple[ProviderChoice, ...] = ()
    session: SessionSettings = SessionSettings()
    warmup: tuple[WarmupSample, ...] = ()
