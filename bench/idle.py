"""What 500 connections that send nothing cost the one that works (issue 2).

    python -m bench.idle [--quick] [--json FILE]

Open loop on the small model at a third of what a closed loop reaches, so that latency is the server's and no queue's.
Rounds without and with the idle connections take turns, the loader opens them anew each time.
"""

import sys
from dataclasses import asdict, dataclass

from bench import alone, findings, harness, models
from bench.findings import CACHE, Findings
from bench.harness import Load, Shape
from bench.results import middle

IDLE = 500
_SHARE = 1 / 3
_CONNECTIONS = 4


@dataclass(frozen=True)
class Side:
    """All rounds with the same number of idle connections."""

    idle: int
    loads: list[Load]

    @property
    def p99_ms(self) -> float | None:
        """The median over rounds."""
        return middle([None if load.ok_ms is None else load.ok_ms.p99 for load in self.loads])

    @property
    def bad(self) -> int:
        """Calls that did not end well."""
        return sum(load.counted - load.ok + load.mismatched + load.unfinished for load in self.loads)


def program(found: Findings) -> None:
    """Rounds in turn, then the two medians."""
    prepared = models.prepare(models.MLP, CACHE)
    rounds, window_s = (3, 2.0) if found.quick else (7, 4.0)
    sides = [Side(0, []), Side(IDLE, [])]
    with alone.daemon(prepared, "idle") as target:
        closed = harness.run_loader(target, prepared, Shape(8, 0, 2.0, 0.5, _CONNECTIONS))
        rate = _SHARE * closed.goodput
        for _ in range(rounds):
            for side in sides:
                shape = Shape(1, rate, window_s, 0.5, _CONNECTIONS, side.idle)
                side.loads.append(harness.run_loader(target, prepared, shape))
    for side in sides:
        each = ", ".join("-" if load.ok_ms is None else f"{load.ok_ms.p99:.2f}" for load in side.loads)
        found.say(f"{side.idle} idle connections, {rate:.0f} calls/s: p99 {side.p99_ms or 0:.2f} ms (rounds: {each})")
    without, beside = (side.p99_ms for side in sides)
    ratio = beside / without if beside and without else None
    found.figures = {"rate": rate, "sides": [asdict(side) for side in sides]}
    found.at_most(f"p99 beside {IDLE} idle connections / p99 without", ratio, 1.5)
    found.at_most("calls that failed or were answered wrong", float(sum(side.bad for side in sides)), 0)


if __name__ == "__main__":
    sys.exit(findings.measured("idle", findings.arguments(__doc__).parse_args(), program))
