"""From a candidate on disk to a plan that can be loaded: verdict, completed config, spec.

Rules
- One trial at a time on this node: it measures, and two would measure each other. Verdicts that are kept do not wait.
- What is refused is a `LoadFailed` that says at which stage.
"""

import asyncio
from dataclasses import dataclass

from runtime.core.errors import LoadFailed
from runtime.core.model import ModelSpec
from runtime.core.verdict import GraphFacts, Verdict
from runtime.repository.complete import complete
from runtime.repository.gate import Candidate, Gate
from runtime.repository.spec import make_spec
from runtime.wire.pb import model_config_pb2 as pb


@dataclass(frozen=True, slots=True)
class Examined:
    """A candidate that passed the gate, ready to be loaded. `config` is completed."""

    candidate: Candidate
    verdict: Verdict
    config: pb.ModelConfig
    spec: ModelSpec


class Examiner:
    """Takes candidates through the gate. Event loop only; the work is done in threads."""

    def __init__(self, gate: Gate, default_max_batch_size: int) -> None:
        self._gate = gate
        self._default_max_batch_size = default_max_batch_size
        self._turn = asyncio.Lock()
        self._closed = False

    async def examine(self, candidate: Candidate) -> Examined:
        """Return what is needed to load one candidate.

        Raises:
            LoadFailed: the check, the trial or the config refused it.
        """
        verdict = await asyncio.to_thread(self._gate.recall, candidate)
        if verdict is None:
            async with self._turn:
                if self._closed:
                    raise LoadFailed(candidate.model, "the server is stopping")
                verdict = await asyncio.to_thread(self._gate.examine, candidate)
        if verdict.error or verdict.graph is None:
            reason = verdict.error or "the trial told nothing of the graph"
            raise LoadFailed(candidate.model, f"version {candidate.version} was refused at {verdict.stage}: {reason}")
        return await asyncio.to_thread(self._plan, candidate, verdict, verdict.graph)

    async def rest(self) -> None:
        """End the idle trial process; waits for a trial that is under way."""
        async with self._turn:
            await asyncio.to_thread(self._gate.rest)

    async def close(self) -> None:
        """End the trial process at once and start no other. Idempotent."""
        self._closed = True
        await asyncio.to_thread(self._gate.rest)

    def _plan(self, candidate: Candidate, verdict: Verdict, graph: GraphFacts) -> Examined:
        config = complete(candidate.config, graph, default_max_batch_size=self._default_max_batch_size)
        spec = make_spec(
            config,
            graph,
            name=candidate.model,
            version=candidate.version,
            path=candidate.path,
            folder=candidate.folder,
        )
        return Examined(candidate, verdict, config, spec)


def needed_bytes(verdict: Verdict) -> int:
    """Host memory that loading takes, as the trial saw it: its peak above what the child held before."""
    return max(0, verdict.peak_bytes - verdict.base_bytes)
