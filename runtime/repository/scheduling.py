"""How a config wants its model batched and spread over devices: `dynamic_batching` and `instance_group`. Pure.

The range checks are Triton's (its `ValidateModelConfig` and `ValidateInstanceGroup`); every refusal is a `ValueError`
that names the field, the value and the limit.
"""

from runtime.core.model import BatchPolicy, InstanceGroup, QueuePolicy
from runtime.wire.pb import model_config_pb2 as pb

MAX_INSTANCES = 256
MAX_TIMEOUT_US = 86_400_000_000
"""A day: no queue holds a request longer, and no arithmetic on times overflows."""


def batch_policy(config: pb.ModelConfig) -> BatchPolicy | None:
    """Read `dynamic_batching`; None where the config has none."""
    if not config.HasField("dynamic_batching"):
        return None
    batching = config.dynamic_batching
    for size in batching.preferred_batch_size:
        if not 0 < size <= config.max_batch_size:
            raise ValueError(f"preferred_batch_size {size} is not within 1..max_batch_size {config.max_batch_size}")
    policy = BatchPolicy(
        preferred_batch_sizes=tuple(sorted(set(batching.preferred_batch_size))),
        max_queue_delay_s=_seconds("max_queue_delay_microseconds", batching.max_queue_delay_microseconds),
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level if batching.priority_levels else 0,
        queue_policy=_queue_policy(batching.default_queue_policy),
        priority_queue_policies={
            level: _queue_policy(each) for level, each in sorted(batching.priority_queue_policy.items())
        },
    )
    _check_priorities(policy)
    _check_ordering(policy)
    return policy


def _queue_policy(policy: pb.ModelQueuePolicy) -> QueuePolicy:
    delay = policy.timeout_action == pb.ModelQueuePolicy.DELAY
    return QueuePolicy(
        timeout_action="DELAY" if delay else "REJECT",
        default_timeout_s=_seconds("default_timeout_microseconds", policy.default_timeout_microseconds),
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


def _seconds(field: str, microseconds: int) -> float:
    if microseconds > MAX_TIMEOUT_US:
        raise ValueError(f"{field} {microseconds} exceeds {MAX_TIMEOUT_US}")
    return microseconds / 1e6


def _check_priorities(policy: BatchPolicy) -> None:
    levels = policy.priority_levels
    if not levels:
        return
    if not 1 <= policy.default_priority_level <= levels:
        raise ValueError(
            f"default_priority_level {policy.default_priority_level} is not within 1..priority_levels {levels}"
        )
    for level in policy.priority_queue_policies:
        if not 1 <= level <= levels:
            raise ValueError(f"priority_queue_policy is for level {level}, not within 1..priority_levels {levels}")


def _check_ordering(policy: BatchPolicy) -> None:
    if not policy.preserve_ordering:
        return
    if policy.priority_levels > 1:
        raise ValueError(
            f"preserve_ordering allows one priority level, and priority_levels is {policy.priority_levels}"
        )
    for each in (policy.queue_policy, *policy.priority_queue_policies.values()):
        if each.timeout_action == "DELAY" and each.default_timeout_s:
            raise ValueError("preserve_ordering and a queue policy with timeout_action DELAY exclude each other")


def instance_groups(config: pb.ModelConfig) -> tuple[InstanceGroup, ...]:
    """Read `instance_group`; a group that says nothing (no count, no device) leaves the choice to the node."""
    groups = tuple(_instance_group(group) for group in config.instance_group if _says_something(group))
    total = sum(group.count * max(1, len(group.gpus)) for group in groups)
    if total > MAX_INSTANCES:
        raise ValueError(f"instance_group asks for {total} instances, limit {MAX_INSTANCES}")
    return groups


def on_cpu_only(config: pb.ModelConfig) -> bool:
    """Tell whether every instance group is for the CPU."""
    groups = config.instance_group
    return bool(groups) and all(group.kind == pb.ModelInstanceGroup.KIND_CPU for group in groups)


def _says_something(group: pb.ModelInstanceGroup) -> bool:
    chooses_itself = group.kind in (pb.ModelInstanceGroup.KIND_AUTO, pb.ModelInstanceGroup.KIND_MODEL)
    return bool(group.count or group.gpus) or not chooses_itself


def _instance_group(group: pb.ModelInstanceGroup) -> InstanceGroup:
    kind = pb.ModelInstanceGroup.Kind.Name(group.kind)
    label = f"instance_group '{group.name}'" if group.name else "instance_group"
    gpus = tuple(group.gpus)
    if group.count < 0:
        raise ValueError(f"{label} has count {group.count}, which must not be negative")
    if gpus and kind in ("KIND_CPU", "KIND_MODEL"):
        raise ValueError(f"{label} has kind {kind} but lists gpus {list(gpus)}")
    if len(set(gpus)) != len(gpus) or min(gpus, default=0) < 0:
        raise ValueError(f"{label} lists gpus {list(gpus)}: write each device index once, from 0")
    count = group.count or 1
    if kind == "KIND_CPU":
        return InstanceGroup(count, "CPU")
    return InstanceGroup(count, "GPU" if kind == "KIND_GPU" or gpus else "AUTO", gpus)
