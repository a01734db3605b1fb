"""`spillway status`: one screen that says what the server does, and why."""

import argparse

from runtime.cli import output
from runtime.cli.server import add_http_flags, get_status
from runtime.transport.status_document import Serving, StatusDocument, VersionStatus

COLUMNS = ("model", ">version", "state", "provider", "runs on", ">answered", ">failed", ">avg batch", ">p50", ">p99",
           ">waiting")  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    add_http_flags(parser, timeout_s=10.0)
    parser.add_argument("--json", action="store_true", help="print the whole status document")


def run(args: argparse.Namespace) -> int:
    """Print the state of the server."""
    document = get_status(args)
    if args.json:
        output.as_json(document)
        return 0
    output.say(headline(document))
    output.say()
    output.table(COLUMNS, [row(model) for model in document.models])
    remarks = notes(document)
    if remarks:
        output.say()
    for remark in remarks:
        output.say(remark)
    return 0


def headline(document: StatusDocument) -> str:
    """Return the first line: who, how it is, for how long."""
    state = "draining" if document.draining else "ready" if document.ready else "not ready"
    return f"{document.server} {document.version}, {state}, up {output.span(document.uptime_s)}"


def row(model: VersionStatus) -> list[str]:
    """Return the cells of one version."""
    cells = [model.model, str(model.version or "-"), model.state]
    serving = model.serving
    if serving is None:
        return cells + [""] * (len(COLUMNS) - len(cells))
    counters, latency = serving.counters, serving.latency
    return [
        *cells,
        serving.provider,
        places(serving),
        str(counters.answered),
        str(counters.failed),
        f"{counters.average_batch:.2f}" if counters.batches else "-",
        output.seconds(latency.p50_s) if latency else "-",
        output.seconds(latency.p99_s) if latency else "-",
        str(serving.queued_requests),
    ]


def places(serving: Serving) -> str:
    """Say on how many instances, with how many threads each, a version runs."""
    if serving.inline:
        return "event loop"
    if serving.provider in ("cuda", "tensorrt"):
        return f"{serving.instances} GPU" if serving.instances == 1 else f"{serving.instances} GPUs"
    return f"{serving.instances} x {serving.threads} thread" + ("s" if serving.threads > 1 else "")


def notes(document: StatusDocument) -> list[str]:
    """Say what the table has no room for: reasons of states, of small batches and of refusals, providers skipped."""
    lines: list[str] = []
    skipped: dict[tuple[str, str], list[str]] = {}
    for model in document.models:
        name = f"{model.model}/{model.version}" if model.version else model.model
        if model.reason.upper() not in ("", model.state):
            lines.append(f"{name} is {model.state}: {model.reason}")
        if model.serving is None:
            continue
        counters = model.serving.counters
        if counters.cuts and model.serving.batching:
            most = counters.cuts[0]
            lines.append(
                f"{name}: {_share(most.count, counters.batches)} of its batches were cut because {most.meaning}"
            )
        lines += [f"{name}: {each.count} failed, because {each.meaning}" for each in counters.failures]
        lines += [f"{name}: {each.count} of them at the door, because {each.meaning}" for each in counters.refusals]
        for each in model.serving.skipped:
            skipped.setdefault((each.provider, each.reason), []).append(name)
    for (provider, reason), names in skipped.items():
        where = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"{provider} is not used for {where}: {reason}")
    return lines


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else str(part)
