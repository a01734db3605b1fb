"""`model_warmup` of a config, turned into arrays: zeros, seeded random values, or a file below MODEL/warmup.

Reads those files and nothing else. Samples are made once at load, so they are bounded; every refusal is a `ValueError`
that names the sample.
"""

from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np

from runtime.core.errors import InvalidTensor
from runtime.core.model import WarmupSample
from runtime.core.tensor import BY_CONFIG, BYTES, DATA_TYPES, Array, TensorSpec, decode_bytes
from runtime.repository.paths import resolve_below
from runtime.wire.pb import model_config_pb2 as pb

WARMUP_FOLDER = "warmup"
MAX_RUNS = 10_000
MAX_BYTES = 256 << 20
"""All samples of a model together, at their full batch size."""

_SEED = 0


def warmup_samples(config: pb.ModelConfig, inputs: Sequence[TensorSpec], folder: Path) -> tuple[WarmupSample, ...]:
    """Make the samples of a model whose `inputs` have the config's shapes (without the batch axis)."""
    samples = []
    room = MAX_BYTES
    for index, entry in enumerate(config.model_warmup):
        label = f"model_warmup '{entry.name or index}'"
        rows = _rows(label, entry, config.max_batch_size)
        arrays = _arrays(label, entry, inputs, folder, room // max(1, rows))
        room -= rows * sum(array.nbytes for array in arrays.values())
        samples.append(WarmupSample(entry.name or str(index), rows, max(1, entry.count), arrays))
    if (runs := sum(sample.count for sample in samples)) > MAX_RUNS:
        raise ValueError(f"model_warmup asks for {runs} runs, limit {MAX_RUNS}")
    return tuple(samples)


def _rows(label: str, entry: pb.ModelWarmup, max_batch_size: int) -> int:
    """Rows of each run; 0 for a model without a batch axis."""
    if entry.batch_size > max(1, max_batch_size):
        raise ValueError(f"{label} has batch_size {entry.batch_size}, max_batch_size is {max_batch_size}")
    return max(1, entry.batch_size) if max_batch_size else 0


def _arrays(
    label: str, entry: pb.ModelWarmup, inputs: Sequence[TensorSpec], folder: Path, room: int
) -> dict[str, Array]:
    known = {tensor.name for tensor in inputs}
    if unknown := sorted(set(entry.inputs) - known):
        raise ValueError(f"{label} has inputs {unknown}, the model's are {sorted(known)}")
    if missing := [tensor.name for tensor in inputs if not tensor.optional and tensor.name not in entry.inputs]:
        raise ValueError(f"{label} lacks inputs {missing}")
    arrays: dict[str, Array] = {}
    for tensor in inputs:
        if tensor.name not in entry.inputs:
            continue
        text = f"{label} input '{tensor.name}'"
        arrays[tensor.name] = _array(text, entry.inputs[tensor.name], tensor, folder, room)
        room -= arrays[tensor.name].nbytes
    return arrays


def _array(label: str, entry: pb.ModelWarmup.Input, tensor: TensorSpec, folder: Path, room: int) -> Array:
    row = BY_CONFIG.get(pb.DataType.Name(entry.data_type))
    if row is None or row.name != tensor.datatype:
        raise ValueError(f"{label} is not of the model's type: write data_type: {DATA_TYPES[tensor.datatype].config}")
    dims = tuple(entry.dims)
    fits = len(dims) == len(tensor.dims) and all(
        want in (-1, have) for want, have in zip(tensor.dims, dims, strict=True)
    )
    if not fits or min(dims, default=0) < 0:
        raise ValueError(f"{label} has dims {list(dims)}, the model wants {list(tensor.dims)} with every size stated")
    nbytes = prod(dims) * row.dtype.itemsize
    if nbytes > room:
        raise ValueError(f"{label} has {nbytes} bytes, and {room} are left of {MAX_BYTES} for all samples")
    match entry.WhichOneof("input_data_type"):
        case "input_data_file":
            return _from_file(label, folder, entry.input_data_file, tensor.datatype, dims)
        case "random_data":
            return _random(tensor.datatype, dims)
        case "zero_data":
            return _zeros(tensor.datatype, dims)
    raise ValueError(f"{label} says no data: write zero_data, random_data or input_data_file")


def _zeros(datatype: str, dims: tuple[int, ...]) -> Array:
    if datatype == BYTES:
        return np.full(dims, "", dtype=object)
    return np.zeros(dims, DATA_TYPES[datatype].dtype)


def _random(datatype: str, dims: tuple[int, ...]) -> Array:
    """Floats in 0..1, else 0 or 1: values that stay in range where the input is an index or a mask."""
    generator = np.random.default_rng(_SEED)
    if datatype == BYTES:
        return generator.integers(0, 2, dims).astype(str).astype(object)
    if datatype == "BF16":  # the upper half of an FP32 is its BF16, cut off
        floats: Array = np.asarray(generator.random(dims, np.float32))
        return np.asarray(floats.view(np.uint32) >> 16, np.uint16)
    if datatype.startswith("FP"):
        return np.asarray(generator.random(dims), DATA_TYPES[datatype].dtype)
    return np.asarray(generator.integers(0, 2, dims), DATA_TYPES[datatype].dtype)


def _from_file(label: str, folder: Path, name: str, datatype: str, dims: tuple[int, ...]) -> Array:
    """Raw bytes as on the wire."""
    # Links were judged when the folder was digested, before anything of it is used.
    path = resolve_below(folder / WARMUP_FOLDER, name, follow_links=True)
    if (size := path.stat().st_size) > MAX_BYTES:
        raise ValueError(f"{label}: file '{name}' has {size} bytes, limit {MAX_BYTES}")
    raw = path.read_bytes()
    if datatype == BYTES:
        try:
            elements = [element.decode() for element in decode_bytes(raw, prod(dims), name)]
        except (InvalidTensor, UnicodeDecodeError) as error:
            raise ValueError(f"{label}: file '{name}': {error}") from error
        array = np.empty(len(elements), dtype=object)
        array[:] = elements
        return array.reshape(dims)
    wanted = prod(dims) * DATA_TYPES[datatype].size
    if len(raw) != wanted:
        raise ValueError(f"{label}: file '{name}' has {len(raw)} bytes, dims {list(dims)} want {wanted}")
    return np.frombuffer(raw, DATA_TYPES[datatype].dtype).reshape(dims)
