"""`spillway bench MODEL`: put load on a served model and print what came back.

For a first look, from any machine that has the client. The load generator is Python and says how near it was to its
own limit; `bench/serve.py` of the repository measures with a compiled one.
"""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.cli import output
from runtime.cli.server import add_grpc_flags, connect_async, deadline_of
from runtime.core.errors import SpillwayError

if TYPE_CHECKING:
    from runtime.cli.loadgen import Cell, Figures
    from runtime.client import AsyncClient
    from runtime.core.tensor import Array

FULL = 0.9
"""A generator that took this much of its core was the limit itself; so was a machine as busy as that."""
LATE_S = 0.005
"""Requests that leave later than this are not the load that was asked for."""
COLUMNS = ("load", ">answers/s", ">p50", ">p90", ">p99", ">max", ">avg batch", ">errors", ">generator")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    add = parser.add_argument
    add("model")
    add("--version", default="", metavar="N", help="default: the highest that is ready")
    text = "closed loop: so many clients, each waits for its answer (default 1,8,32)"
    add("--concurrency", type=_counts, metavar="N[,N]", help=text)
    text = "open loop: so many requests a second, with random gaps, whether answers come or not"
    add("--rate", type=_rates, metavar="R[,R]", help=text)
    add("--duration", type=_positive, default=5.0, metavar="S", help="seconds of each load (default 5)")
    add(
        "--warm-up",
        type=_positive,
        default=0.5,
        metavar="S",
        help="seconds before them that do not count (default 0.5)",
    )
    text = "as for `infer`; without, inputs are made up from the model's metadata"
    add("--input", action="append", default=[], metavar="NAME=VALUE", help=text)
    add("--rows", type=_count, default=1, metavar="N", help="rows of a request, for made-up inputs (default 1)")
    text = "shape of a made-up input, where the model leaves it free (ids=1x128)"
    add("--shape", action="append", default=[], type=_shape, metavar="NAME=SHAPE", help=text)
    add("--zeros", action="store_true", help="make up zeros instead of random values")
    add("--plot", metavar="FILE", help="also draw throughput and latency (.png, .svg, .pdf)")
    add_grpc_flags(parser, timeout_s=10.0)
    add("--json", action="store_true", help="print JSON")


def _count(text: str) -> int:
    count = int(text)
    if not 1 <= count <= 4096:
        raise argparse.ArgumentTypeError(f"{text} is not within 1..4096")
    return count


def _counts(text: str) -> list[int]:
    return [_count(word) for word in text.split(",")]


def _rates(text: str) -> list[float]:
    return [_positive(word) for word in text.split(",")]


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not within 0..1000000")
    return value


def _shape(text: str) -> tuple[str, list[int]]:
    name, equals, sizes = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SHAPE, e.g. ids=1x128")
    return name, [int(size) for size in sizes.replace("x", ",").split(",")]


def run(args: argparse.Namespace) -> int:
    """Measure each load in turn."""
    if args.plot:
        from runtime.cli import plot  # noqa: PLC0415

        plot.require()
    cells = asyncio.run(_measure_all(args))
    if args.plot:
        plot.draw(cells, f"{args.model} on {args.grpc}", Path(args.plot))
    if args.json:
        output.as_json({"model": args.model, "server": args.grpc, "loads": cells})
    else:
        _print(cells, args)
    return 0 if all(cell.answered for cell in cells) else 1


@dataclass(frozen=True, slots=True)
class Counts:
    """The server's counters; implements `loadgen.Counts`."""

    rows: int
    batches: int


def cells_of(args: argparse.Namespace) -> "list[Cell]":
    """Return the loads that the flags ask for."""
    from runtime.cli.loadgen import Cell  # noqa: PLC0415 - msgspec, which help does without

    concurrency = args.concurrency or ([] if args.rate else [1, 8, 32])
    return [Cell(clients=count) for count in concurrency] + [Cell(rate=rate) for rate in args.rate or []]


