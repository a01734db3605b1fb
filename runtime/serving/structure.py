"""The structural check of an ONNX file: `onnx.checker` on the path, and our own walk over external data.

Runs in the trial child only. The checker alone is not enough: whatever a tensor may hide in (initializers, sparse
values, node attributes, subgraphs, functions, training info) is walked for external data, and each file must be a
plain one inside the model's folder (research/ops.md section 1.4: hard links and sparse tensors got past ONNX Runtime).
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx

CONTROL_FLOW = frozenset({"Loop", "If", "Scan"})


class StructureError(ValueError):
    """The file is refused; the text says what and where."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What the file says that ONNX Runtime's interface does not.

    `control_flow`: Loop, If or Scan anywhere in it; `open_rank`: inputs and outputs whose rank it leaves open.
    """

    control_flow: bool
    open_rank: frozenset[str]


def check_structure(path: Path, *, allow_links: bool) -> Structure:
    """Check the model at `path`.

    `allow_links`: its external data may be links, because the folder is the operator's own.

    Raises:
        StructureError: the file is no valid ONNX model, or its external data is not where it must be.
    """
    try:
        model = onnx.load(path, load_external_data=False)
    except Exception as error:
        raise StructureError(f"not an ONNX model: {_short(error)}") from error
    for location in sorted({_location(tensor) for tensor in _tensors(model) if _is_external(tensor)}):
        _check_location(path.parent, location, allow_links=allow_links)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise StructureError(f"onnx.checker refuses it: {_short(error)}") from error
    values = (*model.graph.input, *model.graph.output)
    return Structure(
        control_flow=any(node.op_type in CONTROL_FLOW for node in _nodes(model)),
        open_rank=frozenset(value.name for value in values if not value.type.tensor_type.HasField("shape")),
    )


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _check_location(folder: Path, location: str, *, allow_links: bool) -> None:
    parts = PurePosixPath(location).parts
    if not location or "\0" in location or PurePosixPath(location).is_absolute() or ".." in parts:
        raise StructureError(f"external data {location!r} leaves the model's folder")
    file = folder.joinpath(*parts)
    try:
        status = file.stat() if allow_links else file.lstat()
    except OSError as error:
        raise StructureError(f"external data {location!r} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StructureError(f"external data {location!r} is not a regular file")
    if not allow_links and status.st_nlink != 1:
        raise StructureError(f"external data {location!r} has {status.st_nlink} links, 1 is allowed")
    if not allow_links and not Path(os.path.realpath(file)).is_relative_to(os.path.realpath(folder)):
        raise StructureError(f"external data {location!r} leaves the model's folder through a link")


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _location(tensor: onnx.TensorProto) -> str:
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for training in model.training_info:
        yield training.initialization
        yield training.algorithm


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    waiting = [node for graph in _graphs(model) for node in graph.node]
    waiting += [node for function in model.functions for node in function.node]
    while waiting:
        node = waiting.pop()
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                waiting.extend(graph.node)


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    graphs = list(_graphs(model))
    for node in _nodes(model):
        for attribute in node.attribute:
            yield from (attribute.t, *attribute.tensors)
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            graphs.extend((attribute.g, *attribute.graphs))
    for graph in graphs:
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
