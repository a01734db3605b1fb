"""A request's head bound to a model: checked once, then reused for every request with the same head.

Pure. All validation that needs no tensor bytes happens in `bind`, before the queue; what depends on the bytes
happens in `Binding.arrays`. Phrases follow Triton's where clients or people know them.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from runtime.core.errors import InvalidRequest, InvalidTensor
from runtime.core.inference import RequestHead, TensorHead
from runtime.core.model import ModelSpec
from runtime.core.tensor import BYTES, DATA_TYPES, Array, Buffer, TensorSpec, decode_bytes, element_count

ShapeKey = tuple[tuple[int, ...] | None, ...]
"""Shapes without the batch axis, in model order; None for an optional input left out. Only equal keys share a batch."""


@dataclass(frozen=True, slots=True)
class InputSlot:
    """How one input of the request becomes the array that the graph wants."""

    name: str
    source: int  # index into the request's buffers
    datatype: str
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]  # what the graph wants, with the batch axis
    elements: int
    nbytes: int  # -1 for BYTES

    def array(self, buffer: Buffer | Array) -> Array:
        """View `buffer` as this input; copies nothing but BYTES elements."""
        if isinstance(buffer, np.ndarray):
            return self._checked(buffer)
        if self.datatype == BYTES:
            return _text_array(decode_bytes(buffer, self.elements, self.name), self.name).reshape(self.shape)
        if len(buffer) != self.nbytes:
            raise InvalidTensor(
                f"input '{self.name}' has {len(buffer)} bytes, expected {self.nbytes} for {self.datatype} "
                f"{list(self.shape)}"
            )
        return np.frombuffer(buffer, self.dtype).reshape(self.shape)

    def _checked(self, array: Array) -> Array:
        if array.size != self.elements:
            raise InvalidTensor(f"input '{self.name}' has {array.size} elements, expected {self.elements}")
        if self.datatype == BYTES:
            return _text_array(array.ravel().tolist(), self.name).reshape(self.shape)
        if array.dtype != self.dtype:
            raise InvalidTensor(f"input '{self.name}' is an array of {array.dtype}, expected {self.dtype}")
        return array.reshape(self.shape)


@dataclass(frozen=True, slots=True)
class OutputSlot:
    """One output of the answer: its place among the model's outputs, and how many classes instead (0: the tensor)."""

    index: int
    classification: int


@dataclass(frozen=True, slots=True, eq=False)
class Binding:
    """A valid request of one model: `rows` batch elements of shapes `key`, answered by `outputs`.

    `fixed_nbytes` is the size of its inputs, -1 where BYTES are among them.
    """

    spec: ModelSpec
    inputs: tuple[InputSlot, ...]
    outputs: tuple[OutputSlot, ...]
    rows: int
    key: ShapeKey
    all_outputs: bool
    fixed_nbytes: int

    def arrays(self, buffers: Sequence[Buffer | Array]) -> dict[str, Array]:
        """The request's inputs by name, as views of its buffers.

        Raises:
            InvalidTensor: a buffer does not fit its shape and type.
        """
        if len(buffers) < len(self.inputs):
            raise InvalidTensor(
                f"expected {len(self.inputs)} input buffers for model '{self.spec.name}', got {len(buffers)}"
            )
        return {slot.name: slot.array(buffers[slot.source]) for slot in self.inputs}

    def nbytes(self, buffers: Sequence[Buffer | Array]) -> int:
        """Memory that the request holds while it waits."""
        if self.fixed_nbytes >= 0:
            return self.fixed_nbytes
        return sum(buffer.nbytes if isinstance(buffer, np.ndarray) else len(buffer) for buffer in buffers)


def bind(spec: ModelSpec, head: RequestHead) -> Binding:
    """Check `head` against `spec`.

    Raises:
        InvalidRequest, InvalidTensor: names the model, the tensor, what was expected and what came.
    """
    by_name = {tensor.name: index for index, tensor in enumerate(head.inputs)}
    _check_names(spec, head, by_name)
    slots: list[InputSlot] = []
    key: list[tuple[int, ...] | None] = []
    rows = 0
    for wanted in spec.inputs:
        index = by_name.get(wanted.name)
        if index is None:
            key.append(None)
            continue
        tensor = head.inputs[index]
        _check_tensor(spec, wanted, tensor)
        if spec.max_batch_size:
            rows = _check_rows(spec, tensor, rows)
        slot = _slot(spec, wanted, tensor, index)
        slots.append(slot)
        key.append(slot.shape[1:] if spec.max_batch_size else slot.shape)
    outputs = _outputs(spec, head)
    sizes = [slot.nbytes for slot in slots]
    nbytes = -1 if -1 in sizes else sum(sizes)
    return Binding(spec, tuple(slots), outputs, rows or 1, tuple(key), _is_all(spec, outputs), nbytes)


