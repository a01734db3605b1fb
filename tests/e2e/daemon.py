"""The daemon as a process of its own: started as an operator starts it, addressed by what it announces.

Rules
- Ports are the system's choice, on loopback. Nothing of the outer environment configures it.
- Every wait has a limit, and a daemon that a test leaves running is killed.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc

from tests.e2e.web import fetch

ROOT = Path(__file__).resolve().parents[2]
START_LIMIT_S = 60.0
STOP_LIMIT_S = 40.0
TICK_S = 0.01

OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
"""Channels of one process share connections by default; a test wants its own."""


class DaemonFailed(Exception):
    """It ended before it was ready; the text is its log."""

    def __init__(self, status: int, log: str) -> None:
        super().__init__(f"status {status}:\n{log}")
        self.status = status
        self.log = log


class Daemon:
    """One running daemon. `grpc`, `http` and `metrics` are addresses as HOST:PORT."""

    def __init__(self, process: subprocess.Popen[bytes], announced: Mapping[str, Any], log: Path) -> None:
        self.process = process
        self.grpc: str = announced["grpc"]
        self.http: str = announced["http"]
        self.metrics: str = announced["metrics"]
        self.ready: bool = announced["ready"]
        self._log = log

    @property
    def log(self) -> str:
        """What it has said until now."""
        return self._log.read_text()

    def occupancy(self, model: str) -> tuple[int, int]:
        """Batches of `model` that run, and requests that wait for it."""
        versions = [each["serving"] for each in fetch(self.http, "/status").json["models"] if each["model"] == model]
        return sum(each["running"] for each in versions), sum(each["queued_requests"] for each in versions)

    def signal_stop(self) -> None:
        """Ask it to drain; returns at once."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(STOP_LIMIT_S)

    def stop(self) -> int:
        """Drain it; returns its exit status."""
        self.signal_stop()
        return self.wait()

    def kill(self) -> None:
        """End it as a power cut would. Idempotent."""
        self.process.kill()
        self.process.wait(STOP_LIMIT_S)


def command(repository: Path, folder: Path, flags: Sequence[str] = ()) -> list[str]:
    """The command line of a daemon whose files lie in `folder`; later flags win over the ones given here."""
    words = [sys.executable, "-m", "runtime", "serve", "--model-repository", str(repository)]
    for listener in ("grpc", "http", "metrics"):
        words += [f"--{listener}-port", "0"]
    return [*words, "--announce", str(folder / "announce"), "--state-dir", str(folder / "state"), *flags]


def environment(settings: Mapping[str, str] | None = None) -> dict[str, str]:
    """This process' environment without what would configure a daemon, and with `settings`."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("SPILLWAY_")}
    # Most models here are too small to measure; a trial need not take its time.
    return {**kept, "SPILLWAY_REPOSITORY_PROBE_S": "0.02", **(settings or {})}


@contextmanager
def running(repository: Path, folder: Path, *flags: str, settings: Mapping[str, str] | None = None) -> Iterator[Daemon]:
    """Run a daemon until the end of the block; it may have ended by then.

    Raises:
        DaemonFailed: it ended before it announced its addresses.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log, announce = folder / "log", folder / "announce"
    announce.unlink(missing_ok=True)
    with log.open("wb") as stream:
        process = subprocess.Popen(
            command(repository, folder, flags), cwd=ROOT, env=environment(settings), stdout=stream, stderr=stream
        )
    try:
        until(lambda: announce.exists() or process.poll() is not None, START_LIMIT_S, "the daemon announced nothing")
        if not announce.exists():
            raise DaemonFailed(process.wait(), log.read_text())
        yield Daemon(process, json.loads(announce.read_text()), log)
    finally:
        process.kill()
        process.wait()


def until(condition: Callable[[], object], limit_s: float, what: str) -> None:
    """Look again and again until `condition` holds."""
    ends = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError(f"after {limit_s:g} s: {what}")
        time.sleep(TICK_S)


@contextmanager
def channel_to(address: str, *options: tuple[str, Any]) -> Iterator[grpc.Channel]:
    """A channel with a connection of its own."""
    with grpc.insecure_channel(address, [*OWN_CONNECTION, *options]) as channel:
        yield channel
