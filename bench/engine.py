"""What the engine itself costs: CPU per request from `Engine.submit` to `done`, without a model and without a network.

    python -m bench.engine [--quick] [--json FILE]

Closed loop on one event loop: every answer submits the next request, so N are in flight. The runner answers with its
input, so that all time is the engine's: bound head, queue, batch, answer, statistics. 256-byte inputs that share one
head, as a client's do; each has a deadline, as a gRPC call has. Medians over the rounds; shares come from a separate
run under cProfile, whose overhead weighs most on small functions. Target: 25 us per request with 64 in flight.
"""

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from runtime.core.inference import InferRequest, Outcome, RequestHead, Scheduler, TensorHead
from runtime.core.model import BatchPolicy, ModelSpec
from runtime.core.tensor import Array, TensorSpec
from runtime.core.verdict import RunCost
from runtime.serving.admission import Limits
from runtime.serving.batcher import Batcher
from runtime.serving.devices import DevicePool
from runtime.serving.engine import Engine
from runtime.serving.work import Work

WIDTH = 64
TARGET_US = 25.0
MODES = (("inline", 1), ("inline", 64), ("thread", 1), ("thread", 64))


class Echo:
    """Answers with its input, which nobody writes to here."""

    @property
    def provider(self) -> str:
        """As on any CPU."""
        return "cpu"

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:  # noqa: ARG002 - a Runner
        """No time at all."""
        return [feeds["x"]] * len(names)

    def close(self) -> None:
        """Nothing to give back."""


class OneModel:
    """A catalogue of one."""

    def __init__(self, scheduler: Scheduler) -> None:
        self._scheduler = scheduler

    def find(self, model: str, version: str) -> Scheduler:  # noqa: ARG002 - a Catalogue
        """Always the same."""
        return self._scheduler


class ClosedLoop:
    """Keeps `in_flight` requests on their way until `requests` were answered."""

    def __init__(self, engine: Engine, head: RequestHead, in_flight: int, requests: int) -> None:
        self._engine = engine
        self._head = head
        self._buffers = (np.zeros(WIDTH, np.float32).tobytes(),)
        self._to_send = requests
        self._to_hear = requests
        self._in_flight = in_flight
        self._loop = asyncio.get_running_loop()
        self._ended = self._loop.create_future()

    async def run(self) -> None:
        """Send and hear everything."""
        for _ in range(self._in_flight):
            self._send()
        await self._ended

    def _send(self) -> None:
        self._to_send -= 1
        self._engine.submit(InferRequest(self._head, self._buffers, "", self._loop.time() + 30.0), self._done)

    def _done(self, outcome: Outcome) -> None:
        assert not isinstance(outcome, Exception), outcome
        self._to_hear -= 1
        if self._to_send > 0:
            self._send()
        elif not self._to_hear:
            self._ended.set_result(None)


async def measure(
    mode: str, in_flight: int, requests: int, profile: cProfile.Profile | None = None
) -> dict[str, float]:
    """One round: CPU and wall microseconds per request, and rows per batch."""
    batcher = _batcher(inline=mode == "inline")
    engine = Engine(OneModel(batcher))
    head = RequestHead("echo", "", (TensorHead("x", "FP32", (1, WIDTH)),))
    await ClosedLoop(engine, head, in_flight, 10 * in_flight).run()  # warm
    before = batcher.statistics.execution_count
    cpu, wall = time.process_time(), time.perf_counter()
    if profile is not None:
        profile.enable()
    await ClosedLoop(engine, head, in_flight, requests).run()
    if profile is not None:
        profile.disable()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    runs = batcher.statistics.execution_count - before
    await batcher.close()
    return {"cpu_us": cpu / requests * 1e6, "wall_us": wall / requests * 1e6, "rows": requests / runs}


def _batcher(*, inline: bool) -> Batcher:
    spec = ModelSpec(
        "echo",
        1,
        Path("echo.onnx"),
        (TensorSpec("x", "FP32", (WIDTH,)),),
        (TensorSpec("y", "FP32", (WIDTH,)),),
        max_batch_size=64,
        batching=BatchPolicy(),
    )
    costs = [RunCost(rows=rows, run_s=10e-6) for rows in (1, 2, 4, 8, 16, 32, 64)]  # larger batches pay
    limits = Limits(max_requests=10_000, max_bytes=1 << 30, max_wait_s=30.0)
    return Batcher(spec, DevicePool([Echo()], "echo", inline=inline), limits, costs)


def shares(in_flight: int, requests: int) -> dict[str, float]:
    """Share of each module in the profiled time, largest first; C functions count for their callers."""
    profile = cProfile.Profile(builtins=False)
    asyncio.run(measure("inline", in_flight, requests, profile))
    times: dict[str, float] = defaultdict(float)
    for (file, _, _), (_, _, own_s, *_) in _rows(profile).items():
        times[_stage(file)] += own_s
    total = sum(times.values())
    return {stage: times[stage] / total for stage in sorted(times, key=times.__getitem__, reverse=True)}


def _rows(profile: cProfile.Profile) -> dict[tuple[str, int, str], tuple[int, int, float, float, Any]]:
    stats: Any = pstats.Stats(profile)
    rows: dict[tuple[str, int, str], tuple[int, int, float, float, Any]] = stats.stats
    return rows


def _stage(file: str) -> str:
    path = Path(file)
    if path == Path(__file__):
        return "the bench"
    return path.stem if path.parent.name in ("serving", "core") else f"{path.parent.name}/{path.stem}"


def main() -> int:
    """Measure, print, and say whether the target is met."""
    arguments = argparse.ArgumentParser(description="CPU cost of the engine per request")
    arguments.add_argument("--quick", action="store_true", help="fewer requests and rounds")
    arguments.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    options = arguments.parse_args()
    requests, rounds = (4_000, 3) if options.quick else (40_000, 5)

    figures: dict[str, Any] = {"cpus": os.cpu_count(), "python": sys.version.split()[0], "cells": {}}
    print(f"per request, medians of {rounds} rounds of {requests}:")
    print(f"{'runs':8} {'in flight':>9} {'CPU us':>8} {'wall us':>8} {'rows/batch':>10}")
    for mode, in_flight in MODES:
        measured = [asyncio.run(measure(mode, in_flight, requests)) for _ in range(rounds)]
        cell = {key: statistics.median(each[key] for each in measured) for key in measured[0]}
        figures["cells"][f"{mode}/{in_flight}"] = cell
        print(f"{mode:8} {in_flight:9} {cell['cpu_us']:8.1f} {cell['wall_us']:8.1f} {cell['rows']:10.1f}")
    figures["shares"] = shares(64, requests)
    print("shares of the time, inline with 64 in flight:")
    for stage, share in figures["shares"].items():
        if share >= 0.01:
            print(f"  {stage:20} {share:6.1%}")
    reached = figures["cells"]["inline/64"]["cpu_us"]
    print(f"target {TARGET_US} us at 64 in flight: {'met' if reached <= TARGET_US else 'missed'} ({reached:.1f} us)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0 if reached <= TARGET_US else 1


if __name__ == "__main__":
    raise SystemExit(main())
