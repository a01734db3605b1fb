"""The daemon beside the best in-process onnxruntime, a bare grpc.aio echo, KServe, mosec and PyTriton (issue 2).

    python -m bench.serve [--quick] [--gpu] [--json FILE] [--models mlp,echo] [--servers 'spillway,kserve']

For each model: every server is first started alone (start time, memory), then all stay up and the rounds run: cell by
cell (1, 8, 32 calls in flight; open loop) each server in turn, then in-process onnxruntime, so that a disturbance of
the machine meets them all. Figures are medians over the rounds. The open loop has the same seeded arrivals for all, at
a rate that all but the slowest can serve. Targets are printed beside the figures; exit status 1 when one is missed.

The loader runs on the same cores as the servers and prints its own CPU; a C++ echo gives its ceiling.
"""

import argparse
import collections
import contextlib
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
from rich.console import Console

from bench import batches, findings, harness, limits, models, report, servers, targets
from bench.environments import Unavailable
from bench.harness import Running, Shape
from bench.limits import Limit
from bench.models import Model, Prepared
from bench.results import Absent, LimitSample, Results, Sample, Standing

_CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"
_OPEN = "open"


@dataclass(frozen=True)
class Settings:
    """How long and how often."""

    rounds: int = 3
    concurrencies: tuple[int, ...] = (1, 8, 32)
    window_s: float = 3.0
    slow_window_s: float = 6.0
    sweep_s: float = 0.7
    open_loop: bool = True

    @property
    def cells(self) -> list[str]:
        """Names of the cells, in order."""
        return [f"c{c}" for c in self.concurrencies] + ([_OPEN] if self.open_loop else [])

    def shape(self, model: Model, concurrency: int) -> Shape:
        """A closed loop on a model."""
        window = self.slow_window_s if model.slow else self.window_s
        warmup = min(1.0, window / 4)
        return Shape(concurrency=concurrency, duration_s=window, warmup_s=warmup, connections=min(concurrency, 4))


GPU = Settings(concurrencies=(1, 32, 128))
QUICK = Settings(rounds=1, concurrencies=(1, 32), window_s=1.5, slow_window_s=3.0, sweep_s=0.3, open_loop=False)


@dataclass(frozen=True)
class Bench:
    """One model on all servers."""

    settings: Settings
    prepared: Prepared
    builders: Sequence[str]
    provider: str
    results: Results
    console: Console

    def run(self) -> None:
        """Everything for this model; what was measured goes to `results`."""
        self.console.print(f"{self.prepared.model.name}: servers alone, one after another", highlight=False)
        alone = [standing for name in self.builders if (standing := self._alone(name)) is not None]
        found = limits.sweep(self.prepared, self.settings.sweep_s, self.provider)
        with contextlib.ExitStack() as stack:
            turn = collections.deque(self._together(stack, alone))
            rate = 0.0
            for number in range(self.settings.rounds):
                self.console.print(f"{self.prepared.model.name}: round {number + 1} of {self.settings.rounds}")
                turn.rotate(-1)  # nobody is always the first after a pause
                for concurrency in self.settings.concurrencies:
                    self._closed(turn, concurrency, number, found)
                if self.settings.open_loop:
                    rate = rate or self._open_rate()
                    self._open(turn, rate, number)

    def _together(self, stack: contextlib.ExitStack, alone: Iterable[Standing]) -> Iterator[Running]:
        """The servers that came up alone, up again all at once until the stack closes."""
        for standing in alone:
            try:
                target = stack.enter_context(self._started(standing.server))
            except Unavailable as reason:
                self.results.absent.append(Absent(standing.model, standing.server, f"second start: {reason}"))
                continue
            self.results.standings.append(msgspec.structs.replace(standing, start_s=target.start_s))
            yield target

    def _alone(self, name: str) -> Standing | None:
        model = self.prepared.model
        shutil.rmtree(_scratch(name), ignore_errors=True)
        try:
            with self._started(name) as target:
                before = target.memory_bytes()
                harness.run_loader(target, self.prepared, self.settings.shape(model, 8))
                after = target.memory_bytes()
        except Unavailable as reason:
            self.results.absent.append(Absent(model.name, name, str(reason)))
            return None
        return Standing(model.name, name, target.start_s, before, after)

    @contextlib.contextmanager
    def _started(self, name: str) -> Iterator[Running]:
        scratch = _scratch(name)
        scratch.mkdir(parents=True, exist_ok=True)
        server = servers.BUILDERS[name](self.prepared, scratch)
        with harness.running(server, self.prepared, scratch) as target:
            yield target

    def _closed(self, turn: Iterable[Running], concurrency: int, number: int, found: list[Limit]) -> None:
        shape = self.settings.shape(self.prepared.model, concurrency)
        cell = f"c{concurrency}"
        for target in turn:
            self._sample(target, cell, shape, number)
        again = limits.run(self.prepared, limits.best(found, concurrency), self._window_s(), self.provider)
        limit = max(again, key=lambda one: one.rows_per_s)
        self.results.limits.append(LimitSample(self.prepared.model.name, cell, number, limit))

    def _open(self, turn: Iterable[Running], rate: float, number: int) -> None:
        # HTTP/1.1 has one call on a connection: its loader gets as many connections as arrivals may overlap.
        top = max(self.settings.concurrencies)
        closed = self.settings.shape(self.prepared.model, top)
        shape = Shape(4 * top, rate, closed.duration_s, closed.warmup_s, closed.connections)
        for target in turn:
            self._sample(target, _OPEN, shape, number)

    def _window_s(self) -> float:
        """How long in-process runs take in a round: a share of CPU near 0.93 needs better than a few runs."""
        return self.settings.sweep_s * (4 if self.prepared.model.slow else 1)

    def _open_rate(self) -> float:
        """Arrivals a second: a quarter of what the bare echo does, and half of what the model can do."""
        model, cell = self.prepared.model.name, f"c{max(self.settings.concurrencies)}"
        limit = self.results.limit_rate(model, cell) or 1.0
        floor = self.results.rate(model, servers.FLOOR, cell) or limit
        return min(floor / 4, limit / 2)

    def _sample(self, target: Running, cell: str, shape: Shape, number: int) -> None:
        model, name = self.prepared.model.name, target.server.name
        is_ours = name == servers.OURS  # of the peers only PyTriton counts its batches, behind a token of its own
        try:
            before = batches.read(target.address, model) if is_ours else None
            measured = harness.measure(target, self.prepared, shape)
            sample = Sample(model, name, cell, number, measured.load, measured.server_cpu_ms)
            if before is not None:
                made = batches.read(target.address, model).since(before)
                sample = self._with_batches(sample, made, 1 if shape.rate else shape.concurrency)
        except Unavailable as reason:
            self.results.absent.append(Absent(model, name, f"{cell} of round {number + 1}: {reason}"))
        else:
            self.results.samples.append(sample)

    def _with_batches(self, sample: Sample, made: batches.Counts, concurrency: int) -> Sample:
        """The sample with the batch size that came about, and what ONNX Runtime needs at that size."""
        at = limits.at_batch(made.mean_batch, concurrency)
        alone = limits.run(self.prepared, [at], self._window_s(), self.provider)[0]
        return msgspec.structs.replace(
            sample, mean_batch=made.mean_batch, ort_cpu_ms=alone.cpu_ms_per_row, ort_wall_ms=made.wall_ms_per_row
        )


