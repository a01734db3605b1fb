"""`spillway status`: against the daemon, and on documents that no healthy daemon gives."""

from typing import Any

import msgspec
import pytest

from runtime.cli.status import headline, notes, places, row
from runtime.transport.status_document import (
    Counters,
    Latency,
    Reason,
    Serving,
    Skipped,
    StatusDocument,
    Trial,
    VersionStatus,
)
from tests.cli.conftest import Spillway

Flags = tuple[str, str]

SERVING = Serving(
    provider="cpu",
    skipped=(),
    instances=2,
    threads=1,
    inline=False,
    batching=True,
    max_batch_size=8,
    queued_requests=3,
    queued_bytes=1024,
    running=2,
    counters=Counters(answered=10, failed=2, rows=12, batches=8, average_batch=1.5, cuts=(), refusals=(), failures=()),
    latency=Latency(p50_s=0.001, p90_s=0.002, p99_s=0.01),
    run_times=(),
    trial=Trial(base_bytes=0, peak_bytes=1 << 20, load_s=0.1, runtime_versions="onnxruntime 1"),
)


def replaced(old: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(old, **changes)


def document(*models: VersionStatus, **changes: Any) -> StatusDocument:
    whole = StatusDocument(server="spillway", version="1", uptime_s=61, ready=True, draining=False, models=models)
    return replaced(whole, **changes)  # type: ignore[no-any-return]


def version(model: str, serving: Serving | None = SERVING, **changes: Any) -> VersionStatus:
    return replaced(VersionStatus(model=model, version=1, state="READY", serving=serving), **changes)  # type: ignore[no-any-return]


def test_one_screen(spillway: Spillway, http: Flags) -> None:
    said = spillway("status", *http)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].startswith("spillway 0.1.0, ready, up ")
    assert lines[2].split()[:3] == ["model", "version", "state"]
    assert lines[3].split()[:4] == ["digits", "1", "READY", "cpu"], "other tests leave unloaded versions below it"
    assert "cuda is not used for digits/1: not in the installed build of onnxruntime" in lines
    assert len(lines) < 24


def test_json_is_the_whole_document(spillway: Spillway, http: Flags) -> None:
    said = spillway("status", "--json", *http)
    whole = msgspec.convert(said.json, StatusDocument)
    assert whole.ready
    assert whole.models[0].serving is not None


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal(spillway: Spillway, http: Flags) -> None:
    drawn = spillway("status", *http).out
    assert "┃ model  ┃ version ┃ state" in drawn
    assert "│ digits │       1 │ READY" in drawn
    assert max(map(len, drawn.splitlines())) <= 120


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, "spillway 1, ready, up 1 min"),
        ({"ready": False}, "spillway 1, not ready, up 1 min"),
        ({"ready": False, "draining": True}, "spillway 1, draining, up 1 min"),
    ],
)
def test_headline(changes: dict[str, Any], line: str) -> None:
    assert headline(document(**changes)) == line


def test_row() -> None:
    cells = ["m", "1", "READY", "cpu", "2 x 1 thread", "10", "2", "1.50", "1.00 ms", "10.0 ms", "3"]
    assert row(version("m")) == cells
    idle = replaced(SERVING, latency=None, counters=replaced(SERVING.counters, batches=0))
    assert row(version("m", idle))[7:10] == ["-", "-", "-"]
    assert row(version("m", None, version=0, state="FAILED"))[:4] == ["m", "-", "FAILED", ""]
    assert len(row(version("m", None))) == len(cells)


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"threads": 4}, "2 x 4 threads"),
        ({"inline": True}, "event loop"),
        ({"provider": "cuda"}, "2 GPUs"),
        ({"provider": "tensorrt", "instances": 1}, "1 GPU"),
    ],
)
def test_places(changes: dict[str, Any], place: str) -> None:
    assert places(replaced(SERVING, **changes)) == place


def test_notes_say_why() -> None:
    counters = replaced(
        SERVING.counters,
        cuts=(Reason(reason="shape", count=6, meaning="others waited, but with different shapes"),),
        refusals=(Reason(reason="wait", count=2, meaning="the wait would have been too long"),),
        failures=(
            Reason(reason="REJECTED", count=2, meaning="there was no room"),
            Reason(reason="CANCELED", count=1, meaning="the caller took it back"),
        ),
    )
    busy = replaced(SERVING, counters=counters, skipped=(Skipped(provider="cuda", reason="no driver"),))
    alone = replaced(busy, batching=False)
    models = [version(name, busy) for name in "abcd"] + [version("e", alone)]
    said = notes(document(*models, version("bad", None, state="FAILED", reason="no file", version=0)))
    assert said[:4] == [
        "a/1: 75 % of its batches were cut because others waited, but with different shapes",
        "a/1: 2 failed, because there was no room",
        "a/1: 1 failed, because the caller took it back",
        "a/1: 2 of them at the door, because the wait would have been too long",
    ]
    assert "e/1: 1 failed, because the caller took it back" in said
    assert not any(line.startswith("e/1: 75 %") for line in said)
    assert said[-2:] == ["bad is FAILED: no file", "cuda is not used for a/1, b/1, c/1 and 2 more: no driver"]
