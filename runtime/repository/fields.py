"""What Spillway makes of each field of `ModelConfig`: every field is supported, refused, or a hint.

- Supported: it does what Triton's documentation says.
- Refused: it would change answers, and is not offered; the model is not loaded without it silently.
- Hint: it changes speed, memory or figures only; it is reported and skipped.

A test walks the descriptor, so a field that is new in `proto/` must be placed here first. Pure.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.message import Message

from runtime.wire.pb import model_config_pb2 as pb

FieldPath = tuple[tuple[str, int | str | None], ...]
"""Steps to one field: its name, and the index in a list, the key in a map, or None."""


def _below(prefix: str, names: str) -> Iterable[str]:
    return (f"{prefix}.{name}" for name in names.split())


SUPPORTED: frozenset[str] = frozenset(
    {
        *("name", "platform", "backend", "runtime", "max_batch_size", "default_model_filename"),
        *_below("version_policy", "latest.num_versions all specific.versions"),
        *_below("input", "name data_type format dims reshape.shape optional"),
        *_below("output", "name data_type dims label_filename reshape.shape"),
        *_below("instance_group", "name count kind gpus"),
        *_below("dynamic_batching", "preferred_batch_size max_queue_delay_microseconds preserve_ordering"),
        *_below("dynamic_batching", "priority_levels default_priority_level"),
        *(
            f"dynamic_batching.{policy}.{name}"
            for policy in ("default_queue_policy", "priority_queue_policy")
            for name in ("timeout_action", "default_timeout_microseconds", "allow_timeout_override", "max_queue_size")
        ),
        *_below("optimization", "graph.level"),
        *_below("optimization.execution_accelerators.gpu_execution_accelerator", "name parameters"),
        *_below("optimization.execution_accelerators.cpu_execution_accelerator", "name parameters"),
        "parameters.string_value",
        *_below("model_warmup", "name batch_size count"),
        *_below("model_warmup.inputs", "data_type dims zero_data random_data input_data_file"),
    }
)

REFUSED: Mapping[str, str] = {
    "sequence_batching": "models that keep state between requests are not supported",
    "ensemble_scheduling": "ensembles are not supported",
    "model_transaction_policy.decoupled": "an ONNX graph gives exactly one answer to each request",
    "input.allow_ragged_batch": "rows of different shape never share a batch here",
    "input.is_shape_tensor": "shape tensors are TensorRT's, not ONNX Runtime's",
    "input.is_non_linear_format_io": "non-linear formats are TensorRT's, not ONNX Runtime's",
    "output.is_shape_tensor": "shape tensors are TensorRT's, not ONNX Runtime's",
    "output.is_non_linear_format_io": "non-linear formats are TensorRT's, not ONNX Runtime's",
    "batch_input": "inputs made by the server are not supported",
    "batch_output": "outputs split by an input's shape are not supported",
    "cc_model_filenames": "one file serves all devices: use default_model_filename",
    "model_operations": "libraries of custom operators are not loaded",
    "model_repository_agents": "repository agents are not supported",
    "instance_group.passive": "an instance that gets no requests would answer none",
}

HINTS: Mapping[str, str] = {
    "instance_group.profile": "profiles are TensorRT's, not ONNX Runtime's",
    "instance_group.rate_limiter": "there is no rate limiter",
    "instance_group.secondary_devices": "there are no secondary devices",
    "instance_group.host_policy": "there are no host policies",
    "optimization.priority": "models have no priority over each other",
    "optimization.cuda": "CUDA graphs and streams are the server's choice",
    "optimization.input_pinned_memory": "pinned buffers are the server's choice",
    "optimization.output_pinned_memory": "pinned buffers are the server's choice",
    "optimization.gather_kernel_buffer_threshold": "inputs are gathered on the host",
    "optimization.eager_batching": "the device is taken first, the batch is cut second",
    "response_cache": "there is no response cache",
    "metric_tags": "metrics carry model and version only",
    "model_metrics": "histogram buckets are fixed",
}


@dataclass(frozen=True, slots=True)
class FieldUse:
    """A field that is set in a config and refused or skipped."""

    kind: Literal["refused", "hint"]
    name: str
    path: FieldPath
    reason: str


def field_uses(config: pb.ModelConfig) -> list[FieldUse]:
    """List the refused fields and the hints that a config sets, in the order of the message."""
    return list(_uses(config, "", ()))


def without_refused(config: pb.ModelConfig) -> pb.ModelConfig:
    """Return a copy without the refused fields."""
    clean = pb.ModelConfig()
    clean.CopyFrom(config)
    for use in field_uses(clean):
        if use.kind == "refused":
            _holder(clean, use.path[:-1]).ClearField(use.path[-1][0])
    return clean


def _holder(message: Any, path: FieldPath) -> Any:
    for name, selector in path:
        message = getattr(message, name) if selector is None else getattr(message, name)[selector]
    return message


def _uses(message: Message, prefix: str, path: FieldPath) -> Iterator[FieldUse]:
    for field, value in message.ListFields():
        name = f"{prefix}{field.name}"
        if name in REFUSED:
            yield FieldUse("refused", name, (*path, (field.name, None)), REFUSED[name])
        elif name in HINTS:
            if _says_something(value):
                yield FieldUse("hint", name, (*path, (field.name, None)), HINTS[name])
        elif field.message_type is not None:
            for selector, child in _children(value):
                yield from _uses(child, f"{name}.", (*path, (field.name, selector)))


def _says_something(value: object) -> bool:
    """Tell `response_cache { enable: false }` from one that wants something."""
    return value.ByteSize() > 0 if isinstance(value, Message) else True


def _children(value: object) -> Iterator[tuple[int | str | None, Message]]:
    """Messages inside a singular, repeated or map field, each with its selector."""
    if isinstance(value, Message):
        yield None, value
    elif isinstance(value, Mapping):
        yield from ((str(key), child) for key, child in value.items() if isinstance(child, Message))
    else:
        assert isinstance(value, Iterable)
        yield from enumerate(value)