def main() -> int:
    """Run the bench as the command line says."""
    args = _arguments()
    console = Console() if sys.stdout.isatty() else Console(width=160)  # a pipe would get 80 columns
    settings = QUICK if args.quick else GPU if args.gpu else Settings()
    known = models.GPU_MODELS if args.gpu else models.CPU_MODELS
    chosen = [model for model in known if not args.models or model.name in args.models.split(",")]
    names = args.servers.split(",") if args.servers else [servers.OURS] if args.gpu else list(servers.BUILDERS)
    unknown = set(names) - set(servers.BUILDERS)
    if unknown or not chosen:
        console.print(f"no such server or model; servers: {list(servers.BUILDERS)}, models: {[m.name for m in known]}")
        return 2
    try:
        harness.build_loader()
    except Unavailable as reason:
        console.print(str(reason), markup=False)
        return 2
    results = Results(machine=findings.machine(), settings=_described(settings, chosen))
    provider = "CUDAExecutionProvider" if args.gpu else limits.CPU
    for model in chosen:
        # The model without batching is compared with our own batched one only.
        builders = [name for name in names if name == servers.OURS or model is not models.GEMM_NOBATCH]
        Bench(settings, models.prepare(model, _CACHE), builders, provider, results, console).run()
    report.show(console, results, chosen, settings.cells)
    verdicts = targets.judge(results)
    report.show_targets(console, verdicts)
    if args.json:
        Path(args.json).write_bytes(msgspec.json.format(msgspec.json.encode(results)))
    return 1 if targets.missed(verdicts) else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one short round, concurrency 1 and 32 only")
    parser.add_argument("--gpu", action="store_true", help="fp16 models on a GPU, served against in-process")
    parser.add_argument("--json", metavar="FILE", help="write every sample to FILE")
    parser.add_argument("--models", metavar="NAMES", help="comma-separated; all without it")
    parser.add_argument("--servers", metavar="NAMES", help="comma-separated; all without it")
    return parser.parse_args()


def _scratch(name: str) -> Path:
    """A server's own directory: its log, its announcement, its state."""
    return _CACHE / "run" / name.replace(" ", "-")


def _described(settings: Settings, chosen: Sequence[Model]) -> dict[str, str]:
    return {
        "models": ",".join(model.name for model in chosen),
        "cells": ",".join(settings.cells),
        "rounds": str(settings.rounds),
        "window_s": str(settings.window_s),
        "slow_window_s": str(settings.slow_window_s),
    }


if __name__ == "__main__":
    sys.exit(main())
