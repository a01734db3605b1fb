"""`make demo`, shortened: the real daemon as a process, the real model, tritonclient in threads."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_demo_passes_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """Nothing in the user's home either: ONNX Runtime keeps a device id there while it may report to its maker."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "digits" / "demo.py", "--seconds", "0.5", "--clients", "4"],
        env={**kept, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    for figure in ("accuracy", "throughput", "latency p50", "latency p99", "average batch"):
        assert figure in done.stdout
    assert list(tmp_path.rglob("*")) == []
