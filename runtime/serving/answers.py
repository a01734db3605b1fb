"""A batch's outputs cut into each request's answer. Pure.

Rows are views of the batch's output arrays, which live as long as somebody holds one of them.
"""

from collections.abc import Sequence

from runtime.core.errors import ExecutionError
from runtime.core.inference import InferResult, OutputTensor
from runtime.core.model import ModelSpec
from runtime.core.tensor import BYTES, Array, TensorSpec
from runtime.serving.binding import Binding
from runtime.serving.classify import classify
from runtime.serving.work import Work


def answers(spec: ModelSpec, bindings: Sequence[Binding], work: Work) -> list[InferResult]:
    """One result per request of the batch, in order.

    Raises:
        ExecutionError: the outputs cannot be told apart, or are not what the config says; true for the whole batch.
    """
    by_name = dict(zip(work.names, work.outputs, strict=True))
    if spec.max_batch_size:
        _check_batch(spec, by_name, work.rows)
    results: list[InferResult] = []
    start = 0
    version = str(spec.version)
    for binding in bindings:
        rows = slice(start, start + binding.rows)
        start += binding.rows
        outputs = [_output(spec, slot.index, slot.classification, by_name, rows) for slot in binding.outputs]
        results.append(InferResult(spec.name, version, outputs))
    return results


def _check_batch(spec: ModelSpec, by_name: dict[str, Array], rows: int) -> None:
    for name, array in by_name.items():
        if array.ndim == 0 or array.shape[0] != rows:
            raise ExecutionError(
                f"output '{name}' of model '{spec.name}' has shape {list(array.shape)} for a batch of {rows}: its "
                "first axis is not the batch; set max_batch_size: 0"
            )


def _output(spec: ModelSpec, index: int, classes: int, by_name: dict[str, Array], rows: slice) -> OutputTensor:
    tensor = spec.outputs[index]
    array = by_name[tensor.name]
    if spec.max_batch_size:
        array = array[rows]
    if tensor.reshape is not None:
        array = _reshaped(spec, tensor, array)
    if classes:
        return OutputTensor(tensor.name, BYTES, classify(tensor, array, classes, batched=bool(spec.max_batch_size)))
    return OutputTensor(tensor.name, tensor.datatype, array)


def _reshaped(spec: ModelSpec, tensor: TensorSpec, array: Array) -> Array:
    """In `dims`, as the client sees them; at most one of them is free and filled by numpy."""
    shape = (array.shape[0], *tensor.dims) if spec.max_batch_size else tensor.dims
    try:
        return array.reshape(shape)
    except ValueError as error:
        raise ExecutionError(
            f"output '{tensor.name}' of model '{spec.name}' has shape {list(array.shape)}, "
            f"which does not reshape to {list(shape)}"
        ) from error
