"""The onnx package's own backend tests, each model loaded into a daemon and asked over the wire."""

import asyncio
import os
import random
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from runtime.client import AsyncClient
from runtime.core.tensor import Array
from tests.e2e import models
from tests.e2e.daemon import running
from tests.e2e.onnx_cases import Case, LeftOut, case_of, check, recorded, run_in_process

AT_ONCE = 6
"""Loads under way together: while one model is tried, others are asked."""
LEAST_PASSED = 0.65
"""Of all cases; fewer would mean that this test leaves out what it should look at."""


@dataclass
class Outcome:
    """What became of the cases."""

    passed: list[str] = field(default_factory=list)
    exact: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))


async def test_every_case_that_onnxruntime_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outcome = Outcome()
    candidates = {}
    for name, found in recorded():
        try:
            case = case_of(name, found)
            candidates[_model_name(name)] = case, run_in_process(case)
        except LeftOut as reason:
            outcome.left_out[str(reason)].append(name)
    for model, (case, _) in candidates.items():
        models.add(tmp_path / "models", model, {1: case.model})
    with running(tmp_path / "models", tmp_path, "--model-control-mode", "explicit") as daemon:
        async with AsyncClient(daemon.grpc) as client:
            left = iter(candidates.items())
            await asyncio.gather(*(_work(client, left, outcome) for _ in range(AT_ONCE)))
        assert daemon.stop() == 0, daemon.log
    with capsys.disabled():
        print("\n".join(_report(outcome)))
    assert not outcome.failed


async def _work(client: AsyncClient, left, outcome: Outcome) -> None:
    for model, (case, known) in left:
        try:
            await client.load(model)
            answers = await _answers(client, model, case)
            await client.unload(model)
            for (_, right), got in zip(case.samples, answers, strict=True):
                check(case, right, got)
        except Exception as error:
            outcome.failed[case.name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        else:
            outcome.passed.append(case.name)
            outcome.exact += all(
                first.tobytes() == second.tobytes() for a, b in zip(answers, known) for first, second in zip(a, b)
            )


async def _answers(client, model, case):
    got = []
    for given, right in case.samples:
        inputs = {name: array.reshape(array.shape or (1,)) for name, array in given.items()}
        answer = await client.infer(model, inputs)
        arrays = [answer[value.name] for value in case.model.graph.output]
        got.append([_as_recorded(array, want) for array, want in zip(arrays, right)])
    return got


def _as_recorded(array, want):
    if want.dtype == ml_dtypes.bfloat16:
        array = array.view(ml_dtypes.bfloat16)
    if want.dtype == object or want.dtype.kind in "US":
        array = np.array([each.decode() for each in array.ravel()], dtype=object).reshape(array.shape)
    return array.reshape(()) if want.shape == () and array.shape == (1,) else array


def _model_name(name: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", ".", name)


def _report(outcome):
    yield f"passed {len(outcome.passed)} exact {outcome.exact} failed {len(outcome.failed)}"
    for n, t in outcome.failed.items():
        yield f"  {n}: {t}"
    for reason, names in sorted(outcome.left_out.items(), key=lambda kv: -len(kv[1])):
        yield f"  {len(names)} {reason} {names[:3]}"
