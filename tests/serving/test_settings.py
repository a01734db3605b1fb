"""Settings of the serving room: ranges, and how many processors there are."""

import math
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.serving.settings import ServingSettings, usable_cpus


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"threads": -1}, "threads -1 is not within 0..1024"),
        ({"threads": 1025}, "threads 1025 is not within 0..1024"),
        ({"providers": ()}, r"providers \[\] must be some of"),
        ({"providers": ("cpu", "gpu")}, "must be some of"),
        ({"providers": ("cpu", "cpu")}, "each once"),
        ({"max_wait_s": -0.1}, "max_wait_s -0.1 is negative"),
        ({"max_wait_s": math.nan}, "max_wait_s nan"),
        ({"max_queued_bytes": -1}, "max_queued_bytes -1 is negative; 0 means no limit"),
    ],
)
def test_values_out_of_range_are_refused_by_name(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServingSettings(**fields)


def test_threads_that_are_stated_are_taken() -> None:
    assert ServingSettings(threads=3).thread_budget == 3
    assert 1 <= ServingSettings().thread_budget <= len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("quotas", "cpus"),
    [
        (["max 100000"], math.inf),
        (["150000 100000"], 2),
        (["max 100000", "100000 100000"], 1),
        (["10000 100000", "800000 100000"], 1),
        (["6400000 100000"], 64),
        ([], math.inf),
    ],
)
def test_a_container_has_the_processors_that_its_group_gives_it(quotas: list[str], cpus: float, tmp_path: Path) -> None:
    """`quotas` from the innermost group outwards."""
    group = tmp_path.joinpath(*(f"level{index}" for index in range(len(quotas))))
    group.mkdir(parents=True, exist_ok=True)
    for quota, each in zip(quotas, (group, *group.parents), strict=False):
        (each / "cpu.max").write_text(f"{quota}\n")
    assert usable_cpus(group) == min(cpus, len(os.sched_getaffinity(0)))
