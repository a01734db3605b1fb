"""Loads a version: sessions, warm-up, and the batcher above them. Implements the repository's `Loader`."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.core.errors import ExecutionError, LoadFailed
from runtime.core.inference import Scheduler
from runtime.core.model import ModelSpec, ProviderChoice
from runtime.core.verdict import CpuLayout, Verdict
from runtime.serving.admission import Limits
from runtime.serving.batcher import Batcher
from runtime.serving.cost import CostModel
from runtime.serving.devices import INLINE_OVERHEAD_S, DevicePool
from runtime.serving.instance import NOT_BUILT_IN, SessionRunner, open_session
from runtime.serving.probe import fixed_layout, warm_up
from runtime.serving.settings import ServingSettings

log = logging.getLogger(__name__)

INLINE_MAX_BATCH_S = 0.0002
"""A model whose largest worthwhile batch runs longer never runs on the event loop."""
GPU_PROVIDERS = ("cuda", "tensorrt")


@dataclass(frozen=True, slots=True)
class Place:
    """Where one runner goes: the device index (0 on the CPU) and its threads."""

    device: int
    threads: int


class SessionLoader:
    """Brings versions into memory, as their verdicts and configs say."""

    def __init__(self, settings: ServingSettings) -> None:
        self._settings = settings
        self._limits = Limits(settings.max_queued_requests, settings.max_queued_bytes, settings.max_wait_s)

    async def load(self, spec: ModelSpec, verdict: Verdict) -> Scheduler:
        """Open the sessions, warm each up, and return the batcher, which answers from then on.

        Raises:
            LoadFailed: a session could not be opened or failed its warm-up; nothing is left behind.
        """
        runners = await asyncio.to_thread(self._open_all, spec, verdict)
        inline = self._settings.inline and len(runners) == 1 and may_run_inline(spec, verdict, runners[0].provider)

        def reopen(lost: str) -> SessionRunner:
            choices = [choice for choice in self._choices(spec) if choice.name != lost]
            runner, _ = open_session(spec.path, spec.session, self._settings.thread_budget, choices)
            warm_up(spec, runner)
            return runner

        pool = DevicePool(runners, f"{spec.name}-{spec.version}", inline=inline, reopen=reopen)
        log.info(
            "sessions ready",
            extra={
                "model": spec.name,
                "version": spec.version,
                "provider": runners[0].provider,
                "instances": len(runners),
                "inline": inline,
            },
        )
        return Batcher(spec, pool, self._limits, verdict.costs)

    def _open_all(self, spec: ModelSpec, verdict: Verdict) -> list[SessionRunner]:
        runners: list[SessionRunner] = []
        try:
            first, skipped = self._open(spec, verdict, Place(0, _threads(spec, verdict, self._settings)))
            runners.append(first)
            for name, reason in skipped:
                # A build without GPU support is no event on a machine without one; the status page says it anyway.
                level = logging.DEBUG if reason == NOT_BUILT_IN else logging.WARNING
                log.log(level, "provider skipped", extra={"model": spec.name, "provider": name, "reason": reason})
            for place in places(spec, verdict, first.provider, self._settings.thread_budget)[1:]:
                runners.append(self._open(spec, verdict, place)[0])  # noqa: PERF401 - what is open must be closed below
            for runner in runners:
                warm_up(spec, runner)
        except ExecutionError as error:
            for runner in runners:
                runner.close()
            raise LoadFailed(spec.name, str(error)) from error
        return runners

    def _open(self, spec: ModelSpec, verdict: Verdict, place: Place) -> tuple[SessionRunner, list[tuple[str, str]]]:
        """Start with the provider that the trial found working; what it skipped is reported once, not tried again."""
        known = dict(verdict.skipped)
        choices = [choice for choice in self._choices(spec) if choice.name not in known]
        runner, skipped = open_session(spec.path, spec.session, place.threads, choices, place.device)
        return runner, [*verdict.skipped, *skipped]

    def _choices(self, spec: ModelSpec) -> Sequence[ProviderChoice]:
        chosen = spec.providers or tuple(ProviderChoice(name) for name in self._settings.providers)
        return chosen if any(choice.name == "cpu" for choice in chosen) else (*chosen, ProviderChoice("cpu"))


def places(spec: ModelSpec, verdict: Verdict, provider: str, budget: int) -> list[Place]:
    """One place per instance: the config's instance groups, else one per device, else what the trial measured."""
    if provider in GPU_PROVIDERS:
        asked = [
            Place(gpu, 1)
            for group in spec.instance_groups
            if group.kind in ("GPU", "AUTO")
            for gpu in (group.gpus or (0,))
            for _ in range(group.count)
        ]
        return asked or [Place(0, 1)]
    layout = fixed_layout(spec, budget) or verdict.layout or CpuLayout(instances=1, threads=budget)
    return [Place(0, layout.threads)] * layout.instances


def may_run_inline(spec: ModelSpec, verdict: Verdict, provider: str) -> bool:
    """Tell whether runs are so short and so predictable that a thread hop would cost more than it saves."""
    if provider != "cpu" or not verdict.costs or verdict.graph is None or verdict.graph.control_flow:
        return False
    if verdict.layout != CpuLayout(instances=1, threads=1):
        return False
    if any(dim < 0 for tensor in spec.inputs for dim in tensor.dims):
        return False
    max_rows = spec.max_batch_size if spec.batching is not None else 0
    cost = CostModel(max(1, max_rows), INLINE_OVERHEAD_S, verdict.costs)
    return cost.predict(cost.pays) < INLINE_MAX_BATCH_S


def _threads(spec: ModelSpec, verdict: Verdict, settings: ServingSettings) -> int:
    layout = fixed_layout(spec, settings.thread_budget) or verdict.layout
    return layout.threads if layout is not None else settings.thread_budget
