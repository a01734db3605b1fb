"""The structural check of an ONNX file: our own walk over what names other files, and `onnx.checker`.

Runs in the trial child only.

Rules
- Whatever a tensor may hide in is walked for external data: initializers, sparse values, node attributes, subgraphs,
  functions and their default attributes, training info. The checker and ONNX Runtime alone are not enough: hard links
  and sparse tensors got past the one or the other (research/ops.md section 1.4).
- External data is a regular file inside the model's folder, without links, unless the operator vouches for them.
- The walk comes first and its message is ours. Only one copy of the model is in memory at a time where that will do.
"""

import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx

MAX_FILE_BYTES = (1 << 31) - 1
"""Protobuf cannot carry more; larger models keep their weights in files beside it."""


class StructureError(ValueError):
    """The file is refused; the text says what and where."""


@dataclass(frozen=True, slots=True)
class Structure:
    """What the file says that ONNX Runtime's interface does not.

    `control_flow`: some node has a graph of its own (Loop, If, Scan ...); `open_rank`: inputs and outputs whose rank is
    left open; `weight_bytes`: size of the file and of its external data.
    """

    control_flow: bool
    open_rank: frozenset[str]
    weight_bytes: int


def check_structure(path: Path, *, allow_links: bool) -> Structure:
    """Check the model at `path`.

    `allow_links`: its external data may be links, because the operator vouches for what they point to.

    Raises:
        StructureError: the file is no valid ONNX model, or its external data is not where it must be.
    """
    model = _parsed(path)
    files = [_external_file(path.parent, location) for location in _locations(model)]
    links = [text for file in files if (text := _link(path.parent, file))]
    if links and not allow_links:
        raise StructureError(f"{links[0]} (follow_links is off)")
    structure = Structure(
        control_flow=any(_has_graph(node) for node in _nodes(model)),
        open_rank=frozenset(value.name for value in _open_ranks(model)),
        weight_bytes=sum(file.stat().st_size for file in (path, *files)),
    )
    # The checker wants plain files and a rank for everything. Where we allow more it sees a copy without them.
    checked: str | bytes = _without_specials(model) if links or structure.open_rank else str(path)
    del model
    try:
        onnx.checker.check_model(checked)
    except Exception as error:
        raise StructureError(f"onnx.checker refuses it: {_short(error)}") from error
    return structure


def _parsed(path: Path) -> onnx.ModelProto:
    """Read the file, without external data, and refuse what no check below can judge."""
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise StructureError(
                f"the file has {size} bytes, an ONNX file at most {MAX_FILE_BYTES}: export the weights as external data"
            )
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise StructureError(f"the file cannot be read: {error.strerror}") from error
    except StructureError:
        raise
    except Exception as error:
        raise StructureError(f"not an ONNX model: {_short(error)}") from error
    if any(node.op_type == "EPContext" for node in _nodes(model)):
        raise StructureError("an EPContext node holds code compiled for one device: only plain ONNX is served")
    return model


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:500]


def _locations(model: onnx.ModelProto) -> list[str]:
    found: set[str] = set()
    for tensor in _tensors(model):
        if _is_external(tensor):
            # a second entry could win over the first, depending on who reads it
            found.update([entry.value for entry in tensor.external_data if entry.key == "location"] or [""])
    return sorted(found)


def _external_file(folder: Path, location: str) -> Path:
    """The file that external data names, once it is known to be one that may be opened."""
    text = f"external data {location!r}"
    parts = PurePosixPath(location).parts
    if not parts or not location.isprintable():
        raise StructureError(f"{text} is not a file name")
    if PurePosixPath(location).is_absolute() or ".." in parts:
        raise StructureError(f"{text} leaves the model's folder")
    file = folder.joinpath(*parts)
    try:
        status = file.stat()
    except OSError as error:
        raise StructureError(f"{text} cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode):
        raise StructureError(f"{text} is not a regular file")
    return file


def _link(folder: Path, file: Path) -> str:
    """How `file` may be reached, or changed, from outside `folder`; empty for a plain file."""
    name = file.relative_to(folder)
    if file.resolve() != folder.resolve() / name:
        return f"external data '{name}' is a link or lies behind one"
    if (count := file.stat().st_nlink) != 1:
        return f"external data '{name}' is a file with {count} hard links, 1 is allowed"
    return ""


def _without_specials(model: onnx.ModelProto) -> bytes:
    """`model` with empty tensors for external ones and a shape for every input and output; `model` is changed."""
    for tensor in _tensors(model):
        if _is_external(tensor):
            tensor.ClearField("data_location")
            tensor.ClearField("external_data")
            tensor.dims[:] = [0]
    for value in _open_ranks(model):
        value.type.tensor_type.shape.SetInParent()
    return bytes(model.SerializeToString())


def _open_ranks(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    for value in (*model.graph.input, *model.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            yield value


def _is_external(tensor: onnx.TensorProto) -> bool:
    return bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _has_graph(node: onnx.NodeProto) -> bool:
    return any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute)


def _main_graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield model.graph
    for training in model.training_info:
        yield training.initialization
        yield training.algorithm


def _attributes(model: onnx.ModelProto) -> Iterator[onnx.AttributeProto]:
    """Every attribute at every depth; not recursive, so that depth costs no stack."""
    waiting = [attribute for function in model.functions for attribute in function.attribute_proto]
    nodes = [node for graph in _main_graphs(model) for node in graph.node]
    nodes += [node for function in model.functions for node in function.node]
    waiting += [attribute for node in nodes for attribute in node.attribute]
    while waiting:
        attribute = waiting.pop()
        yield attribute
        for graph in (attribute.g, *attribute.graphs):
            waiting.extend(inner for node in graph.node for inner in node.attribute)


def _graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield from _main_graphs(model)
    for attribute in _attributes(model):
        yield from (attribute.g, *attribute.graphs)


def _nodes(model: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for function in model.functions:
        yield from function.node
    for graph in _graphs(model):
        yield from graph.node


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    for attribute in _attributes(model):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
    for graph in _graphs(model):
        yield from graph.initializer
        for sparse in graph.sparse_initializer:
            yield from (sparse.values, sparse.indices)
