"""The trial child: checks, loads, warms up and measures model files, one after another, apart from the daemon.

`python -m runtime.serving.trial` reads one `TrialJob` (JSON) per line on standard input and answers one `Verdict` per
line on standard output; it ends with its input, in the middle of a trial too. It is exec'd, never forked, and watched
from outside for memory and time: whatever a hostile or broken model does, it does here first.

Rules
- What the model or its config is at fault of becomes a verdict with the stage it failed in. Any other exception ends
  the process, which its guard reports as a crash with the last words.
- Memory is counted for each model alone: what the one before and the structural check took is given back first.
"""

import os
import threading
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import msgspec

from runtime.core.clock import monotonic
from runtime.core.errors import ExecutionError, LoadFailed, SpillwayError
from runtime.core.model import ModelSpec, ProviderChoice
from runtime.core.verdict import CpuLayout, GraphFacts, GraphTensor, RunCost, TrialJob, Verdict
from runtime.repository import memory
from runtime.repository.complete import complete
from runtime.repository.execution import provider_choices, session_settings
from runtime.repository.spec import make_spec
from runtime.serving.instance import VERSION, SessionRunner, open_session
from runtime.serving.layout import fixed_layout, may_multiply
from runtime.serving.probe import Stopwatch, batch_fault, measure, run_costs, warm_up
from runtime.serving.structure import Structure, check_structure
from runtime.wire.pb import model_config_pb2 as pb


def try_model(job: TrialJob) -> Verdict:
    """Take one model through check, load, warm-up and measurement. Never raises for what the model is at fault of."""
    attempt = _Attempt(job)
    try:
        return attempt.run()
    except (SpillwayError, ValueError) as error:  # StructureError and what is wrong in a config are ValueErrors
        reason = error.reason if isinstance(error, LoadFailed) else str(error)
        return attempt.verdict(stage=attempt.stage, error=reason)
    finally:
        attempt.close()


def versions() -> str:
    """What a verdict depends on beside the model."""
    return f"onnxruntime {VERSION}, onnx {version('onnx')}"


