"""The trial child: checks, loads, warms up and measures model files, one after another, apart from the daemon.

`python -m runtime.serving.trial` reads one `TrialJob` (JSON) per line on standard input and answers one `Verdict` per
line on standard output, until the input ends. It is exec'd, never forked, and watched from outside for memory and
time: whatever a hostile or broken model does, it does here first.
"""

import os
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import msgspec

from runtime.core.errors import ExecutionError, SpillwayError
from runtime.core.model import ModelSpec, ProviderChoice
from runtime.core.verdict import CpuLayout, GraphFacts, GraphTensor, RunCost, TrialJob, Verdict
from runtime.repository.complete import complete
from runtime.repository.execution import provider_choices, session_settings
from runtime.repository.spec import make_spec
from runtime.serving.instance import VERSION, SessionRunner, open_session
from runtime.serving.probe import Stopwatch, fixed_layout, measure, run_costs, warm_up
from runtime.serving.structure import Structure, StructureError, check_structure
from runtime.wire.pb import model_config_pb2 as pb


def try_model(job: TrialJob) -> Verdict:
    """Take one model through check, load, warm-up and measurement. Never raises for what the model is at fault of."""
    base = _resident_bytes()
    stage, begun = "check", time.perf_counter()
    graph: GraphFacts | None = None
    try:
        structure = check_structure(Path(job.path), allow_links=job.allow_external_links)
        stage = "load"
        config = pb.ModelConfig.FromString(job.config)
        runner, skipped = _open(job, config, threads=1)
        load_s = time.perf_counter() - begun
        graph = _facts(runner, Path(job.path), structure)
        spec = _spec(job, config, graph)
        stage = "warm-up"
        warm_up(spec, runner)
        layout, costs = _measured(job, spec, runner, graph.weight_bytes)
    except (StructureError, SpillwayError, ValueError) as error:
        reason = getattr(error, "reason", None) or str(error)
        return Verdict(
            stage=stage, error=reason, base_bytes=base, peak_bytes=_peak_bytes(), runtime_versions=versions()
        )
    return Verdict(
        graph=graph,
        provider=runner.provider,
        skipped=tuple(skipped),
        peak_bytes=_peak_bytes(),
        base_bytes=base,
        load_s=load_s,
        layout=layout,
        costs=costs,
        runtime_versions=versions(),
    )


def versions() -> str:
    """What a verdict depends on beside the model."""
    return f"onnxruntime {VERSION}, onnx {version('onnx')}"


def _open(job: TrialJob, config: pb.ModelConfig, threads: int) -> tuple[SessionRunner, list[tuple[str, str]]]:
    choices = provider_choices(config) or tuple(ProviderChoice(name) for name in job.providers)
    return open_session(Path(job.path), session_settings(config), threads, choices)


def _facts(runner: SessionRunner, path: Path, structure: Structure) -> GraphFacts:
    inputs, outputs = runner.graph()
    weights = sum(file.stat().st_size for file in path.parent.rglob("*") if file.is_file())
    return GraphFacts(
        inputs=_with_open_ranks(inputs, structure),
        outputs=_with_open_ranks(outputs, structure),
        control_flow=structure.control_flow,
        weight_bytes=weights,
    )


def _with_open_ranks(tensors: tuple[GraphTensor, ...], structure: Structure) -> tuple[GraphTensor, ...]:
    """ONNX Runtime shows an unknown rank as no dimensions at all, like a scalar's."""
    return tuple(
        msgspec.structs.replace(tensor, shape=None)
        if tensor.name in structure.open_rank and not tensor.shape
        else tensor
        for tensor in tensors
    )


def _spec(job: TrialJob, config: pb.ModelConfig, graph: GraphFacts) -> ModelSpec:
    full = complete(config, graph, default_max_batch_size=job.default_max_batch_size)
    return make_spec(full, graph, name=job.model, version=job.version, path=Path(job.path), folder=Path(job.folder))


def _measured(
    job: TrialJob, spec: ModelSpec, runner: SessionRunner, weight_bytes: int
) -> tuple[CpuLayout, tuple[RunCost, ...]]:
    if runner.provider != "cpu":
        return CpuLayout(instances=1, threads=1), run_costs(spec, runner, Stopwatch(job.probe_s))

    def reopen(threads: int) -> SessionRunner:
        choices = (ProviderChoice(runner.provider),)
        return open_session(Path(job.path), spec.session, threads, choices)[0]

    try:
        return measure(spec, runner, reopen, budget=job.thread_budget, weight_bytes=weight_bytes, limit_s=job.probe_s)
    except ExecutionError:
        # Zeros are no fair input for every graph: what could not be measured is learned from requests.
        return fixed_layout(spec, job.thread_budget) or CpuLayout(instances=1, threads=job.thread_budget), ()


def _resident_bytes() -> int:
    with Path("/proc/self/statm").open() as statm:
        return int(statm.read().split()[1]) * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> int:
    """Answer jobs until the input ends. Native code may print: the answers have a descriptor of their own."""
    answers = os.dup(1)
    os.dup2(2, 1)
    for line in sys.stdin.buffer:
        verdict = try_model(msgspec.json.decode(line, type=TrialJob))
        os.write(answers, msgspec.json.encode(verdict) + b"\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
