"""Our daemon alone: started for one program, in a directory of its own, and looked at from outside."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from bench import harness, servers
from bench.findings import CACHE
from bench.harness import Running
from bench.models import Prepared


def scratch(name: str, *, fresh: bool = False) -> Path:
    """The directory of one daemon: log, announcement, state. `fresh`: without what an earlier start left."""
    home = CACHE / "run" / name
    if fresh:
        shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True, exist_ok=True)
    return home


@contextlib.contextmanager
def daemon(prepared: Prepared, name: str, *flags: str) -> Iterator[Running]:
    """The daemon with one model, answering; ended on exit. Later flags win over the usual ones.

    Raises:
        Unavailable: it did not give the expected answer in time.
    """
    home = scratch(name)
    server = servers.ours(prepared, home)
    with harness.running(replace(server, command=[*server.command, *flags]), prepared, home) as target:
        yield target


@dataclass(frozen=True)
class Held:
    """What the daemon's process holds at one moment."""

    rss_bytes: int
    files: int
    threads: int


def held(target: Running) -> Held:
    """Look at the process now, without its children."""
    process = psutil.Process(target.process.pid)
    with process.oneshot():
        return Held(process.memory_info().rss, process.num_fds(), process.num_threads())


def complaints(name: str) -> list[str]:
    """Lines of the daemon's log that are warnings or worse."""
    lines = (scratch(name) / "log").read_text(errors="replace").splitlines()
    return [line for line in lines if " WARNING " in line or " ERROR " in line]
