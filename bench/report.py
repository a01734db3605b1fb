"""Tables for people: each model's cells, what the servers cost, the targets. Reads results, decides nothing."""

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from bench.harness import Percentiles
from bench.models import Model
from bench.results import Results, Sample, middle, overhead_ms
from bench.servers import BUILDERS, CEILING, FLOOR, OURS, TUNED_FLOOR
from bench.targets import Verdict

_MEGABYTE = 1 << 20


def show(console: Console, results: Results, models: Sequence[Model], cells: Sequence[str]) -> None:
    """All tables of a run but the targets."""
    for model in models:
        console.print(_speed(results, model, cells))
        console.print(_cost(results, model, cells))
    for absent in results.absent:
        console.print(f"{absent.model}: {absent.server} skipped: {absent.reason}", highlight=False, markup=False)


def show_targets(console: Console, verdicts: Sequence[Verdict]) -> None:
    """Targets beside figures."""
    table = Table(title="targets", title_justify="left")
    table.add_column("what")
    for name in ("figure", "target", ""):
        table.add_column(name, justify="right")
    words = {True: "[green]pass[/]", False: "[red]miss[/]", None: "not measured"}
    for verdict in verdicts:
        figure = "-" if verdict.figure is None else f"{verdict.figure:.2f}"
        table.add_row(verdict.what, figure, f"{verdict.relation} {verdict.bound:g}", words[verdict.holds])
    console.print(table)


def _speed(results: Results, model: Model, cells: Sequence[str]) -> Table:
    """Answers a second and latency; in the last column the share of the in-process limit."""
    table = Table(title=f"{model.title} ({model.name}): answers/s, p50/p99 ms", title_justify="left")
    table.add_column("server")
    for cell in cells:
        table.add_column(cell, justify="right")
    full = [cell for cell in cells if cell.startswith("c")][-1]
    table.add_column(f"{full} / limit", justify="right")
    limit = results.limit_rate(model.name, full)
    table.add_row("onnxruntime in process", *[_limit_text(results, model, cell) for cell in cells], "")
    for server in _present(results, model):
        texts = [_cell_text(results.of(model.name, server, cell)) for cell in cells]
        rate = results.rate(model.name, server, full)
        share = f"{rate / limit:.2f}" if rate and limit and server not in (FLOOR, TUNED_FLOOR, CEILING) else ""
        table.add_row(_styled(server), *texts, share)
    return table


def _limit_text(results: Results, model: Model, cell: str) -> str:
    found = [sample.limit for sample in results.limits if (sample.model, sample.cell) == (model.name, cell)]
    if not found:
        return ""
    rate = middle([limit.rows_per_s for limit in found])
    p50, p99 = middle([limit.p50_ms for limit in found]), middle([limit.p99_ms for limit in found])
    return f"{_number(rate)}, {_number(p50)}/{_number(p99)} ({found[0].setting})"


def _cell_text(samples: Sequence[Sample]) -> str:
    if not samples:
        return ""
    rate = middle([sample.load.goodput for sample in samples])
    p50, p99 = _latency(samples, lambda ms: ms.p50), _latency(samples, lambda ms: ms.p99)
    wrong = "" if all(sample.load.clean for sample in samples) else " [red]errors[/]"
    return f"{_number(rate)}, {_number(p50)}/{_number(p99)}{wrong}"


def _latency(samples: Sequence[Sample], read: Callable[[Percentiles], float]) -> float | None:
    return middle([None if sample.load.ok_ms is None else read(sample.load.ok_ms) for sample in samples])


def _cost(results: Results, model: Model, cells: Sequence[str]) -> Table:
    """CPU of one answer (without ONNX Runtime's part where known, and that against the floor), memory, start."""
    title = f"{model.name}: server CPU ms an answer (without ONNX Runtime's; x aio echo's), b mean batch"
    table = Table(title=title, title_justify="left")
    table.add_column("server")
    for cell in cells:
        table.add_column(cell, justify="right")
    for name in ("loader CPU ms", "first start s", "start s", "MB", "MB loaded"):
        table.add_column(name, justify="right")
    for server in _present(results, model):
        texts = [_cost_text(results, model, server, cell) for cell in cells]
        loader = results.figure(model.name, server, cells[-1], lambda s: s.load.cpu_s * 1e3 / max(1, s.load.answered))
        table.add_row(_styled(server), *texts, _number(loader), *_standing_texts(results, model, server))
    return table


def _standing_texts(results: Results, model: Model, server: str) -> list[str]:
    for standing in results.standings:
        if (standing.model, standing.server) == (model.name, server):
            memory = [standing.start_bytes, standing.loaded_bytes]
            starts = [_number(standing.first_start_s), _number(standing.start_s)]
            return [*starts, *[f"{size / _MEGABYTE:.0f}" for size in memory]]
    return []


def _cost_text(results: Results, model: Model, server: str, cell: str) -> str:
    cpu = results.figure(model.name, server, cell, lambda sample: sample.server_cpu_ms)
    if cpu is None:
        return ""
    own = results.figure(model.name, server, cell, overhead_ms)
    floor = results.figure(model.name, FLOOR, cell, lambda sample: sample.server_cpu_ms)
    batch = results.figure(model.name, server, cell, lambda sample: sample.mean_batch)
    text = _number(cpu)
    if own is not None and floor:
        text += f" ({_number(own)}; {own / floor:.2f}x)"
    return text if batch is None else f"{text} b{batch:.1f}"


def _present(results: Results, model: Model) -> list[str]:
    found = {sample.server for sample in results.samples if sample.model == model.name}
    return [server for server in BUILDERS if server in found]


def _styled(server: str) -> str:
    return f"[bold]{server}[/]" if server == OURS else server


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
