"""The config that would work: what the operator wrote, with everything the graph contradicts taken from the graph.

Pure. Used by `config check` only; the daemon never repairs a config, it refuses it.
"""

from google.protobuf import text_format

from runtime.core.verdict import GraphFacts
from runtime.repository.complete import MODEL_FILE, can_batch, fill_in
from runtime.repository.disagree import Disagreement, disagreements
from runtime.wire.pb import model_config_pb2 as pb


def correct(config: pb.ModelConfig, graph: GraphFacts, *, default_max_batch_size: int) -> pb.ModelConfig:
    """Return a completed config that agrees with the graph as far as one exists; `config` has no refused fields."""
    fixed = pb.ModelConfig()
    fixed.CopyFrom(config)
    if fixed.max_batch_size and not can_batch(graph):
        fixed.max_batch_size = 0
        fixed.ClearField("dynamic_batching")
    full = fill_in(fixed, graph, default_max_batch_size=default_max_batch_size)
    # from the last to the first, so that removing one does not move the others
    for wrong in reversed(disagreements(full, graph)):
        _mend(fixed, wrong)
    return fill_in(fixed, graph, default_max_batch_size=default_max_batch_size)


def to_text(config: pb.ModelConfig) -> str:
    """Write a config as config.pbtxt, without what it says by default anyway."""
    short = pb.ModelConfig()
    short.CopyFrom(config)
    short.ClearField("platform")
    if short.default_model_filename == MODEL_FILE:
        short.ClearField("default_model_filename")
    if short.version_policy.latest.num_versions == 1:
        short.ClearField("version_policy")
    return text_format.MessageToString(short, use_short_repeated_primitives=True)


def _mend(config: pb.ModelConfig, wrong: Disagreement) -> None:
    entries = config.input if wrong.kind == "input" else config.output
    if wrong.index >= len(entries):  # added from the graph, which cannot be mended here
        return
    entry = entries[wrong.index]
    match wrong.part:
        case "entry":
            del entries[wrong.index]
        case "dims":
            entry.ClearField("dims")
            entry.ClearField("reshape")
        case part:
            entry.ClearField(part)
