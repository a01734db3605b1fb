"""Does the daemon grow? Loads and unloads, many requests, and one large model (issue 2; ops.md F17).

    python -m bench.soak [--quick] [--json FILE] [--plot FILE]

Growth is the slope of a straight line through the resident memory of the daemon's process, without a warm-up: the first
tenth, and at least 20,000 requests or 60 cycles, in which each of glibc's arenas comes to hold freed memory at its end
(`malloc_trim` does not give that back). Open files and threads of the last tenth are compared with the tenth after
the warm-up; the event loop's executor may still add threads, up to its limit. Requests are sent in portions, each over
new connections, and memory is read between them; a cycle loads a model of 4 MB, asks it once, unloads it.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Self

import grpc
import numpy as np
import tritonclient.grpc

from bench import alone, findings, graphs, harness, models
from bench.alone import Held
from bench.findings import CACHE, Findings
from bench.harness import Running, Shape
from bench.models import Model, Prepared

_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_PORTION = 2_000
_IN_FLIGHT = 8
_CLOSING_S = 0.5
_MEGABYTE = 1 << 20
_WARM_UP = 10  # one part in so many
_WARM_UP_CYCLES, _WARM_UP_REQUESTS = 60, 20_000
_EXECUTOR_THREADS = 2
_ONE_INSTANCE = "instance_group [ { kind: KIND_CPU count: 1 } ]"
_EXPLICIT = ("--model-control-mode", "explicit", "--load-model")
_SHRINK = 'parameters { key: "memory.enable_memory_arena_shrinkage" value { string_value: "cpu:0" } }'


def _weights(width: int, layers: int, *, shrink: bool = False) -> Model:
    return Model(
        f"gemm{width}x{layers}{'_shrink' if shrink else ''}",
        f"{4 * layers * width**2 / 1e6:.0f} MB of weights",
        lambda: graphs.gemm(width=width, layers=layers),
        lambda random: {"x": random.standard_normal((1, width)).astype(np.float32)},
        max_batch=32,
        config=f"{_ONE_INSTANCE}\n{_SHRINK if shrink else ''}",
    )


SMALL = _weights(256, 16)
LARGE = _weights(1936, 6)
LARGE_SHRINK = _weights(1936, 6, shrink=True)


@dataclass
class Curve:
    """What the daemon held after so many steps (cycles or requests). `least` is the least warm-up, in points."""

    least: int = 0
    steps: list[int] = field(default_factory=list)
    held: list[Held] = field(default_factory=list)

    def note(self, step: int, held: Held) -> None:
        """One more point."""
        self.steps.append(step)
        self.held.append(held)

    @property
    def warm_up(self) -> int:
        """Points that are not judged."""
        return max(self.least, len(self.steps) // _WARM_UP)

    @property
    def line(self) -> tuple[float, float]:
        """Bytes a step, and bytes at step 0, by least squares after the warm-up."""
        judged = [held.rss_bytes for held in self.held[self.warm_up :]]
        slope, start = np.polyfit(self.steps[self.warm_up :], judged, 1)
        return float(slope), float(start)

    def growth(self, read: Callable[[Held], int]) -> float:
        """Median of the last tenth less that of the first after the warm-up."""
        part = max(1, len(self.held) // _WARM_UP)
        first, last = self.held[self.warm_up :][:part], self.held[-part:]
        return statistics.median(map(read, last)) - statistics.median(map(read, first))


class Operator:
    """Loads and unloads models of a running daemon, and asks them."""

    def __init__(self, target: Running) -> None:
        self._control = tritonclient.grpc.InferenceServerClient(target.address)
        self._channel = grpc.insecure_channel(target.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_METHOD)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()
        self._control.close()

    def load(self, prepared: Prepared, requests: int) -> None:
        """Load a model and ask it a few times."""
        self._control.load_model(prepared.model.name)
        request = prepared.request.read_bytes()
        for _ in range(requests):
            self._infer(request, timeout=30)

    def unload(self, prepared: Prepared) -> None:
        """Unload it; returns when it is gone."""
        self._control.unload_model(prepared.model.name)


def cycles(count: int) -> Curve:
    """Memory after each of `count` loads and unloads."""
    resident, cycled = models.prepare(models.MLP, CACHE), models.prepare(SMALL, CACHE)
    curve = Curve(_WARM_UP_CYCLES)
    flags = ("--model-repository", str(cycled.repository), *_EXPLICIT, resident.model.name)
    with alone.daemon(resident, "soak-cycles", *flags) as target, Operator(target) as operator:
        for number in range(1, count + 1):
            operator.load(cycled, requests=1)
            operator.unload(cycled)
            curve.note(number, alone.held(target))
    return curve


def requests(count: int) -> Curve:
    """Memory after every portion of `count` requests.

    Raises:
        RuntimeError: a request failed or was answered wrong: this is no soak then.
    """
    prepared = models.prepare(models.MLP, CACHE)
    curve = Curve(_WARM_UP_REQUESTS // _PORTION)
    shape = Shape(_IN_FLIGHT, connections=_IN_FLIGHT, count=_PORTION)
    with alone.daemon(prepared, "soak-requests") as target:
        for sent in range(_PORTION, count + 1, _PORTION):
            load = harness.run_loader(target, prepared, shape)
            if not load.clean:
                raise RuntimeError(f"{load.counted} calls, {load.codes}, {load.mismatched} answered wrong")
            curve.note(sent, _disconnected(target, curve))
    return curve


def _disconnected(target: Running, curve: Curve) -> Held:
    """What the daemon holds once it has noticed that the last loader is gone."""
    least = min((held.files for held in curve.held), default=0)
    until = time.monotonic() + _CLOSING_S
    while (held := alone.held(target)).files > least and time.monotonic() < until:
        time.sleep(0.01)
    return held


def large(model: Model) -> Iterator[tuple[str, int]]:
    """Resident bytes before a large model is loaded, when it has answered, and after its unload."""
    resident, prepared = models.prepare(models.MLP, CACHE), models.prepare(model, CACHE)
    flags = ("--model-repository", str(prepared.repository), *_EXPLICIT, resident.model.name)
    with alone.daemon(resident, "soak-large", *flags) as target, Operator(target) as operator:
        yield "before", alone.held(target).rss_bytes
        operator.load(prepared, requests=20)
        yield "loaded", alone.held(target).rss_bytes
        operator.unload(prepared)
        yield "after", alone.held(target).rss_bytes


def program(found: Findings, plot: Path | None) -> None:
    """All three, then the targets."""
    for model in (LARGE, LARGE_SHRINK):
        sizes = {when: size / _MEGABYTE for when, size in large(model)}
        found.figures[model.name] = sizes
        text = ", ".join(f"{when} {size:.0f}" for when, size in sizes.items())
        found.say(f"{model.name} ({model.title}), resident MiB: {text}, kept {sizes['after'] - sizes['before']:.0f}")
    curves = {
        "load/unload cycle": cycles(200 if found.quick else 1_000),
        "request": requests(80_000 if found.quick else 200_000),
    }
    for step, curve in curves.items():
        first, last = curve.held[0].rss_bytes / _MEGABYTE, curve.held[-1].rss_bytes / _MEGABYTE
        found.say(f"{curve.steps[-1]} x {step}: {first:.1f} to {last:.1f} MiB, {curve.line[0]:.1f} bytes each")
        found.figures[step] = asdict(curve)
    found.at_most("growth by a load and unload, KiB", curves["load/unload cycle"].line[0] / 1024, 20)
    found.at_most("growth by a request, bytes", curves["request"].line[0], 10)
    for step, curve in curves.items():
        found.at_most(f"more open files by the end ({step}s)", curve.growth(lambda held: held.files), 0)
        found.at_most(f"more threads by the end ({step}s)", curve.growth(lambda held: held.threads), _EXECUTOR_THREADS)
    lines = [line for name in ("soak-cycles", "soak-requests") for line in alone.complaints(name)]
    found.figures["complaints"] = lines
    found.at_most("warnings and errors in the log", float(len(lines)), 0)
    if plot is not None:
        draw(curves, plot)


def draw(curves: dict[str, Curve], file: Path) -> None:
    """Memory over steps, one panel each, with the line whose slope is judged."""
    import matplotlib as mpl  # noqa: PLC0415 - needed for plots only

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(1, len(curves), figsize=(11, 4), layout="constrained")
    for panel, (step, curve) in zip(panels, curves.items(), strict=True):
        slope, start = curve.line
        judged = np.array(curve.steps[curve.warm_up :])
        panel.plot(curve.steps, [held.rss_bytes / _MEGABYTE for held in curve.held], color="#4c72b0", linewidth=1)
        panel.plot(judged, (start + slope * judged) / _MEGABYTE, color="#c44e52", label=f"{slope:.1f} bytes each")
        panel.set(xlabel=f"{step}s", ylabel="resident MiB", title=f"daemon's memory over {step}s")
        panel.locator_params(axis="x", nbins=5)  # six-digit counts side by side would run into each other
        panel.legend(frameon=False)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def main() -> int:
    """Run as the command line says."""
    parser = findings.arguments(__doc__)
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw both curves as PNG")
    args = parser.parse_args()
    return findings.measured("soak", args, lambda found: program(found, args.plot))


if __name__ == "__main__":
    sys.exit(main())
