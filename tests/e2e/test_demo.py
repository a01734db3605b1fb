"""`make demo`, shortened: the real daemon as a process, the real model, tritonclient in threads."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_passes() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits" / "demo.py", "--seconds", "0.5", "--clients", "4"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("accuracy", "throughput", "latency p50", "latency p99", "average batch"):
        assert figure in done.stdout
