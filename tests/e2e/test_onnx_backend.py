"""The onnx package's own backend tests, each model loaded into one daemon and asked over the wire.

What ONNX Runtime itself passes, the daemon has to pass. `SPILLWAY_ONNX_CASES=N` takes N of them, chosen by a fixed
seed; the end of the run says how many cases there are, how many passed, and why each of the others was left out.
"""

import asyncio
import os
import random
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from runtime.client import AsyncClient
from runtime.core.errors import SpillwayError
from runtime.core.tensor import Array
from tests.e2e import models
from tests.e2e.daemon import running
from tests.e2e.onnx_cases import Case, LeftOut, Recorded, case_of, check, recorded, run_in_process

SHARE = os.environ.get("SPILLWAY_ONNX_CASES", "all")
AT_ONCE = 6
"""Loads under way together: while one model is tried, others are loaded, asked and unloaded."""
LEAST_PASSED = 0.6
"""Of all cases. Fewer would mean that this test leaves out what it is there to look at."""

_MARGIN = 8 * " "


@dataclass
class Outcome:
    """What became of the cases. `exact` counts those that gave the very bytes that ONNX Runtime gives here."""

    passed: int = 0
    exact: int = 0
    failed: list[str] = field(default_factory=list)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))

    @property
    def total(self) -> int:
        """All cases looked at."""
        return self.passed + len(self.failed) + sum(map(len, self.left_out.values()))


async def test_every_case_that_onnxruntime_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome()
    cases = list(_cases_for_the_daemon(outcome))
    for case, _ in cases:
        models.add(tmp_path / "models", _model_of(case), {1: case.model})
    settings = {"SPILLWAY_REPOSITORY_PROBE_S": "0"}
    with running(tmp_path / "models", tmp_path, "--model-control-mode", "explicit", settings=settings) as daemon:
        async with AsyncClient(daemon.grpc) as client:
            left = iter(cases)
            await asyncio.gather(*(_put_all(client, left, outcome) for _ in range(AT_ONCE)))
        assert daemon.stop() == 0, daemon.log
    with capsys.disabled():
        print("\n".join(_report(outcome)))  # noqa: T201 - the count is asked for
    assert not outcome.failed
    assert outcome.passed >= LEAST_PASSED * outcome.total


def _cases_for_the_daemon(outcome: Outcome) -> Iterator[tuple[Case, list[list[Array]]]]:
    """Cases that ONNX Runtime passes, with its answers."""
    for found in _chosen():
        try:
            case = case_of(found)
            answers = run_in_process(case)
        except LeftOut as reason:
            outcome.left_out[str(reason)].append(found.name)
        else:
            yield case, answers


def _chosen() -> list[Recorded]:
    everything = recorded()
    return everything if SHARE == "all" else random.Random(2).sample(everything, int(SHARE))


async def _put_all(client: AsyncClient, cases: Iterator[tuple[Case, list[list[Array]]]], outcome: Outcome) -> None:
    for case, known in cases:
        model = _model_of(case)
        try:
            await client.load(model)
            answers = [await _ask(client, model, case, sample) for sample in range(len(case.samples))]
            await client.unload(model)
            for (_, right), got in zip(case.samples, answers, strict=True):
                check(case, right, got)
        except (SpillwayError, AssertionError) as error:
            outcome.failed.append(f"{case.name}: {' '.join(str(error).split())[:300]}")
        else:
            outcome.passed += 1
            outcome.exact += _bits(answers) == _bits(known)


async def _ask(client: AsyncClient, model: str, case: Case, sample: int) -> list[Array]:
    """The daemon's answer to one sample. Where the graph has a scalar, the protocol has one element."""
    given, right = case.samples[sample]
    answer = await client.infer(model, {name: array.reshape(array.shape or 1) for name, array in given.items()})
    arrays = [answer[output.name] for output in case.model.graph.output]
    return [_as_recorded(array, wanted) for array, wanted in zip(arrays, right, strict=True)]


def _as_recorded(array: Array, wanted: Array) -> Array:
    """The same values in the types and shapes that the package writes them in."""
    if wanted.dtype == ml_dtypes.bfloat16:
        array = array.view(ml_dtypes.bfloat16)
    elif array.dtype == np.object_:
        array = np.array([element.decode() for element in array.ravel().tolist()], np.object_).reshape(array.shape)
    return array.reshape(()) if wanted.shape == () and array.shape == (1,) else array


def _bits(samples: list[list[Array]]) -> list[list[object]]:
    return [[array.tolist() if array.dtype == np.object_ else array.tobytes() for array in each] for each in samples]


def _model_of(case: Case) -> str:
    """A name that a model may have."""
    return re.sub(r"[^A-Za-z0-9._-]", ".", case.name)


def _report(outcome: Outcome) -> Iterator[str]:
    yield f"\nonnx backend cases: {outcome.total}"
    yield f"  {outcome.passed:5} passed, {outcome.exact} of them to the bit as onnxruntime in this process"
    yield f"  {len(outcome.failed):5} failed"
    yield from (f"{_MARGIN}{each}" for each in outcome.failed)
    for reason, names in sorted(outcome.left_out.items(), key=lambda each: -len(each[1])):
        yield f"  {len(names):5} left out: {reason}"
        shown = ", ".join(name.removeprefix("node/") for name in names)
        yield from textwrap.wrap(shown, 120, initial_indent=_MARGIN, subsequent_indent=_MARGIN, break_on_hyphens=False)
