"""Loads a version: sessions, warm-up, and the batcher above them. Implements the repository's `Loader`.

The trial's findings are used where they hold: its layout and run times for the provider it ran on, the providers that
did not start there left out. Where another provider starts than in the trial, what was measured is forgotten.
"""

import asyncio
import logging
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from runtime.core.errors import DeviceLost, ExecutionError, LoadFailed
from runtime.core.inference import Scheduler
from runtime.core.model import ModelSpec, ProviderChoice, SessionSettings
from runtime.core.tensor import BYTES
from runtime.core.verdict import CpuLayout, Verdict
from runtime.serving.admission import Limits
from runtime.serving.batcher import Batcher
from runtime.serving.cost import CostModel
from runtime.serving.devices import INLINE_OVERHEAD_S, DevicePool
from runtime.serving.instance import NOT_BUILT_IN, open_session
from runtime.serving.layout import GPU_PROVIDERS, Place, places
from runtime.serving.probe import warm_up
from runtime.serving.settings import ServingSettings
from runtime.serving.work import Runner

log = logging.getLogger(__name__)

INLINE_MAX_BATCH_S = 0.0002
"""A model whose largest worthwhile batch runs longer never runs on the event loop."""
_DRIVER = Path("/proc/driver/nvidia/gpus")


class OpenSession(Protocol):
    """Loads a model on the first provider that starts; `instance.open_session`. Blocking."""

    def __call__(
        self, path: Path, settings: SessionSettings, threads: int, providers: Sequence[ProviderChoice], device: int = 0
    ) -> tuple[Runner, list[tuple[str, str]]]:
        """Raise ExecutionError where none starts."""
        ...


def visible_gpus() -> int:
    """How many NVIDIA GPUs this process may use; 1 where nothing tells."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return len([entry for entry in listed.split(",") if entry.strip()]) or 1
    return len(list(_DRIVER.iterdir())) if _DRIVER.is_dir() else 1


class SessionLoader:
    """Brings versions into memory, as their verdicts and configs say."""

    def __init__(self, settings: ServingSettings, opener: OpenSession = open_session, gpus: int | None = None) -> None:
        self._settings = settings
        self._opener = opener
        self._gpus = visible_gpus() if gpus is None else gpus
        self._limits = Limits(settings.max_queued_requests, settings.max_queued_bytes, settings.max_wait_s)

    async def load(self, spec: ModelSpec, verdict: Verdict) -> Scheduler:
        """Open the sessions, warm each up, and return the batcher, which answers from then on.

        Raises:
            LoadFailed: a session could not be opened or failed its warm-up; nothing is left behind.
        """
        runners = await asyncio.to_thread(self._open_all, spec, verdict)
        provider = runners[0].provider
        inline = self._settings.inline and len(runners) == 1 and may_run_inline(spec, verdict, provider)

        def reopen(lost: str) -> Runner:
            return self._replacement(spec, lost)

        pool = DevicePool(runners, f"{spec.name}-{spec.version}", inline=inline, reopen=reopen)
        facts = {"provider": provider, "instances": len(runners), "inline": inline}
        log.info("sessions ready", extra={"model": spec.name, "version": spec.version, **facts})
        return Batcher(spec, pool, self._limits, verdict.costs if provider == verdict.provider else ())

    def _open_all(self, spec: ModelSpec, verdict: Verdict) -> list[Runner]:
        with ExitStack() as opened:
            try:
                first, choice, others = self._open_first(spec, verdict)
                opened.callback(first.close)
                runners = [first]
                for place in others:
                    runners.append(self._open(spec, choice, place))
                    opened.callback(runners[-1].close)
                for runner in runners:
                    warm_up(spec, runner)
            except (ExecutionError, DeviceLost) as error:
                raise LoadFailed(spec.name, str(error)) from error
            opened.pop_all()
        return runners

    def _open_first(self, spec: ModelSpec, verdict: Verdict) -> tuple[Runner, ProviderChoice, list[Place]]:
        """Open on the first provider that starts, in the place that suits it; returns what else belongs there.

        What did not start in the trial is not tried again, but reported once more.
        """
        reasons = dict(verdict.skipped)
        for name, reason in verdict.skipped:
            _report(spec, name, reason)
        for choice in self._choices(spec):
            if choice.name in reasons:
                continue
            budget = self._settings.thread_budget
            first, *others = places(spec, verdict, choice.name, budget=budget, gpus=self._gpus)
            try:
                return self._open(spec, choice, first), choice, others
            except ExecutionError as error:
                reasons[choice.name] = str(error)
                _report(spec, choice.name, str(error))
        raise ExecutionError("; ".join(reasons.values()) or "no provider configured")

    def _replacement(self, spec: ModelSpec, lost: str) -> Runner:
        """A session on what is left once `lost` is gone; on the CPU it has all threads.

        Raises:
            ExecutionError, DeviceLost: no other provider starts, or it fails its warm-up.
        """
        gone = GPU_PROVIDERS if lost == "cuda" else (lost,)  # TensorRT runs on what CUDA lost
        choices = [choice for choice in self._choices(spec) if choice.name not in gone]
        runner, _ = self._opener(spec.path, spec.session, self._settings.thread_budget, choices)
        try:
            warm_up(spec, runner)
        except (ExecutionError, DeviceLost):
            runner.close()
            raise
        return runner

    def _open(self, spec: ModelSpec, choice: ProviderChoice, place: Place) -> Runner:
        return self._opener(spec.path, spec.session, place.threads, [choice], place.device)[0]

    def _choices(self, spec: ModelSpec) -> Sequence[ProviderChoice]:
        return spec.providers or tuple(ProviderChoice(name) for name in self._settings.providers)


def _report(spec: ModelSpec, name: str, reason: str) -> None:
    # A build without GPU support is no event on a machine without one; the status page says it anyway.
    level = logging.DEBUG if reason.endswith(NOT_BUILT_IN) else logging.WARNING
    log.log(level, "provider skipped", extra={"model": spec.name, "provider": name, "reason": reason})


def may_run_inline(spec: ModelSpec, verdict: Verdict, provider: str) -> bool:
    """Tell whether runs are so short and so predictable that a thread hop would cost more than it saves."""
    if provider != "cpu" or verdict.provider != "cpu" or verdict.layout != CpuLayout(instances=1, threads=1):
        return False
    if verdict.graph is None or verdict.graph.control_flow or spec.session.execution_mode != "SEQUENTIAL":
        return False
    tensors = (*spec.inputs, *spec.outputs)
    if not verdict.costs or any(dim < 0 for tensor in tensors for dim in tensor.dims):
        return False
    if any(tensor.datatype == BYTES for tensor in tensors):
        return False  # how long such a run takes depends on how long the texts are
    max_rows = spec.max_batch_size if spec.batching is not None else 0
    cost = CostModel(max(1, max_rows), INLINE_OVERHEAD_S, verdict.costs)
    return cost.predict(cost.pays) < INLINE_MAX_BATCH_S
