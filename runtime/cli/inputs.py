"""Inputs of a request, from the command line: files, JSON, or made up from what the model says of itself.

Rules
- The model's metadata decides the data type of JSON values; a value that would change by conversion is refused.
- A .npy file is sent as it is; a wrong data type is the server's to refuse, with its reason.
- One axis less than the model wants, where its first one is free, means one row: the axis is added.
"""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import msgspec
import numpy as np

from runtime.cli.files import read_file
from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array, byte_count, decode_bytes, element_count

_RAW = re.compile(r"(?P<path>.+):(?P<datatype>[A-Z0-9]+):(?P<shape>\d+(?:[x,]\d+)*|)", re.DOTALL)
SEED = 0
RANDOM_INTEGERS = 100
"""Made-up integers are below this: small enough to be indices into most vocabularies."""


class TensorMetadata(Protocol):
    """An input, as the protocol's metadata tells it: shape with the batch axis, -1 for a free dimension."""

    @property
    def name(self) -> str:
        """Its name."""
        ...

    @property
    def datatype(self) -> str:
        """The protocol's data type."""
        ...

    @property
    def shape(self) -> Sequence[int]:
        """Sizes; -1 is free."""
        ...


def given(texts: Sequence[str], wanted: Sequence[TensorMetadata]) -> dict[str, Array]:
    """Read `--input` flags: NAME=@FILE.npy, NAME=@FILE:DATATYPE:SHAPE or NAME=JSON.

    Raises:
        InvalidRequest: a flag has another form, or names a file that cannot be read.
        InvalidTensor: no such input, or values that do not fit its data type.
    """
    by_name = {tensor.name: tensor for tensor in wanted}
    arrays: dict[str, Array] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidRequest(f"--input {text!r} is not NAME=@FILE.npy, NAME=@FILE:DATATYPE:SHAPE or NAME=JSON")
        if name not in by_name:
            raise InvalidTensor(f"there is no input '{name}', the model has {sorted(by_name)}")
        tensor = by_name[name]
        array = _marked(_from_file(value[1:], name), tensor) if value.startswith("@") else _from_json(value, tensor)
        arrays[name] = with_batch_axis(array, tensor.shape)
    return arrays


def made_up(
    wanted: Sequence[TensorMetadata], *, rows: int, shapes: Mapping[str, Sequence[int]], zeros: bool
) -> dict[str, Array]:
    """Make inputs: the first axis, where it is free, has `rows` rows; `shapes` are whole shapes by name.

    Random floats are within 0..1, integers below RANDOM_INTEGERS; the same ones in every run.

    Raises:
        InvalidRequest: a dimension is free and nothing says its size, or a shape is for no input.
    """
    if unknown := sorted(set(shapes) - {tensor.name for tensor in wanted}):
        raise InvalidRequest(f"--shape is for {unknown}, the model has {sorted(tensor.name for tensor in wanted)}")
    random = np.random.default_rng(SEED)
    arrays = {}
    for tensor in wanted:
        shape = list(shapes.get(tensor.name, tensor.shape))
        if shape and shape[0] == -1:
            shape[0] = rows
        if -1 in shape:
            free = "x".join("?" if size < 0 else str(size) for size in shape)
            raise InvalidRequest(
                f"input '{tensor.name}' has shape {list(tensor.shape)}: give --shape {tensor.name}={free}"
            )
        arrays[tensor.name] = _values(_dtype_of(tensor), shape, None if zeros else random)
    return arrays


def _values(dtype: "np.dtype[Any]", shape: Sequence[int], random: np.random.Generator | None) -> Array:
    if dtype.kind == "O":
        return np.full(shape, b"" if random is None else b"spillway", dtype)
    if random is None:
        return np.zeros(shape, dtype)
    if dtype.kind in "fV":
        return random.random(shape).astype(dtype)
    if dtype.kind == "b":
        return random.random(shape) < 0.5
    return random.integers(0, RANDOM_INTEGERS, shape).astype(dtype)