async def _measure_all(args: argparse.Namespace) -> "list[Figures]":
    from runtime.cli.loadgen import measure  # noqa: PLC0415

    cells = cells_of(args)
    async with connect_async(args) as client:
        inputs = await _inputs(client, args)

        async def ask() -> None:
            await client.infer(args.model, inputs, version=args.version, deadline_s=deadline_of(args))

        async def count() -> Counts | None:
            return await _counts_of(client, args)

        await ask()  # what is wrong with the request is said at once, not counted
        found = []
        async with _progress(len(cells) * (args.duration + args.warm_up)):
            for cell in cells:
                figures = await measure(cell, ask, count, warm_up_s=args.warm_up, window_s=args.duration)
                found.append(figures)
    return found


async def _inputs(client: "AsyncClient", args: argparse.Namespace) -> "dict[str, Array]":
    from runtime.cli.inputs import given, made_up  # noqa: PLC0415

    metadata = await client.model_metadata(args.model, args.version, deadline_s=deadline_of(args))
    if args.input:
        return given(args.input, metadata.inputs)
    return made_up(metadata.inputs, rows=args.rows, shapes=dict(args.shape), zeros=args.zeros)


async def _counts_of(client: "AsyncClient", args: argparse.Namespace) -> Counts | None:
    """Ask for the counters of all versions that may answer; None where the server has none."""
    try:
        versions = await client.statistics(args.model, args.version, deadline_s=deadline_of(args))
    except SpillwayError:
        return None
    return Counts(sum(each.inference_count for each in versions), sum(each.execution_count for each in versions))


@contextlib.asynccontextmanager
async def _progress(total_s: float) -> AsyncIterator[None]:
    """Show a bar on the terminal for as long as the load should take."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console  # noqa: PLC0415 - only for a terminal
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

    columns = (TextColumn("measuring"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), auto_refresh=False, transient=True) as progress:
        bar = progress.add_task("", total=total_s)

        async def advance() -> None:
            clock = asyncio.get_running_loop().time
            begun = clock()
            while True:
                progress.update(bar, completed=clock() - begun, refresh=True)
                await asyncio.sleep(0.25)

        advancing = asyncio.ensure_future(advance())
        try:
            yield
        finally:
            advancing.cancel()


def _print(cells: "Sequence[Figures]", args: argparse.Namespace) -> None:
    output.table(COLUMNS, [_row(cell) for cell in cells], f"{args.model} on {args.grpc}, {args.duration:g} s each")
    for cell in cells:
        for each in cell.errors:
            output.say(f"{cell.load}: {each.count} x {each.kind}, the first: {each.example}")
        if not cell.answered and not cell.errors:
            output.say(f"{cell.load}: no answer came within {args.duration:g} s: give a longer --duration")
        if cell.late_p99_s > LATE_S:
            output.say(f"{cell.load}: 1 % of the requests left more than {output.seconds(cell.late_p99_s)} late")
    for line in remarks(cells):
        output.say(line)


def _row(cell: "Figures") -> list[str]:
    times = (cell.p50_s, cell.p90_s, cell.p99_s, cell.max_s)
    return [
        cell.load,
        f"{cell.answered_per_s:,.1f}",
        *("-" if value is None else output.seconds(value) for value in times),
        "-" if cell.average_batch is None else f"{cell.average_batch:.2f}",
        str(sum(each.count for each in cell.errors)),
        f"{100 * cell.generator_share:.0f} %",
    ]


def remarks(cells: "Sequence[Figures]") -> list[str]:
    """Say what the generator is and where it was, or would be, the limit."""
    lines = []
    busiest = max(cells, key=lambda cell: cell.generator_share)
    if busiest.generator_limit_per_s is not None:
        lines.append(
            f"The load generator is Python and took up to {100 * busiest.generator_share:.0f} % of one core (column "
            f"generator): with this request it is itself the limit near {busiest.generator_limit_per_s:,.0f} answers/s."
        )
    if crowded := [cell.load for cell in cells if cell.machine_share >= FULL]:
        busy = 100 * max(cell.machine_share for cell in cells)
        lines.append(
            f"This machine was busy to {busy:.0f} % at {', '.join(crowded)}: its cores are part of the figures."
        )
    if busiest.generator_share >= FULL:
        full = ", ".join(cell.load for cell in cells if cell.generator_share >= FULL)
        lines.append(f"It was the limit at {full}: the server can do more. bench/serve.py has a compiled one.")
    return lines
