"""What `spillway model show` prints of one version, from the status document and the model's metadata."""

from collections.abc import Sequence

import msgspec

from runtime.cli import output
from runtime.cli.status import places
from runtime.transport.status_document import Counters, Reason, RunTime, Serving, VersionStatus


class Tensor(msgspec.Struct, frozen=True):
    """An input or output, as `GET /v2/models/NAME` tells it."""

    name: str
    datatype: str
    shape: list[int]

    def __str__(self) -> str:
        return f"{self.name} {self.datatype} {self.shape}"


class Metadata(msgspec.Struct, frozen=True):
    """Inputs and outputs of a model."""

    inputs: list[Tensor]
    outputs: list[Tensor]


def print_page(version: VersionStatus, metadata: Metadata | None) -> None:
    """Print everything that is known of a version; `metadata` only where it is ready."""
    number = f" version {version.version}" if version.version else ""
    output.say(f"{version.model}{number}: {version.state}" + (f", {version.reason}" if version.reason else ""))
    serving = version.serving
    if serving is None:
        return
    tensors = []
    if metadata is not None:
        tensors = [("input", str(tensor)) for tensor in metadata.inputs]
        tensors += [("output", str(tensor)) for tensor in metadata.outputs]
    output.pairs(tensors + _facts(serving))
    _print_reasons(serving.counters)
    for run_time in serving.run_times:
        _print_run_time(run_time)


def _facts(serving: Serving) -> list[tuple[str, str]]:
    counters, latency, trial = serving.counters, serving.latency, serving.trial
    facts = [("runs on", f"{serving.provider}, {places(serving)}")]
    facts += [("not on", f"{each.provider}: {each.reason}") for each in serving.skipped]
    facts += [
        ("batching", f"up to {serving.max_batch_size} rows" if serving.batching else "off: requests run alone"),
        ("answered", f"{counters.answered}, failed {counters.failed}"),
        ("batches", _batches(counters)),
        ("waiting", f"{serving.queued_requests} requests of {output.size(serving.queued_bytes)}"),
        ("running", f"{serving.running} batches"),
    ]
    if latency is not None:
        values = (("p50", latency.p50_s), ("p90", latency.p90_s), ("p99", latency.p99_s))
        text = ", ".join(f"{name} {output.seconds(value)}" for name, value in values)
        facts.append(("latency", f"{text} (door to answer, estimated from a histogram)"))
    took = output.size(max(0, trial.peak_bytes - trial.base_bytes))
    text = f"{took} of memory at its peak, loaded in {output.seconds(trial.load_s)} ({trial.runtime_versions})"
    facts.append(("trial", text))
    return facts


def _batches(counters: Counters) -> str:
    if not counters.batches:
        return "none yet"
    return f"{counters.average_batch:.2f} rows on average, {counters.rows} rows in {counters.batches} batches"


def _print_reasons(counters: Counters) -> None:
    for title, reasons in (
        ("why batches were not larger", counters.cuts),
        ("why requests were refused", counters.refusals),
        ("why requests failed", counters.failures),
    ):
        _print_table(title, reasons)


def _print_table(title: str, reasons: Sequence[Reason]) -> None:
    if reasons:
        output.say()
        rows = [[str(each.count), each.reason, each.meaning] for each in reasons]
        output.table((">count", "reason", ""), rows, title)


def _print_run_time(run_time: RunTime) -> None:
    shapes = ", ".join(
        f"{name} {list(shape) if shape is not None else 'left out'}" for name, shape in run_time.shapes.items()
    )
    line = f"{output.seconds(run_time.fixed_s)} + {output.seconds(run_time.row_s)} a row"
    title = f"run time for {shapes}: {line}; batches pay up to {run_time.pays} rows"
    rows = [
        [str(point.rows), output.seconds(point.run_s), output.seconds(point.run_s / point.rows)]
        for point in run_time.points
        if point.rows == run_time.pays or point.rows.bit_count() == 1  # the rest is for --json
    ]
    output.say()
    output.table((">rows", ">run", ">a row"), rows, title)
