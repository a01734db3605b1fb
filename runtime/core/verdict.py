"""The trial of a model file: what the child process is asked, and what it found.

Both travel as JSON over pipes and the verdict is kept in a cache, so they are msgspec structs. A verdict is a pure
function of the job's files, config, provider list and of the versions of onnx, ONNX Runtime and Spillway; timings in
it are measurements of this machine.
"""

import msgspec


class GraphTensor(msgspec.Struct, frozen=True, kw_only=True):
    """Input or output of the ONNX graph. `shape` None: rank unknown; -1 in it: a dynamic dimension.

    `datatype` is the protocol's name (FP32), or the ONNX type string where the protocol has none (refused later).
    """

    name: str
    datatype: str
    shape: tuple[int, ...] | None


class GraphFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What the graph itself says, and what running it showed.

    `control_flow`: some node holds a graph of its own (Loop, If, Scan ...). `batch_fault`: why the first axis is not
    the batch although the graph leaves it open; empty where nothing speaks against it.
    """

    inputs: tuple[GraphTensor, ...]
    outputs: tuple[GraphTensor, ...]
    control_flow: bool = False
    weight_bytes: int = 0
    batch_fault: str = ""


class RunCost(msgspec.Struct, frozen=True, kw_only=True):
    """Measured seconds of one run of `rows` rows (median)."""

    rows: int
    run_s: float


class CpuLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Instances x intra-op threads, chosen by measurement within the thread budget."""

    instances: int
    threads: int


class TrialJob(msgspec.Struct, frozen=True, kw_only=True):
    """Check, load, warm up and measure one model file.

    `config` is the model's config as a serialized `ModelConfig` (before completion), so that the child completes it
    by the same pure function as the daemon. `path` is absolute; `folder` is the model's folder (for warm-up data).
    `providers` is the node's default order, used where the config names none. `probe_s` bounds the measurement.
    `memory_bytes` is what the child may take in all before it is killed, 0 where nobody says.
    """

    model: str
    version: int
    path: str
    folder: str
    config: bytes
    providers: tuple[str, ...]
    thread_budget: int
    default_max_batch_size: int
    probe_s: float
    memory_bytes: int = 0
    allow_external_links: bool = False


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """Outcome of a trial. `error` empty means accepted; else `stage` says where: check, load, warm-up, memory, crash.

    `provider` is the one that started; `skipped` names those that did not, each with its reason.
    `peak_bytes` less `base_bytes` is the host memory that loading takes, for all instances of `layout`: what the child
    held at most while one session loaded and ran its largest batches, and before.
    `costs` are for `layout.threads` threads; empty where nothing could be measured (dynamic inputs, no time).
    """

    stage: str = ""
    error: str = ""
    graph: GraphFacts | None = None
    provider: str = ""
    skipped: tuple[tuple[str, str], ...] = ()
    peak_bytes: int = 0
    base_bytes: int = 0
    load_s: float = 0.0
    layout: CpuLayout | None = None
    costs: tuple[RunCost, ...] = ()
    runtime_versions: str = ""
