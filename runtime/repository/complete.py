"""A model's config, completed from its graph. Pure: no files, no clock, the argument is never changed.

Rules (Triton's, with what its users get wrong explained)
- A config is partial if it lacks the inputs or the outputs, one of the graph's inputs, or a data type or `dims`.
  Only a partial config gets a batch limit of its own: `default_max_batch_size`, if the first axis of every input and
  output of the graph is dynamic, the trial's batch of two did not fail, and the stated dims, if any, leave that axis
  out; else 0. If the limit is above 1 and no scheduler is named, `dynamic_batching` is switched on. A complete config
  is taken at its word: 0 is no batch axis.
- Inputs left out are added in the order of the graph. Outputs are added only if none is listed: a list of outputs is
  a choice, and what is not listed is not served.
- A -1 in `dims` where the graph has a fixed size takes that size, so that a wrong request is refused at the door.
- A tensor of the graph without dimensions of its own becomes `dims: [ 1 ] reshape { shape: [ ] }`.
- What contradicts the graph is refused (`disagree.py`). Completing a completed config changes nothing.
"""

from collections.abc import Sequence

from runtime.core.errors import LoadFailed
from runtime.core.tensor import DATA_TYPES
from runtime.core.verdict import GraphFacts, GraphTensor
from runtime.repository.disagree import disagreements
from runtime.wire.pb import model_config_pb2 as pb

MODEL_FILE = "model.onnx"
BACKEND = "onnxruntime"
PLATFORM = "onnxruntime_onnx"

Tensor = pb.ModelInput | pb.ModelOutput


def complete(config: pb.ModelConfig, graph: GraphFacts, *, default_max_batch_size: int) -> pb.ModelConfig:
    """Return `config` with everything filled in that the graph can tell.

    Raises:
        LoadFailed: the config contradicts the graph, or the graph has tensors the protocol cannot carry. `reason`
            holds every contradiction, each with the line that would be right.
    """
    full = fill_in(config, graph, default_max_batch_size=default_max_batch_size)
    if reasons := disagreements(full, graph):
        raise LoadFailed(config.name, "; ".join(map(str, reasons)))
    return full


def fill_in(config: pb.ModelConfig, graph: GraphFacts, *, default_max_batch_size: int) -> pb.ModelConfig:
    """Do what `complete` does, and leave contradictions in; entries keep their places, new ones follow."""
    full = pb.ModelConfig()
    full.CopyFrom(config)
    full.backend = BACKEND
    full.platform = PLATFORM
    full.default_model_filename = config.default_model_filename or MODEL_FILE
    if not full.version_policy.WhichOneof("policy_choice"):
        full.version_policy.latest.num_versions = 1
    if is_partial(config, graph):
        _choose_batching(full, graph, default_max_batch_size)
    stated = {tensor.name for tensor in full.input}
    for tensor in graph.inputs:
        if tensor.name not in stated:
            full.input.add(name=tensor.name)
    if not config.output:
        for tensor in graph.outputs:
            full.output.add(name=tensor.name)
    _fill_tensors(full.input, graph.inputs, batched=full.max_batch_size > 0)
    _fill_tensors(full.output, graph.outputs, batched=full.max_batch_size > 0)
    return full


def is_partial(config: pb.ModelConfig, graph: GraphFacts) -> bool:
    """Tell whether the config leaves anything about inputs and outputs to the graph."""
    stated = {tensor.name for tensor in config.input}
    return (
        not config.output
        or any(tensor.name not in stated for tensor in graph.inputs)
        or any(not entry.dims or entry.data_type == pb.TYPE_INVALID for entry in _tensors(config))
    )


def can_batch(graph: GraphFacts) -> bool:
    """Tell whether the first axis of every input and output is dynamic, and running it showed no reason against it."""
    if graph.batch_fault or not graph.inputs:
        return False
    return all(tensor.shape and tensor.shape[0] == -1 for tensor in (*graph.inputs, *graph.outputs))


def _choose_batching(full: pb.ModelConfig, graph: GraphFacts, default_max_batch_size: int) -> None:
    if not full.max_batch_size and can_batch(graph) and not _states_full_shapes(full, graph):
        full.max_batch_size = default_max_batch_size
    if full.max_batch_size > 1 and not full.WhichOneof("scheduling_choice"):
        full.dynamic_batching.SetInParent()


def _states_full_shapes(config: pb.ModelConfig, graph: GraphFacts) -> bool:
    """Tell whether some stated dims count the first axis of the graph, so that it cannot be a batch axis left out."""
    rank = {tensor.name: len(tensor.shape or ()) for tensor in (*graph.inputs, *graph.outputs)}
    return any(len(_graph_dims(entry)) == rank.get(entry.name) for entry in _tensors(config) if entry.dims)


def _graph_dims(entry: Tensor) -> Sequence[int]:
    """The shape that the graph sees for a config entry, without the batch axis."""
    return entry.reshape.shape if entry.HasField("reshape") else entry.dims


def _tensors(config: pb.ModelConfig) -> list[Tensor]:
    return [*config.input, *config.output]


def _fill_tensors(entries: Sequence[Tensor], tensors: Sequence[GraphTensor], *, batched: bool) -> None:
    by_name = {tensor.name: tensor for tensor in tensors}
    for entry in entries:
        if entry.name in by_name:
            _fill(entry, by_name[entry.name], batched=batched)


def _fill(entry: Tensor, tensor: GraphTensor, *, batched: bool) -> None:
    if entry.data_type == pb.TYPE_INVALID and tensor.datatype in DATA_TYPES:
        entry.data_type = getattr(pb, DATA_TYPES[tensor.datatype].config)
    if tensor.shape is None:
        _fill_unknown_rank(entry)
        return
    own = tensor.shape[1:] if batched else tensor.shape
    if not entry.dims:
        entry.dims.extend(own or (1,))
    if not own and list(entry.dims) == [1]:
        entry.reshape.SetInParent()
    if not entry.HasField("reshape") and len(own) == len(entry.dims):
        entry.dims[:] = [fixed if stated == -1 else stated for stated, fixed in zip(entry.dims, own, strict=True)]


def _fill_unknown_rank(entry: Tensor) -> None:
    """An output is answered in whatever shape it has; for an input nobody could check a request (`disagree.py`)."""
    if isinstance(entry, pb.ModelOutput) and not entry.dims:
        entry.dims.append(-1)
