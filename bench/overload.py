"""Ten times more requests than the daemon can serve (issue 2; ops.md F15): does it stay useful, and refuse at once?

    python -m bench.overload [--quick] [--json FILE]

In each round: the peak (calls in flight all the time, then arrivals just below that rate; the better goodput counts),
then arrivals at ten times the peak, then single calls until they take as long as before. All with the same deadline,
and goodput is what came in time: OK, right, within the deadline from its intended start.

The model is convolutions on a small image, 12 KB in, cut to about 10 ms on this machine, on one instance with one
thread: batching gains nothing there, so its capacity is about 100/s, and one core is left to the front, for which 900
refusals a second are most of the work. A batching model of the same speed would serve thousands of rows a second; ten
times that measures how fast two cores can say no, not whether the daemon keeps serving.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Self

import grpc
import numpy as np
import onnxruntime as ort

from bench import alone, findings, graphs, harness, models
from bench.findings import CACHE, Findings
from bench.harness import Load, Running, Shape
from bench.models import Model, Prepared
from bench.results import middle

DEADLINE_MS = 100
RUN_MS = 10.0
TIMES = 10
_TRIED_LAYERS = 8
_IN_FLIGHT = 4
_BELOW_PEAK = 0.95
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_NORMAL = 1.5  # a call this many times the p99 of quiet calls is not normal
_NORMAL_CALLS = 20  # in a row: the daemon has recovered when the first of them starts
_RECOVERY_LIMIT_S = 10.0
_ONE_THREAD = """
instance_group [ { kind: KIND_CPU count: 1 } ]
parameters { key: "intra_op_thread_count" value { string_value: "1" } }
"""


@dataclass(frozen=True)
class Round:
    """What one round found."""

    peak: float  # goodput, a second
    loads: dict[str, Load]
    server_cores: float  # under overload
    recovery_s: float | None

    @property
    def over(self) -> Load:
        """The load at ten times the peak."""
        return self.loads["over"]

    @property
    def kept(self) -> float:
        """Goodput under overload as a share of the peak."""
        return self.over.goodput / self.peak

    @property
    def in_time(self) -> float:
        """Share of the admitted requests that met their deadline; 0.99 and more is `p99 <= deadline`."""
        over = self.over
        admitted = over.ok + over.codes.get("DEADLINE_EXCEEDED", 0)
        return over.goodput * over.window_s / admitted if admitted else 0.0

    @property
    def refused_p99_ms(self) -> float | None:
        """How soon a refusal comes."""
        refused = self.over.code_ms.get("RESOURCE_EXHAUSTED")
        return None if refused is None else refused.p99


def model() -> Model:
    """Convolutions that take about `RUN_MS` on one thread of this machine."""
    graph = graphs.convolutions(layers=_TRIED_LAYERS)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feeds = _image(np.random.default_rng(7))
    times = []
    for _ in range(30):
        begun = time.thread_time()  # not wall time: whoever else runs here must not make the model smaller
        session.run(None, feeds)
        times.append(time.thread_time() - begun)
    layers = max(1, round(_TRIED_LAYERS * RUN_MS / 1e3 / statistics.median(times)))
    return Model(
        f"convolutions{layers}",
        "convolutions, 12 KB in",
        lambda: graphs.convolutions(layers=layers),
        _image,
        max_batch=1,
        config=_ONE_THREAD,
    )


def _image(random: np.random.Generator) -> models.Arrays:
    return {"x": random.standard_normal((1, 3, 32, 32)).astype(np.float32)}


class Prober:
    """One caller that waits for each answer before it asks again."""

    def __init__(self, target: Running, prepared: Prepared) -> None:
        self._channel = grpc.insecure_channel(target.address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(_METHOD)
        self._request = prepared.request.read_bytes()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def call_s(self) -> float:
        """Seconds that one call took; infinity where it was refused."""
        begun = time.monotonic()
        try:
            self._infer(self._request, timeout=1.0)
        except grpc.RpcError:
            return float("inf")
        return time.monotonic() - begun

    def normal_s(self, calls: int) -> float:
        """What a call may take and still count as normal. To be asked while nobody else calls."""
        return _NORMAL * float(np.percentile([self.call_s() for _ in range(calls)], 99))

    def recovery_s(self, normal_s: float, clock: Callable[[], float] = time.monotonic) -> float | None:
        """Seconds until calls are normal again; None when they are not within `_RECOVERY_LIMIT_S`."""
        begun = since = clock()
        in_a_row = 0
        while in_a_row < _NORMAL_CALLS:
            now = clock()
            if now - begun > _RECOVERY_LIMIT_S:
                return None
            if self.call_s() > normal_s:
                in_a_row = 0
                continue
            since = now if in_a_row == 0 else since
            in_a_row += 1
        return since - begun


def one_round(target: Running, prepared: Prepared, window_s: float) -> Round:
    """Peak, overload, recovery."""
    closed = Shape(_IN_FLIGHT, 0, window_s, 0.5, _IN_FLIGHT, deadline_ms=DEADLINE_MS)
    loads = {"closed": harness.run_loader(target, prepared, closed)}
    below = Shape(1, _BELOW_PEAK * loads["closed"].goodput, window_s, 0.5, _IN_FLIGHT, deadline_ms=DEADLINE_MS)
    loads["below"] = harness.run_loader(target, prepared, below)
    peak = max(load.goodput for load in loads.values())
    with Prober(target, prepared) as prober:
        normal_s = prober.normal_s(100)
        shape = Shape(1, TIMES * peak, window_s, 1.0, _IN_FLIGHT, deadline_ms=DEADLINE_MS)
        before_s = target.cpu_s()
        loads["over"] = harness.run_loader(target, prepared, shape)
        server_cores = (target.cpu_s() - before_s) / loads["over"].elapsed_s
        recovery_s = prober.recovery_s(normal_s)
    return Round(peak, loads, server_cores, recovery_s)


def program(found: Findings) -> None:
    """All rounds; figures are medians over them."""
    prepared = models.prepare(model(), CACHE)
    window_s, count = (2.0, 3) if found.quick else (5.0, 5)
    found.say(f"model {prepared.model.name}, {prepared.input_bytes} bytes in, deadline {DEADLINE_MS} ms")
    rounds: list[Round] = []
    with alone.daemon(prepared, "overload") as target:
        for _ in range(count):
            rounds.append(one_round(target, prepared, window_s))
            found.say(_line(rounds[-1]))
    found.figures = {"model": prepared.model.name, "deadline_ms": DEADLINE_MS, "rounds": [asdict(r) for r in rounds]}
    found.at_least("goodput at ten times the peak / peak", _middle(rounds, lambda r: r.kept), 0.90)
    found.at_most("p99 of refusals (RESOURCE_EXHAUSTED), ms", _middle(rounds, lambda r: r.refused_p99_ms), 20)
    found.at_least("admitted requests that met their deadline", _middle(rounds, lambda r: r.in_time), 0.99)
    found.at_most("recovery after the load, s", _middle(rounds, lambda r: r.recovery_s), 2)
    found.at_most("answers wrong or missing", float(sum(_bad(load) for r in rounds for load in r.loads.values())), 0)


def _line(one: Round) -> str:
    over = one.over
    late = "-" if over.late_ms is None else f"{over.late_ms.p99:.1f}"
    codes = ", ".join(f"{code} {count}" for code, count in over.codes.items())
    admitted = "-" if over.ok_ms is None else f"{over.ok_ms.p50:.0f}/{over.ok_ms.p99:.0f}"
    refused = over.code_ms.get("RESOURCE_EXHAUSTED")
    refusals = "-" if refused is None else f"{refused.p50:.1f}/{refused.p99:.1f}"
    return (
        f"peak {one.peak:.1f}/s; sent {over.counted / over.window_s:.0f}/s: goodput {over.goodput:.1f}/s "
        f"({one.kept:.2f} of peak), p50/p99 of OK {admitted} ms, of refusals {refusals} ms\n"
        f"    {codes}; server {one.server_cores:.2f} cores, loader {over.cpu_s / over.elapsed_s:.2f} cores "
        f"(late p99 {late} ms); normal again after {_seconds(one.recovery_s)}"
    )


def _seconds(value: float | None) -> str:
    return f"more than {_RECOVERY_LIMIT_S:.0f} s" if value is None else f"{value:.2f} s"


def _middle(rounds: Sequence[Round], read: Callable[[Round], float | None]) -> float | None:
    return middle([read(one) for one in rounds])


def _bad(load: Load) -> int:
    return load.mismatched + load.unfinished


if __name__ == "__main__":
    sys.exit(findings.measured("overload", findings.arguments(__doc__).parse_args(), program))
