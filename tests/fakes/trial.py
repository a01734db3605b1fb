"""A trial without a child process: verdicts about graphs that the test makes up."""

import threading
from collections.abc import Callable, Sequence

from runtime.core.errors import SpillwayError
from runtime.core.verdict import CpuLayout, GraphFacts, GraphTensor, TrialJob, Verdict
from runtime.repository.complete import complete
from runtime.wire.pb import model_config_pb2 as pb

MIB = 1 << 20


def tensor(name: str, shape: Sequence[int] | None, datatype: str = "FP32") -> GraphTensor:
    return GraphTensor(name=name, datatype=datatype, shape=None if shape is None else tuple(shape))


def graph(inputs: Sequence[GraphTensor], outputs: Sequence[GraphTensor]) -> GraphFacts:
    return GraphFacts(inputs=tuple(inputs), outputs=tuple(outputs))


MLP = graph([tensor("x", (-1, 4))], [tensor("y", (-1, 2))])


class FakeTrial:
    """Implements `gate.Trial`: completes the config as the real child does, and accepts what then agrees.

    `before` runs at the start of each trial, in the worker thread.
    """

    def __init__(self, facts: GraphFacts = MLP, needed_bytes: int = MIB) -> None:
        self.facts = facts
        self.needed_bytes = needed_bytes
        self.jobs: list[TrialJob] = []
        self.refusals: dict[int, Verdict] = {}
        self.closed = 0
        self.before: Callable[[TrialJob], object] = lambda _: None
        self._turn = threading.Lock()

    def try_model(self, job: TrialJob) -> Verdict:
        assert self._turn.acquire(blocking=False), "two trials at once"
        try:
            self.jobs.append(job)
            self.before(job)
            return self._verdict(job)
        finally:
            self._turn.release()

    def close(self) -> None:
        self.closed += 1

    def _verdict(self, job: TrialJob) -> Verdict:
        if job.version in self.refusals:
            return self.refusals[job.version]
        try:
            config = pb.ModelConfig.FromString(job.config)
            complete(config, self.facts, default_max_batch_size=job.default_max_batch_size)
        except SpillwayError as error:
            return Verdict(stage="load", error=getattr(error, "reason", str(error)))
        return Verdict(
            graph=self.facts,
            provider="cpu",
            peak_bytes=100 * MIB + self.needed_bytes,
            base_bytes=100 * MIB,
            layout=CpuLayout(instances=1, threads=1),
        )
