"""Where a config contradicts its graph, said so that the operator can mend it. Pure.

The classic mistake is the batch axis: with `max_batch_size` above 0 `dims` leave it out, with 0 they are the full
shape. Every message about dims therefore shows both shapes and the line that would be right.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from runtime.core.tensor import DATA_TYPES
from runtime.core.verdict import GraphFacts, GraphTensor
from runtime.wire.pb import model_config_pb2 as pb

Tensor = pb.ModelInput | pb.ModelOutput


Part = Literal["entry", "data_type", "dims", "optional"]


@dataclass(frozen=True, slots=True)
class Disagreement:
    """One contradiction: the `index`-th entry of `kind`, and the part of it that is wrong. `str` says it in words."""

    kind: Literal["input", "output"]
    index: int
    part: Part
    text: str

    def __str__(self) -> str:
        return self.text


def disagreements(config: pb.ModelConfig, graph: GraphFacts) -> list[Disagreement]:
    """Every contradiction between a completed config and its graph; empty where they agree."""
    return [
        *_of_tensors("input", config, config.input, graph.inputs),
        *_of_tensors("output", config, config.output, graph.outputs),
    ]


def _of_tensors(
    kind: Literal["input", "output"],
    config: pb.ModelConfig,
    entries: Sequence[Tensor],
    tensors: Sequence[GraphTensor],
) -> Iterator[Disagreement]:
    by_name = {tensor.name: tensor for tensor in tensors}
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        label = f"{kind} '{entry.name}'"
        if entry.name not in by_name:
            text = f"{label} is not in the graph, whose {kind}s are {sorted(by_name)}"
            yield Disagreement(kind, index, "entry", text)
        elif entry.name in seen:
            yield Disagreement(kind, index, "entry", f"{label} is listed twice")
        else:
            found = _of_tensor(kind, label, entry, by_name[entry.name], config.max_batch_size)
            yield from (Disagreement(kind, index, part, text) for part, text in found)
        seen.add(entry.name)


def _of_tensor(
    kind: str, label: str, entry: Tensor, tensor: GraphTensor, max_batch_size: int
) -> Iterator[tuple[Part, str]]:
    if tensor.datatype not in DATA_TYPES:
        yield "entry", _not_carried(kind, label, tensor)
        return
    if (right := DATA_TYPES[tensor.datatype].config) != pb.DataType.Name(entry.data_type):
        yield "data_type", f"{label} has another type in the graph: write data_type: {right}"
    if isinstance(entry, pb.ModelInput) and entry.optional:
        yield "optional", f"{label} is optional in the config, but the graph cannot run without it: remove optional"
    if reason := _of_shape(label, entry, tensor, max_batch_size):
        yield "dims", reason


def _not_carried(kind: str, label: str, tensor: GraphTensor) -> str:
    advice = "list only the other outputs in the config" if kind == "output" else "export the model without it"
    return f"{label} is {tensor.datatype} in the graph, which the protocol cannot carry: {advice}"


def _of_shape(label: str, entry: Tensor, tensor: GraphTensor, max_batch_size: int) -> str:
    if tensor.shape is None:
        return "" if entry.dims else f"{label} has no known rank in the graph: write its dims"
    stated = entry.reshape.shape if entry.HasField("reshape") else entry.dims
    if max_batch_size and (not tensor.shape or tensor.shape[0] != -1):
        return (
            f"{label} is {list(tensor.shape)} in the graph, so its first axis cannot be a batch (max_batch_size "
            f"{max_batch_size}): write max_batch_size: 0 and {_right_line(tensor.shape)}, or export the model with a "
            "dynamic first axis"
        )
    own = tensor.shape[1:] if max_batch_size else tensor.shape
    if _fits(stated, own):
        return ""
    key = "reshape shape" if entry.HasField("reshape") else "dims"
    text = f"{label} has {key} {list(stated)}, but is {list(tensor.shape)} in the graph"
    return f"{text}{_advice(stated, tensor.shape, max_batch_size)}"


def _advice(stated: Sequence[int], shape: tuple[int, ...], max_batch_size: int) -> str:
    if max_batch_size and _fits(stated[1:], shape[1:]) and stated:
        return f": with max_batch_size {max_batch_size} dims leave out the batch axis, write {_right_line(shape[1:])}"
    if max_batch_size:
        return f" (the first axis is the batch): write {_right_line(shape[1:])}"
    if shape and shape[0] == -1 and _fits(stated, shape[1:]):
        return (
            f": without max_batch_size dims are the full shape, write {_right_line(shape)}, or set max_batch_size "
            "to let the first axis be the batch"
        )
    return f": write {_right_line(shape)}"


def _fits(stated: Sequence[int], own: Sequence[int]) -> bool:
    return len(stated) == len(own) and all(
        -1 in (left, right) or left == right for left, right in zip(stated, own, strict=True)
    )


def _right_line(own: Sequence[int]) -> str:
    return f"dims: [ {', '.join(map(str, own))} ]" if own else "dims: [ 1 ] reshape { shape: [ ] }"
