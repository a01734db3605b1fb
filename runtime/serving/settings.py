"""Settings of the serving room: threads, providers, and the bounds of each model's queue."""

import os

import msgspec

PROVIDER_NAMES = ("tensorrt", "cuda", "openvino", "cpu")


class ServingSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator may say about how models run on this node.

    `threads` 0 means the CPUs this process may use. `providers` is the order tried for models whose config names none;
    TensorRT is not in the default order, because it builds engines for minutes: models ask for it in their config.
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
        if not 0 <= self.threads <= 1024:
            raise ValueError(f"threads {self.threads} is not within 0..1024")
        unknown = [name for name in self.providers if name not in PROVIDER_NAMES]
        if unknown or not self.providers:
            raise ValueError(f"providers {list(self.providers)} must be some of {list(PROVIDER_NAMES)}")
        for key in ("max_queued_requests", "max_queued_bytes", "max_wait_s"):
            if getattr(self, key) < 0:
                raise ValueError(f"{key} {getattr(self, key)} is negative; 0 means no limit")

    @property
    def thread_budget(self) -> int:
        """CPU threads that one model may keep busy."""
        return self.threads or len(os.sched_getaffinity(0))