def with_batch_axis(array: Array, shape: Sequence[int]) -> Array:
    """Add an axis of one row where only that is missing."""
    is_row = bool(shape) and shape[0] == -1 and array.ndim == len(shape) - 1
    return array[np.newaxis] if is_row else array


def _from_file(place: str, name: str) -> Array:
    raw = _RAW.fullmatch(place)
    if raw is not None and raw["datatype"] in DATA_TYPES:
        shape = [int(size) for size in re.split("[x,]", raw["shape"])] if raw["shape"] else []
        return _from_raw(read_file(raw["path"]), name, raw["datatype"], shape)
    if not place.endswith(".npy"):
        raise InvalidRequest(f"input '{name}': {place} is no .npy file; for raw bytes write @{place}:FP32:1x3x224x224")
    content = read_file(place)
    try:
        array = np.load(io.BytesIO(content), allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise InvalidRequest(f"{place} is no .npy file of plain values: {error}") from error
    return np.asarray(array)


def _from_raw(content: bytes, name: str, datatype: str, shape: Sequence[int]) -> Array:
    if datatype == BYTES:
        elements = decode_bytes(content, element_count(shape), name)
        return np.fromiter(elements, object, len(elements)).reshape(shape)
    if len(content) != byte_count(datatype, shape):
        wanted = byte_count(datatype, shape)
        raise InvalidTensor(f"input '{name}': the file has {len(content)} bytes, {datatype} {list(shape)} has {wanted}")
    return np.frombuffer(content, DATA_TYPES[datatype].dtype).reshape(shape)


def _from_json(text: str, tensor: TensorMetadata) -> Array:
    try:
        value = msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidRequest(f"input '{tensor.name}': {text[:40]!r} is neither @FILE nor JSON ({error})") from error
    try:
        return _converted(value, tensor)
    except (ValueError, ArithmeticError, TypeError) as error:
        raise InvalidTensor(f"input '{tensor.name}' is {tensor.datatype}: {error}") from error


def _converted(value: Any, tensor: TensorMetadata) -> Array:
    array = np.array(value, dtype=object)  # lists of different lengths stay lists, which fit nothing
    wanted = _dtype_of(tensor)
    fitting = _FITS[wanted.kind]
    for element in array.flat:  # numpy would take 1.5 for 1, and text for a number
        if type(element) not in fitting:
            raise ValueError(f"{element!r} does not fit")
    with np.errstate(over="raise"):
        return array.astype(np.float64 if wanted.kind == "V" else wanted).astype(wanted)


_FITS: dict[str, set[type]] = {
    "b": {bool},
    "i": {int},
    "u": {int},
    "f": {int, float},
    "V": {int, float},  # what numpy takes bfloat16 for
    "O": {str},
}


def _dtype_of(tensor: TensorMetadata) -> "np.dtype[Any]":
    """The dtype that the client sends as the tensor's data type; numpy has none for BF16, ml_dtypes brings it."""
    if tensor.datatype not in DATA_TYPES:
        raise InvalidTensor(f"input '{tensor.name}' has data type {tensor.datatype}, known are {sorted(DATA_TYPES)}")
    if tensor.datatype != "BF16":
        return DATA_TYPES[tensor.datatype].dtype
    try:
        import ml_dtypes  # noqa: PLC0415 - only BF16 needs it, and the daemon does not
    except ImportError as error:
        raise InvalidRequest(f"input '{tensor.name}' is BF16: pip install ml_dtypes") from error
    bfloat16: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
    return bfloat16


def _marked(array: Array, tensor: TensorMetadata) -> Array:
    """Take two bytes without a meaning, as files hold BF16, for what the model wants; everything else stays."""
    is_bits = array.dtype.itemsize == 2 and array.dtype.kind in "Vu"
    return array.view(_dtype_of(tensor)) if tensor.datatype == "BF16" and is_bits else array