def _check_names(spec: ModelSpec, head: RequestHead, by_name: dict[str, int]) -> None:
    names = [tensor.name for tensor in head.inputs]
    if len(by_name) != len(names):
        twice = sorted({name for name in names if names.count(name) > 1})
        raise InvalidRequest(f"input {twice} given more than once for model '{spec.name}'")
    known = {tensor.name for tensor in spec.inputs}
    unexpected = [name for name in names if name not in known]
    missing = [tensor.name for tensor in spec.inputs if tensor.name not in by_name and not tensor.optional]
    if missing:
        raise InvalidRequest(
            f"expected {len(known)} inputs but got {len(names)} inputs for model '{spec.name}'. Got input(s) {names}, "
            f"but missing required input(s) {missing}. Please provide all required input(s)."
        )
    if unexpected:
        raise InvalidRequest(f"unexpected inference input {unexpected} for model '{spec.name}', it has {sorted(known)}")


def _check_tensor(spec: ModelSpec, wanted: TensorSpec, got: TensorHead) -> None:
    if got.datatype != wanted.datatype:
        raise InvalidTensor(
            f"inference input '{got.name}' data-type is '{got.datatype}', but model '{spec.name}' expects "
            f"'{wanted.datatype}'"
        )
    element_count(got.shape)
    expected = (-1, *wanted.dims) if spec.max_batch_size else wanted.dims
    fits = len(expected) == len(got.shape) and all(
        want in (-1, have) for want, have in zip(expected, got.shape, strict=True)
    )
    if not fits:
        raise InvalidTensor(
            f"unexpected shape for input '{got.name}' for model '{spec.name}'. "
            f"Expected {list(expected)}, got {list(got.shape)}"
        )


def _check_rows(spec: ModelSpec, got: TensorHead, rows: int) -> int:
    batch = got.shape[0]
    if not 1 <= batch <= spec.max_batch_size:
        raise InvalidTensor(
            f"inference request batch-size {batch} must be >= 1 and <= {spec.max_batch_size} for '{spec.name}'"
        )
    if rows and rows != batch:
        raise InvalidTensor(
            f"input '{got.name}' batch size {batch} does not match the other inputs' {rows} for '{spec.name}'"
        )
    return batch


def _slot(spec: ModelSpec, wanted: TensorSpec, got: TensorHead, index: int) -> InputSlot:
    shape = got.shape
    if wanted.reshape is not None:
        shape = graph_shape(got.shape, wanted.reshape, batched=bool(spec.max_batch_size))
    row = DATA_TYPES[wanted.datatype]
    elements = math.prod(got.shape)
    if math.prod(shape) != elements:
        raise InvalidTensor(
            f"input '{got.name}' of shape {list(got.shape)} does not reshape to {list(shape)} for model '{spec.name}'"
        )
    nbytes = -1 if row.name == BYTES else elements * row.size
    return InputSlot(wanted.name, index, row.name, row.dtype, shape, elements, nbytes)


def graph_shape(shape: tuple[int, ...], target: tuple[int, ...], *, batched: bool) -> tuple[int, ...]:
    """The shape for the graph: batch axis kept, one -1 in `target` filled from the element count."""
    lead = shape[:1] if batched else ()
    known = math.prod(dim for dim in target if dim != -1)
    rest = math.prod(shape[1:] if batched else shape)
    filled = rest // known if known else 0
    return (*lead, *(filled if dim == -1 else dim for dim in target))


def _outputs(spec: ModelSpec, head: RequestHead) -> tuple[OutputSlot, ...]:
    """Answer in the model's order; a doubled output is answered once, as Triton does."""
    if not head.outputs:
        return tuple(OutputSlot(index, 0) for index in range(len(spec.outputs)))
    index_of = {tensor.name: index for index, tensor in enumerate(spec.outputs)}
    chosen: dict[int, OutputSlot] = {}
    for wanted in head.outputs:
        index = index_of.get(wanted.name)
        if index is None:
            raise InvalidRequest(f"unexpected inference output '{wanted.name}' for model '{spec.name}'")
        if wanted.classification < 0:
            raise InvalidRequest(f"classification {wanted.classification} of output '{wanted.name}' must be > 0")
        if wanted.classification and spec.outputs[index].datatype == BYTES:
            raise InvalidRequest(f"classification of output '{wanted.name}' needs numbers, it is {BYTES}")
        chosen.setdefault(index, OutputSlot(index, wanted.classification))
    return tuple(chosen[index] for index in sorted(chosen))


def _is_all(spec: ModelSpec, outputs: tuple[OutputSlot, ...]) -> bool:
    return len(outputs) == len(spec.outputs) and not any(slot.classification for slot in outputs)


def _text_array(elements: Sequence[bytes | str], name: str) -> Array:
    """BYTES for ONNX Runtime: `str`, because it turns a `bytes` object into the text "b'...'" (research/oip.md)."""
    array = np.empty(len(elements), dtype=object)
    try:
        array[:] = [_text(element) for element in elements]
    except UnicodeError as error:
        raise InvalidTensor(
            f"input '{name}' holds an element that is not UTF-8 text ({error}); "
            "string tensors of ONNX models carry text only"
        ) from error
    except AttributeError as error:
        raise InvalidTensor(f"input '{name}' holds an element that is neither bytes nor text ({error})") from error
    return array


def _text(element: bytes | str) -> str:
    if not isinstance(element, str):
        return element.decode()
    if not element.isascii():
        element.encode()  # lone surrogates are no text: better refused here than in the middle of a batch
    return element
