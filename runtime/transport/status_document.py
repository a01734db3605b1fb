"""The status document: what a server says of itself to people, as JSON at `GET /status` and in `spillway status`.

Only the form, so that a reader needs nothing of the server; `status.py` fills it in. Seconds and bytes throughout.
Readers ignore members that they do not know: members may be added, none is renamed or removed.
"""

import msgspec


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """How often something happened for one reason, and what that reason means."""

    reason: str
    count: int
    meaning: str


class Skipped(msgspec.Struct, frozen=True, kw_only=True):
    """An execution provider that was wanted and did not start."""

    provider: str
    reason: str


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """Average seconds of the runs with this many rows."""

    rows: int
    run_s: float


class RunTime(msgspec.Struct, frozen=True, kw_only=True):
    """T(b) = `fixed_s` + `row_s` * b, learned for requests of one set of shapes.

    `shapes` has no batch axis; None stands for an optional input that was left out. `pays`: rows beyond which a larger
    batch gains less than 5 % a row.
    """

    shapes: dict[str, tuple[int, ...] | None]
    fixed_s: float
    row_s: float
    pays: int
    points: tuple[Point, ...]


class Counters(msgspec.Struct, frozen=True, kw_only=True):
    """Since the version was loaded. A request has one row or more, a batch one request or more.

    `average_batch` is rows / batches, 0 before the first. `cuts` tell why batches were not larger, `refusals` why
    requests were turned away at the door, `failures` how requests ended without an answer, refusals included.
    """

    answered: int
    failed: int
    rows: int
    batches: int
    average_batch: float
    cuts: tuple[Reason, ...]
    refusals: tuple[Reason, ...]
    failures: tuple[Reason, ...]


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Door to answer, of answered requests; estimated from a histogram, so within its buckets only (10 s at most)."""

    p50_s: float
    p90_s: float
    p99_s: float


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """What the trial in the child process saw: its memory before the model, its peak, and how long loading took."""

    base_bytes: int
    peak_bytes: int
    load_s: float
    runtime_versions: str


class Serving(msgspec.Struct, frozen=True, kw_only=True):
    """How a version that is ready is served.

    `inline`: it runs on the event loop, for its runs are too short for a thread of their own. `batching` False: each
    request runs alone, whatever `max_batch_size` says. `running` counts batches on the devices now. `latency` is None
    before the first answer.
    """

    provider: str
    skipped: tuple[Skipped, ...]
    instances: int
    threads: int
    inline: bool
    batching: bool
    max_batch_size: int
    queued_requests: int
    queued_bytes: int
    running: int
    counters: Counters
    latency: Latency | None
    run_times: tuple[RunTime, ...]
    trial: Trial


class VersionStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one model. `version` 0: none is known. `reason` says why it is in this state, where it is known.

    `serving` is None unless the state is READY.
    """

    model: str
    version: int
    state: str
    reason: str = ""
    serving: Serving | None = None


class StatusDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The whole server. `ready`: it takes requests and every model that was asked for answers."""

    server: str
    version: str
    uptime_s: float
    ready: bool
    draining: bool
    models: tuple[VersionStatus, ...]
