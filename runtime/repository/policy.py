"""Which versions of a model are served, and the next step towards it. Pure: plain values in, a decision out.

What should be served is stated whole: a version that is left out is to be unloaded. New versions become visible all at
once (`Publish`), so a load that fails half-way changes nothing. Two orders, named for their trade:

    keep_available   load new, publish, then unload old       needs room for both
    spare_memory     unload old, load new, publish            nothing answers meanwhile
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from runtime.wire.pb import model_config_pb2 as pb

Order = Literal["keep_available", "spare_memory"]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One model now. Marks are equal for equal files and config (`gate.Candidate.mark`)."""

    wanted: Mapping[int, str] = field(default_factory=dict)
    serving: Mapping[int, str] = field(default_factory=dict)
    staged: Collection[int] = ()  # loaded and warm, not yet visible
    order: Order = "keep_available"


@dataclass(frozen=True, slots=True)
class Load:
    """Load this version, out of sight."""

    version: int


@dataclass(frozen=True, slots=True)
class Publish:
    """Let all staged versions take requests, in place of their predecessors of the same number."""


@dataclass(frozen=True, slots=True)
class Unload:
    """Let this version finish what it has, then give it up."""

    version: int


def next_action(now: Snapshot) -> Load | Publish | Unload | None:
    """Decide the next step; None when what is served is what is wanted. Highest versions are loaded first."""
    stale = [version for version, mark in sorted(now.serving.items()) if now.wanted.get(version) != mark]
    missing = [
        version
        for version, mark in sorted(now.wanted.items())
        if now.serving.get(version) != mark and version not in now.staged
    ]
    if stale and now.order == "spare_memory":
        return Unload(stale[0])
    if missing:
        return Load(missing[-1])
    if now.staged:
        return Publish()
    return Unload(stale[0]) if stale else None


def wanted_versions(policy: pb.ModelVersionPolicy, there: Collection[int]) -> tuple[int, ...]:
    """Apply a version policy to the versions on disk; ascending.

    Raises:
        ValueError: the policy leaves nothing to serve.
    """
    if policy.WhichOneof("policy_choice") == "all":
        chosen = set(there)
    elif policy.WhichOneof("policy_choice") == "specific":
        chosen = set(there) & set(policy.specific.versions)
    else:
        chosen = set(sorted(there)[-max(1, policy.latest.num_versions) :])
    if not chosen:
        raise ValueError(f"the version policy asks for {list(policy.specific.versions)}, there are {sorted(there)}")
    return tuple(sorted(chosen))


def swap_order(needed_bytes: int, available_bytes: int, freed_bytes: int) -> Order | None:
    """Choose the order by memory; `freed_bytes` is what the old versions hold. None: it does not fit either way."""
    if needed_bytes <= available_bytes:
        return "keep_available"
    if freed_bytes and needed_bytes <= available_bytes + freed_bytes:
        return "spare_memory"
    return None
