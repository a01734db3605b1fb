"""The best that ONNX Runtime does without a server, and what its runs cost at a given batch size.

The limit of a cell with `c` calls in flight is the best throughput over sessions x threads x batch where no more than
`c` rows are in the sessions at once: a server at that concurrency cannot hold more either. The two best settings are
found once; both are measured again in every round, beside the servers, and the better one is that round's limit.

What of a server's CPU is ONNX Runtime's own is taken from here too, not from the server: the CPU of a row at the
batch size that the server's statistics report, with the cores as busy, right after the server's cell. A server's
`compute_infer` is wall time and holds what other processes took from its threads, which on busy cores would flatter it.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.models import Prepared
from bench.servers import cores

_SCRIPT = Path(__file__).parent / "peers" / "inprocess.py"
_BATCHES = (1, 2, 4, 8, 16, 32, 64)
CPU = "CPUExecutionProvider"


class Limit(msgspec.Struct, frozen=True):
    """One setting of in-process ONNX Runtime and what it reached."""

    sessions: int
    threads: int
    batch: int
    rows_per_s: float
    cpu_ms_per_row: float
    p50_ms: float
    p99_ms: float

    @property
    def setting(self) -> str:
        """Sessions x threads, batch."""
        return f"{self.sessions}x{self.threads} b{self.batch}"


@dataclass(frozen=True)
class Setting:
    """Sessions x threads x batch."""

    sessions: int
    threads: int
    batch: int

    def __str__(self) -> str:
        return f"{self.sessions}x{self.threads}x{self.batch}"


def sweep(prepared: Prepared, seconds: float, provider: str = CPU) -> list[Limit]:
    """Every sensible setting once."""
    shares = sorted({(1, 1), (1, cores()), (cores(), 1)}) if provider == CPU else [(1, 1), (2, 1)]
    batches = [batch for batch in _BATCHES if batch <= prepared.model.max_batch]
    return run(prepared, [Setting(s, t, b) for s, t in shares for b in batches], seconds, provider)


def best(limits: list[Limit], concurrency: int) -> list[Setting]:
    """The two fastest settings with at most `concurrency` rows in flight, the faster first."""
    fitting = [limit for limit in limits if limit.sessions * limit.batch <= concurrency]
    fitting.sort(key=lambda limit: limit.rows_per_s, reverse=True)
    return [Setting(limit.sessions, limit.threads, limit.batch) for limit in fitting[:2]]


def at_batch(mean_batch: float, concurrency: int) -> Setting:
    """The batch size nearest to a server's average, on as many cores as that many calls in flight can use.

    One thread a session: a second one spins while it waits, and would count as ONNX Runtime's work.
    """
    return Setting(min(cores(), concurrency), 1, max(1, round(mean_batch)))


def run(prepared: Prepared, plan: list[Setting], seconds: float, provider: str = CPU) -> list[Limit]:
    """Measure the settings in a fresh process, in order."""
    command = [sys.executable, str(_SCRIPT), "--model-file", str(prepared.model_file), "--inputs", str(prepared.arrays)]
    command += ["--plan", ",".join(map(str, plan)), "--seconds", str(seconds), "--provider", provider]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"in-process run ended with {done.returncode}: {done.stderr.strip()}")
    return msgspec.convert(json.loads(done.stdout), list[Limit])
