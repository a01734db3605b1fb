"""Where a model version runs: how many instances, on which device, with how many threads. Pure.

What the config says comes first (`instance_group`, `intra_op_thread_count`), then what the trial measured, then one
session on all threads. Never assumes that threads or several sessions pay: each step that takes more must do more.
"""

from dataclasses import dataclass

from runtime.core.model import InstanceGroup, ModelSpec
from runtime.core.verdict import CpuLayout, Verdict

GPU_PROVIDERS = ("cuda", "tensorrt")
BETTER = 1.1
"""What takes more threads, or holds the weights more than once, must do this much more."""
MAX_MULTIPLIED_WEIGHTS = 256 << 20
"""Larger weights are held once only."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one session goes: the device index (0 on the CPU) and its threads."""

    device: int
    threads: int


@dataclass(frozen=True, slots=True)
class Rates:
    """Measured rows per second: one session on one thread, one on all threads, one-thread sessions side by side.

    0 where it was not tried, because the model is too small, too large or too slow.
    """

    one: float
    wide: float = 0.0
    several: float = 0.0


def fixed_layout(spec: ModelSpec, budget: int) -> CpuLayout | None:
    """The layout that the model's config asks for, or None where it leaves the choice to us."""
    threads = spec.session.intra_op_threads
    count = sum(group.count for group in spec.instance_groups if group.kind in ("CPU", "AUTO"))
    if count:
        return CpuLayout(instances=count, threads=threads or max(1, budget // count))
    if threads:
        return CpuLayout(instances=max(1, budget // threads), threads=threads)
    return None


def best_layout(rates: Rates, budget: int) -> CpuLayout:
    """The layout that does most, the cheaper one where two do about the same.

    Where several sessions were not tried, threads are all there is to keep the processor busy: equal is good enough.
    """
    if rates.several > BETTER * max(rates.one, rates.wide):
        return CpuLayout(instances=budget, threads=1)
    if rates.wide > (BETTER if rates.several else 1.0) * rates.one:
        return CpuLayout(instances=1, threads=budget)
    return CpuLayout(instances=1, threads=1)


def may_multiply(weight_bytes: int, session_bytes: int, room_bytes: int, budget: int) -> bool:
    """Tell whether one session per thread may be tried, beside one that took `session_bytes`."""
    return weight_bytes <= MAX_MULTIPLIED_WEIGHTS and session_bytes * (budget - 1) <= room_bytes


def places(spec: ModelSpec, verdict: Verdict, provider: str, *, budget: int, gpus: int) -> list[Place]:
    """One place per instance on `provider`; `gpus` is how many this machine has.

    The trial's layout counts only for the provider that the trial ran on.
    """
    if provider in GPU_PROVIDERS:
        return _gpu_places(spec.instance_groups, max(1, gpus))
    measured = verdict.layout if verdict.provider == provider else None
    layout = fixed_layout(spec, budget) or measured or CpuLayout(instances=1, threads=budget)
    return [Place(0, layout.threads)] * layout.instances


def _gpu_places(groups: tuple[InstanceGroup, ...], gpus: int) -> list[Place]:
    """`count` on each GPU of each group; one that names none, or no group at all, means every GPU, as in Triton."""
    asked = [group for group in groups if group.kind in ("GPU", "AUTO")] or [InstanceGroup(1, "AUTO")]
    return [Place(gpu, 1) for group in asked for gpu in (group.gpus or tuple(range(gpus))) for _ in range(group.count)]
