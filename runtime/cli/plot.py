"""The plot of `spillway bench`: answers a second, and latency, for each load."""

import math
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from runtime.cli.loadgen import Figures
from runtime.core.errors import InvalidRequest

_PERCENTILES = (("p50_s", "p50", "#4c78a8"), ("p90_s", "p90", "#f58518"), ("p99_s", "p99", "#e45756"))


def require() -> None:
    """Find out before the load whether there can be a plot after it.

    Raises:
        InvalidRequest: matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise InvalidRequest("--plot needs matplotlib: pip install 'spillway-runtime[plot]'")


def draw(cells: Sequence[Figures], title: str, path: Path) -> None:
    """Write the plot; the ending of `path` says which format.

    Raises:
        InvalidRequest: the file cannot be written, or its ending is no image format.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 - 0.5 s, and an extra
    from matplotlib.figure import Figure  # noqa: PLC0415
    from matplotlib.ticker import FuncFormatter, LogFormatter  # noqa: PLC0415

    figure = Figure(figsize=(10, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    rates, latencies = figure.subplots(1, 2)
    places = range(len(cells))

    bars = rates.bar(places, [cell.answered_per_s for cell in cells], width=0.6, color="#4c78a8")
    batches = [f"batch {cell.average_batch:.1f}" if cell.average_batch else "" for cell in cells]
    rates.bar_label(bars, [f"{cell.answered_per_s:,.0f}\n{batch}" for cell, batch in zip(cells, batches, strict=True)])
    rates.set_ylabel("answers per second")
    rates.margins(y=0.2)

    for key, name, colour in _PERCENTILES:
        times = [getattr(cell, key) for cell in cells]
        values = [math.nan if value is None else value * 1e3 for value in times]
        latencies.plot(places, values, "o-", label=name, color=colour)
    latencies.set_ylabel("latency, ms")
    latencies.set_yscale("log")
    latencies.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    # A narrow range may hold no power of ten: then the ticks between get numbers.
    latencies.yaxis.set_minor_formatter(LogFormatter(minor_thresholds=(2, 0.5)))
    latencies.grid(visible=True, which="both", axis="y", alpha=0.3)
    latencies.margins(x=0.2)
    latencies.legend()
    for panel in (rates, latencies):
        panel.set_xticks(places, [cell.load for cell in cells])

    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InvalidRequest(f"plot {path}: {getattr(error, 'strerror', None) or error}") from error
