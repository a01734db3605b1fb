"""A completed config and its graph, turned into the plain `ModelSpec` that serving obeys.

Pure, but that it reads label and warm-up files below the model's folder. Everything it refuses is the config's fault,
and the text names the field, the value and the limit.
"""

from collections.abc import Sequence
from pathlib import Path

from runtime.core.errors import LoadFailed
from runtime.core.model import ModelSpec
from runtime.core.tensor import BY_CONFIG, TensorSpec
from runtime.core.verdict import GraphFacts
from runtime.repository.disagree import disagreements
from runtime.repository.execution import provider_choices, session_settings
from runtime.repository.paths import resolve_below
from runtime.repository.scheduling import batch_policy, instance_groups
from runtime.repository.warmup import warmup_samples
from runtime.wire.pb import model_config_pb2 as pb

MAX_LABEL_BYTES = 16 << 20
MAX_BATCH_SIZE = 65_536

Tensor = pb.ModelInput | pb.ModelOutput


def make_spec(
    config: pb.ModelConfig, graph: GraphFacts, *, name: str, version: int, path: Path, folder: Path
) -> ModelSpec:
    """Make the spec of one version; `folder` is the model's folder, `path` its ONNX file.

    Raises:
        LoadFailed: a value is out of range, a file is missing, or the config contradicts the graph.
    """
    try:
        return _make_spec(config, graph, name=name, version=version, path=path, folder=folder)
    except ValueError as error:
        raise LoadFailed(name, str(error)) from error


def _make_spec(
    config: pb.ModelConfig, graph: GraphFacts, *, name: str, version: int, path: Path, folder: Path
) -> ModelSpec:
    if reasons := disagreements(config, graph):
        raise ValueError("; ".join(map(str, reasons)))
    if not 0 <= config.max_batch_size <= MAX_BATCH_SIZE:
        raise ValueError(f"max_batch_size {config.max_batch_size} is not within 0..{MAX_BATCH_SIZE}")
    inputs = tuple(_input_spec(entry) for entry in config.input)
    groups = instance_groups(config)
    return ModelSpec(
        name=name,
        version=version,
        path=path,
        inputs=inputs,
        outputs=tuple(_output_spec(entry, folder) for entry in config.output),
        max_batch_size=config.max_batch_size,
        batching=batch_policy(config),
        instance_groups=groups,
        providers=provider_choices(config),
        session=session_settings(config),
        warmup=warmup_samples(config, inputs, folder),
    )


def _input_spec(entry: pb.ModelInput) -> TensorSpec:
    if entry.format != pb.ModelInput.FORMAT_NONE and len(entry.dims) != 3:
        text = pb.ModelInput.Format.Name(entry.format)
        raise ValueError(f"input '{entry.name}' has format {text}, which needs 3 dims, and has {list(entry.dims)}")
    return TensorSpec(entry.name, _datatype(entry), _dims("input", entry), _reshape("input", entry), entry.optional)


def _output_spec(entry: pb.ModelOutput, folder: Path) -> TensorSpec:
    labels = _labels(folder, entry.label_filename) if entry.label_filename else ()
    return TensorSpec(entry.name, _datatype(entry), _dims("output", entry), _reshape("output", entry), labels=labels)


def _datatype(entry: Tensor) -> str:
    return BY_CONFIG[pb.DataType.Name(entry.data_type)].name


def _dims(kind: str, entry: Tensor) -> tuple[int, ...]:
    if not entry.dims or min(entry.dims) < -1:
        raise ValueError(f"{kind} '{entry.name}' has dims {list(entry.dims)}: write one or more sizes, -1 for any")
    return tuple(entry.dims)


def _reshape(kind: str, entry: Tensor) -> tuple[int, ...] | None:
    """The graph's shape where it differs; it must hold the same elements, whatever the variable size is."""
    if not entry.HasField("reshape"):
        return None
    shape = entry.reshape.shape
    text = f"{kind} '{entry.name}': reshape {list(shape)} of dims {list(entry.dims)}"
    if (shape and min(shape) < -1) or list(shape).count(-1) > 1:
        raise ValueError(f"{text} may have one variable size (-1) at most")
    if _fixed_parts(shape) != _fixed_parts(entry.dims):
        raise ValueError(f"{text} has another number of elements")
    return tuple(shape)


def _fixed_parts(shape: Sequence[int]) -> list[int]:
    """Element counts before, between and after the variable sizes: Triton's rule for a reshape that keeps the order."""
    parts = [1]
    for dim in shape:
        if dim == -1:
            parts.append(1)
        else:
            parts[-1] *= dim
    return parts


def _labels(folder: Path, name: str) -> tuple[str, ...]:
    """Class names, one a line, as in Triton; the line number is the class."""
    # Links were judged when the folder was digested, before anything of it is used.
    path = resolve_below(folder, name, follow_links=True)
    if (size := path.stat().st_size) > MAX_LABEL_BYTES:
        raise ValueError(f"label file '{name}' has {size} bytes, limit {MAX_LABEL_BYTES}")
    try:
        text = path.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"label file '{name}' is not UTF-8 text at byte {error.start}") from error
    lines = text.split("\n")  # not splitlines(): a label may hold other characters that Python takes for line ends
    return tuple(line.removesuffix("\r") for line in (lines if lines[-1] else lines[:-1]))
