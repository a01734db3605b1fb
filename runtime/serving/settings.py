"""Settings of the serving room: threads, providers, and the bounds of each model's queue."""

import math
import os
from pathlib import Path

import msgspec

PROVIDER_NAMES = ("tensorrt", "cuda", "openvino", "cpu")
MAX_THREADS = 1024
_GROUPS = Path("/sys/fs/cgroup")


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator may say about how models run on this node.

    `threads` 0 means the CPUs this process may use. `providers` is the order tried for models whose config names none,
    and nothing beyond it is tried: without `cpu` in it, a model fails where no other starts. TensorRT is not in the
    default order, because it builds engines for minutes: models ask for it in their config.
    The limits bound what waits per model version; a request over one is refused at the door (RESOURCE_EXHAUSTED).
    """

    threads: int = 0
    providers: tuple[str, ...] = ("cuda", "openvino", "cpu")
    inline: bool = True
    max_queued_requests: int = 10_000
    max_queued_bytes: int = 1 << 30
    max_wait_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse values out of range; the text names the key, the value and the limit."""
        if not 0 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads {self.threads} is not within 0..{MAX_THREADS}")
        unknown = [name for name in self.providers if name not in PROVIDER_NAMES]
        if unknown or not self.providers or len(set(self.providers)) != len(self.providers):
            raise ValueError(f"providers {list(self.providers)} must be some of {list(PROVIDER_NAMES)}, each once")
        for key in ("max_queued_requests", "max_queued_bytes", "max_wait_s"):
            if not getattr(self, key) >= 0:  # so that not-a-number is refused too
                raise ValueError(f"{key} {getattr(self, key)} is negative; 0 means no limit")

    @property
    def thread_budget(self) -> int:
        """CPU threads that one model may keep busy."""
        return self.threads or usable_cpus()


def usable_cpus(group: Path | None = None) -> int:
    """CPUs that this process may use: its affinity, or what its control group (version 2) is given if that is less."""
    allowed = len(os.sched_getaffinity(0))
    try:
        innermost = group or _GROUPS / Path("/proc/self/cgroup").read_text().rpartition("::")[2].strip().lstrip("/")
        quotas = [_quota(each) for each in (innermost, *innermost.parents)]
    except OSError:
        return allowed
    return max(1, min([allowed, *(math.ceil(quota) for quota in quotas if quota is not None)]))


def _quota(group: Path) -> float | None:
    """CPUs' worth of time that a control group gets; None without a limit."""
    file = group / "cpu.max"
    if not file.is_file():
        return None
    quota, _, period = file.read_text().partition(" ")
    return None if quota == "max" else int(quota) / int(period or 100_000)