class _Attempt:
    """One trial. `stage` and `graph` are as far as it got."""

    def __init__(self, job: TrialJob) -> None:
        self.stage = "check"
        self.graph: GraphFacts | None = None
        self._job = job
        self._path = Path(job.path)
        self._config = pb.ModelConfig.FromString(job.config)
        self._base_bytes = memory.resident_bytes(os.getpid())
        self._one_bytes = 0
        self._runner: SessionRunner | None = None

    def run(self) -> Verdict:
        """Go through all stages.

        Raises:
            SpillwayError, ValueError: the model or its config is at fault.
        """
        structure = check_structure(self._path, allow_links=self._job.allow_external_links)
        self._count_from_here()
        self.stage = "load"
        begun = monotonic()
        runner, skipped = self._open()
        self._runner = runner
        load_s = monotonic() - begun
        self.graph = _facts(runner, structure)
        spec = self._spec(self.graph)
        self.stage = "warm-up"
        if spec.warmup:  # zeros are run below, and may fail there
            warm_up(spec, runner)
        watch = Stopwatch(self._job.probe_s)
        spec = self._without_false_batch(spec, runner, watch)
        layout, costs = self._measured(spec, runner, watch)
        return self.verdict(
            provider=runner.provider,
            skipped=tuple(skipped),
            load_s=load_s,
            layout=layout,
            costs=costs,
            peak_bytes=self._base_bytes + self._session_bytes() * layout.instances,
        )

    def verdict(self, **found: Any) -> Verdict:
        """The verdict with what was found, and what every verdict says."""
        plain = Verdict(
            graph=self.graph, base_bytes=self._base_bytes, peak_bytes=_peak_bytes(), runtime_versions=versions()
        )
        return msgspec.structs.replace(plain, **found)

    def close(self) -> None:
        """Leave as little of the model behind as possible."""
        if self._runner is not None:
            self._runner.close()
        memory.give_back()

    def _open(self) -> tuple[SessionRunner, list[tuple[str, str]]]:
        choices = provider_choices(self._config) or tuple(ProviderChoice(name) for name in self._job.providers)
        gpu = next((gpu for group in self._config.instance_group for gpu in group.gpus), 0)
        return open_session(self._path, session_settings(self._config), 1, choices, gpu)

    def _spec(self, graph: GraphFacts) -> ModelSpec:
        job = self._job
        full = complete(self._config, graph, default_max_batch_size=job.default_max_batch_size)
        return make_spec(full, graph, name=job.model, version=job.version, path=self._path, folder=Path(job.folder))

    def _without_false_batch(self, spec: ModelSpec, runner: SessionRunner, watch: Stopwatch) -> ModelSpec:
        """Complete the config again, without a batch, where running showed that the first axis is none."""
        fault = batch_fault(spec, runner, watch)
        if not fault:
            return spec
        assert self.graph is not None
        if self._config.max_batch_size:
            raise LoadFailed(spec.name, f"max_batch_size is {self._config.max_batch_size}, but {fault}: write 0")
        self.graph = msgspec.structs.replace(self.graph, batch_fault=fault)
        try:
            return self._spec(self.graph)
        except LoadFailed as error:
            raise LoadFailed(spec.name, f"the first axis is not the batch ({fault}), and {error.reason}") from error

    def _measured(
        self, spec: ModelSpec, runner: SessionRunner, watch: Stopwatch
    ) -> tuple[CpuLayout, tuple[RunCost, ...]]:
        budget, on_cpu = self._job.thread_budget, runner.provider == "cpu"

        def reopen(threads: int) -> SessionRunner:
            self._session_bytes()
            return open_session(self._path, spec.session, threads, (ProviderChoice("cpu"),))[0]

        def has_room() -> bool:
            assert self.graph is not None
            limit = self._job.memory_bytes or memory.available_bytes()
            room = limit - memory.resident_bytes(os.getpid())
            return may_multiply(self.graph.weight_bytes, self._session_bytes(), room, budget)

        unmeasured = CpuLayout(instances=1, threads=1)
        if on_cpu:
            unmeasured = fixed_layout(spec, budget) or CpuLayout(instances=1, threads=budget)
        try:
            if on_cpu:
                return measure(spec, runner, reopen, budget=budget, may_multiply=has_room, watch=watch)
            return unmeasured, run_costs(spec, runner, watch)
        except ExecutionError:
            # Zeros are no fair input for every graph: what could not be measured is learned from requests.
            return unmeasured, ()

    def _count_from_here(self) -> None:
        memory.give_back()
        self._base_bytes = memory.resident_bytes(os.getpid())
        with suppress(OSError):  # a kernel without it: then the peak counts the check too, which errs on the safe side
            Path("/proc/self/clear_refs").write_text("5")

    def _session_bytes(self) -> int:
        """What one session took, as it was when this was first asked: before others were opened beside it."""
        self._one_bytes = self._one_bytes or max(0, _peak_bytes() - self._base_bytes)
        return self._one_bytes


def _facts(runner: SessionRunner, structure: Structure) -> GraphFacts:
    inputs, outputs = runner.graph()
    return GraphFacts(
        inputs=_with_open_ranks(inputs, structure),
        outputs=_with_open_ranks(outputs, structure),
        control_flow=structure.control_flow,
        weight_bytes=structure.weight_bytes,
    )


def _with_open_ranks(tensors: tuple[GraphTensor, ...], structure: Structure) -> tuple[GraphTensor, ...]:
    """ONNX Runtime shows an unknown rank as no dimensions at all, like a scalar's."""
    return tuple(
        msgspec.structs.replace(tensor, shape=None)
        if tensor.name in structure.open_rank and not tensor.shape
        else tensor
        for tensor in tensors
    )


def _peak_bytes() -> int:
    """Greatest resident memory since `_count_from_here`; getrusage would count what the parent held at the exec."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return memory.resident_bytes(os.getpid())


def main() -> None:
    """Answer jobs until the input ends. Native code may print: the answers have a descriptor of their own."""
    answers = os.dup(1)
    os.dup2(2, 1)
    jobs: SimpleQueue[bytes] = SimpleQueue()
    threading.Thread(target=_listen, args=(jobs,), daemon=True).start()
    while True:
        verdict = try_model(msgspec.json.decode(jobs.get(), type=TrialJob))
        os.write(answers, msgspec.json.encode(verdict) + b"\n")


def _listen(jobs: SimpleQueue[bytes]) -> None:
    """Hand on what comes in. When it ends, whoever asked is gone, and the trial under way may be one without end."""
    with open(0, "rb", closefd=False) as source:  # not sys.stdin: its lock would be held at the exit
        for line in source:
            jobs.put(line)
    os._exit(0)


if __name__ == "__main__":
    main()
