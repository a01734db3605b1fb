"""Settings of the repository room: where models lie, how they are controlled, and every limit on what they may hold.

`runtime/config.py` composes this with the other rooms' settings; only the daemon reads the whole.
"""

from pathlib import PurePath
from typing import Literal

import msgspec

GIB = 1 << 30
MIB = 1 << 20


class RepositorySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the operator may say about models on this node.

    `directories` are searched in order, the first that has a model wins. `control_mode` none loads everything at start
    and refuses load and unload calls; explicit loads what is named. `strict_readiness`: the server is ready only if
    every model that was asked for is. `state_dir` holds cached verdicts and override files.
    `follow_links` allows links that leave a model's folder (release folders, shared blobs): with it, what a link points
    to is served, so the operator vouches for all of it.
    `trial_memory_bytes` None means 80 % of the memory that is available when a trial starts. `drain_timeout_s` is how
    long a version that is unloaded may take to finish what it has.
    """

    directories: tuple[str, ...] = ()
    control_mode: Literal["none", "explicit"] = "none"
    strict_readiness: bool = True
    state_dir: str = "/var/lib/spillway"
    follow_links: bool = False
    default_max_batch_size: int = 4
    probe_s: float = 0.9
    trial_memory_bytes: int | None = None
    trial_timeout_s: float = 120.0
    drain_timeout_s: float = 30.0
    max_models: int = 10_000
    max_config_bytes: int = MIB
    max_version_files: int = 4096
    max_version_bytes: int = 256 * GIB
    max_override_bytes: int = GIB
    max_override_files: int = 1024
    max_cached_verdicts: int = 1024

    def __post_init__(self) -> None:
        """Refuse values out of range; the text names the key, the value and the limit."""
        for key in ("trial_timeout_s", "drain_timeout_s"):
            _in_range(key, getattr(self, key), 0.001, 86_400)
        _in_range("probe_s", self.probe_s, 0, 60)
        _in_range("default_max_batch_size", self.default_max_batch_size, 0, 65_536)
        if self.trial_memory_bytes is not None:
            _in_range("trial_memory_bytes", self.trial_memory_bytes, 64 * MIB, 2**50)
        for key in self.__struct_fields__:
            if key.startswith("max_"):
                _in_range(key, getattr(self, key), 1, 2**50)
        if not PurePath(self.state_dir).is_absolute():
            raise ValueError(f"state_dir {self.state_dir!r} is not an absolute path")
        if len(set(self.directories)) != len(self.directories):
            raise ValueError(f"directories {list(self.directories)} names one twice")


def _in_range(key: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{key} {value} is not within {low}..{high}")
