"""The classification extension: the top classes of an output as `value:index[:label]` strings."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.core.tensor import Array, TensorSpec


def classify(tensor: TensorSpec, array: Array, classes: int, *, batched: bool) -> Array:
    """The `classes` largest values of each batch element of a numeric output, largest first.

    Returns an object array of bytes, shape (rows, n) or (n,) with n = min(classes, elements per row).
    """
    values = _widened(array) if tensor.datatype == "BF16" else array
    rows = values.reshape(values.shape[0] if batched else 1, -1)
    count = min(classes, rows.shape[1])
    result = np.empty((rows.shape[0], count), dtype=object)
    for row, scores in enumerate(rows):
        result[row] = [_entry(tensor, scores[index], int(index)) for index in _descending(scores)[:count]]
    return result if batched else result[0]


def _descending(scores: NDArray[Any]) -> NDArray[np.intp]:
    """Indices from the largest value down; stable, so that equal values keep the order of their indices."""
    if np.issubdtype(scores.dtype, np.floating):
        return np.argsort(np.negative(scores), kind="stable")  # not a number comes last
    return np.argsort(
        np.invert(scores), kind="stable"
    )  # turns the order of integers around, where a minus could overflow


def _widened(bits: Array) -> Array:
    """BF16 bit patterns as numbers: they are the upper half of an FP32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _entry(tensor: TensorSpec, value: np.generic, index: int) -> bytes:
    text = f"{value:f}" if isinstance(value, np.floating) else str(int(value))
    label = f":{tensor.labels[index]}" if index < len(tensor.labels) else ""
    return f"{text}:{index}{label}".encode()
