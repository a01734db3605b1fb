"""Where models run: pure rules, as tables."""

from pathlib import Path
from typing import Any

import pytest

from runtime.core.model import InstanceGroup, ModelSpec, SessionSettings
from runtime.core.verdict import CpuLayout, Verdict
from runtime.serving.layout import (
    MAX_MULTIPLIED_WEIGHTS,
    Place,
    Rates,
    best_layout,
    fixed_layout,
    may_multiply,
    places,
)

MIB = 1 << 20


def spec_of(*groups: InstanceGroup, threads: int | None = None) -> ModelSpec:
    return ModelSpec(
        "m", 1, Path("m.onnx"), (), (), instance_groups=groups, session=SessionSettings(intra_op_threads=threads)
    )


def layout(instances: int, threads: int) -> CpuLayout:
    return CpuLayout(instances=instances, threads=threads)


@pytest.mark.parametrize(
    ("rates", "budget", "best"),
    [
        (Rates(1000.0), 4, layout(1, 1)),  # small, the others were not tried
        (Rates(100.0, wide=300.0), 4, layout(1, 4)),
        (Rates(100.0, wide=101.0), 4, layout(1, 4)),  # nothing else was tried
        (Rates(100.0, wide=99.0), 4, layout(1, 1)),
        (Rates(100.0, wide=109.0, several=105.0), 4, layout(1, 1)),  # bound by memory: threads that do no more go
        (Rates(100.0, wide=111.0, several=105.0), 4, layout(1, 4)),
        (Rates(100.0, wide=300.0, several=320.0), 4, layout(1, 4)),  # not worth holding the weights four times
        (Rates(100.0, wide=300.0, several=331.0), 4, layout(4, 1)),
        (Rates(100.0, wide=90.0, several=109.0), 4, layout(1, 1)),
        (Rates(100.0, wide=90.0, several=190.0), 2, layout(2, 1)),
        (Rates(100.0), 1, layout(1, 1)),
    ],
)
def test_what_does_most_wins_if_it_does_clearly_more(rates: Rates, budget: int, best: CpuLayout) -> None:
    assert best_layout(rates, budget) == best


@pytest.mark.parametrize(
    ("weights", "session", "room", "budget", "allowed"),
    [
        (MAX_MULTIPLIED_WEIGHTS, 300 * MIB, 900 * MIB, 4, True),
        (MAX_MULTIPLIED_WEIGHTS + 1, 300 * MIB, 2**50, 2, False),
        (10 * MIB, 300 * MIB, 900 * MIB - 1, 4, False),
        (10 * MIB, 300 * MIB, 0, 1, True),
    ],
)
def test_weights_are_held_more_than_once_only_where_they_are_small_and_fit(
    weights: int, session: int, room: int, budget: int, *, allowed: bool
) -> None:
    assert may_multiply(weights, session, room, budget) is allowed


@pytest.mark.parametrize(
    ("spec", "budget", "asked"),
    [
        (spec_of(), 4, None),
        (spec_of(InstanceGroup(3, "CPU")), 8, layout(3, 2)),
        (spec_of(InstanceGroup(3, "CPU")), 2, layout(3, 1)),
        (spec_of(InstanceGroup(1, "AUTO"), InstanceGroup(1, "CPU")), 8, layout(2, 4)),
        (spec_of(InstanceGroup(2, "GPU", (0, 1))), 8, None),
        (spec_of(threads=2), 8, layout(4, 2)),
        (spec_of(threads=16), 8, layout(1, 16)),
        (spec_of(InstanceGroup(2, "CPU"), threads=3), 4, layout(2, 3)),
        (spec_of(threads=1), 1, layout(1, 1)),
    ],
)
def test_a_config_overrules_what_was_measured(spec: ModelSpec, budget: int, asked: CpuLayout | None) -> None:
    assert fixed_layout(spec, budget) == asked
    if asked is not None:
        verdict = Verdict(provider="cpu", layout=layout(7, 7))
        assert places(spec, verdict, "cpu", budget=budget, gpus=1) == [Place(0, asked.threads)] * asked.instances


@pytest.mark.parametrize(
    ("provider", "tried_on", "measured", "expected"),
    [
        ("cpu", "cpu", layout(2, 1), [Place(0, 1)] * 2),
        ("cpu", "cpu", None, [Place(0, 8)]),
        ("cpu", "cuda", layout(1, 1), [Place(0, 8)]),  # a GPU's layout says nothing about the CPU
        ("openvino", "openvino", layout(1, 1), [Place(0, 1)]),
        ("cuda", "cuda", layout(1, 1), [Place(0, 1), Place(1, 1)]),
        ("tensorrt", "cuda", layout(1, 1), [Place(0, 1), Place(1, 1)]),
    ],
)
def test_the_trial_counts_for_the_provider_it_ran_on(
    provider: str, tried_on: str, measured: CpuLayout | None, expected: list[Place]
) -> None:
    verdict = Verdict(provider=tried_on, layout=measured)
    assert places(spec_of(), verdict, provider, budget=8, gpus=2) == expected


@pytest.mark.parametrize(
    ("groups", "devices"),
    [
        ([], [0, 1]),
        ([InstanceGroup(2, "AUTO")], [0, 0, 1, 1]),
        ([InstanceGroup(1, "GPU", (1,))], [1]),
        ([InstanceGroup(2, "GPU", (1, 0))], [1, 1, 0, 0]),
        ([InstanceGroup(1, "GPU", (0,)), InstanceGroup(1, "GPU", (1,)), InstanceGroup(5, "CPU")], [0, 1]),
        ([InstanceGroup(5, "CPU")], [0, 1]),
    ],
)
def test_instances_on_gpus(groups: list[Any], devices: list[int]) -> None:
    verdict = Verdict(provider="cuda")
    found = places(spec_of(*groups), verdict, "cuda", budget=8, gpus=2)
    assert found == [Place(device, 1) for device in devices]


def test_a_machine_that_hides_its_gpus_has_one() -> None:
    assert places(spec_of(), Verdict(provider="cuda"), "cuda", budget=1, gpus=0) == [Place(0, 1)]
