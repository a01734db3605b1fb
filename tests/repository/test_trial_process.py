"""The trial child and its guard: whatever the child does ends as a verdict."""

import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from runtime.core.verdict import TrialJob, Verdict
from runtime.repository.memory import _left_bytes, available_bytes, give_back, resident_bytes
from runtime.repository.trial_process import TrialProcess, child_environment

JOB = TrialJob(
    model="m",
    version=1,
    path="/m/1/model.onnx",
    folder="/m",
    config=b"\x00\xff",
    providers=("cpu",),
    thread_budget=2,
    default_max_batch_size=4,
    probe_s=0.0,
)
MIB = 1 << 20
GOOD = 'for line in sys.stdin: print(\'{"provider": "cpu", "load_s": %d}\' % os.getpid(), flush=True)'


def tried(code: str, memory_bytes: int = 500 * MIB, timeout_s: float = 10.0) -> Verdict:
    """The verdict on a child (without site-packages, to start fast) that runs `code`."""
    trial = TrialProcess([sys.executable, "-S", "-c", f"import sys, os, time\n{code}"], memory_bytes, timeout_s)
    try:
        return trial.try_model(JOB)
    finally:
        trial.close()


def test_one_child_tries_many_models() -> None:
    trial = TrialProcess([sys.executable, "-S", "-c", f"import sys, os\n{GOOD}"], 500 * MIB, 10.0)
    first, second = trial.try_model(JOB), trial.try_model(JOB)
    assert (first.provider, first.error) == ("cpu", "")
    assert first.load_s == second.load_s, "the same process"
    trial.close()
    assert resident_bytes(int(first.load_s)) == 0
    assert trial.try_model(JOB).load_s != first.load_s, "a fresh one after close"
    trial.close()
    trial.close()


def test_the_child_gets_the_job() -> None:
    code = (
        'import json\njob = json.loads(sys.stdin.readline()); print(json.dumps({"provider": job["path"]}), flush=True)'
    )
    assert tried(code).provider == JOB.path


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("os.abort()", "was killed by SIGABRT"),
        ("os.kill(os.getpid(), 11)", "was killed by SIGSEGV"),
        ('print("no library", file=sys.stderr); sys.exit(3)', "ended with exit code 3: no library"),
        ("sys.exit(0)", "ended with exit code 0"),
        ('print("hello", flush=True); time.sleep(60)', "answered b'hello' instead of a verdict"),
        ("print('{}\\n{}', flush=True); time.sleep(60)", "answered more than a verdict"),
        ('sys.stdout.write("x" * (17 << 20)); time.sleep(60)', "answered more than 16777216 bytes"),
    ],
)
def test_a_child_that_misbehaves_is_a_crash(code: str, words: str) -> None:
    verdict = tried(code)
    assert verdict.stage == "crash"
    assert words in verdict.error


def test_what_a_dying_child_said_last_counts() -> None:
    assert tried('print(\'{"provider": "cpu"}\', flush=True); os.abort()').provider == "cpu"


@pytest.mark.parametrize("code", ["time.sleep(60)", "os.close(1); os.close(2); time.sleep(60)"])
def test_a_child_that_hangs_is_killed(code: str) -> None:
    busy_s = time.thread_time()
    verdict = tried(code, timeout_s=0.2)
    assert verdict.stage == "crash"
    assert "did not end within 0.2 s" in verdict.error
    assert time.thread_time() - busy_s < 0.1, "waiting costs no processor"


def test_a_child_that_eats_memory_is_killed() -> None:
    verdict = tried("kept = []\nwhile True: kept.append(bytearray(1 << 20))", memory_bytes=64 * MIB)
    assert verdict.stage == "memory"
    assert "limit 64 MiB" in verdict.error
    assert verdict.peak_bytes > 64 * MIB


def test_a_child_that_floods_its_complaints_is_heard_out() -> None:
    verdict = tried('print("x" * 9_000_000, file=sys.stderr); print("the end", file=sys.stderr); os.abort()')
    assert verdict.error.endswith("the end")
    assert len(verdict.error) < 1000


def test_a_child_that_does_not_start_is_told() -> None:
    verdict = TrialProcess(["/no/such/program"], None, 1.0).try_model(JOB)
    assert verdict == Verdict(stage="crash", error="the trial process cannot be started: No such file or directory")


def test_a_child_that_died_idle_is_replaced() -> None:
    trial = TrialProcess([sys.executable, "-S", "-c", f"import sys, os\n{GOOD}"], 500 * MIB, 10.0)
    first = int(trial.try_model(JOB).load_s)
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert trial.try_model(JOB).load_s not in (0, first)
    trial.close()


def test_close_ends_a_trial_under_way() -> None:
    trial = TrialProcess([sys.executable, "-S", "-c", "import time; time.sleep(60)"], None, 60.0)
    verdicts: list[Verdict] = []
    thread = threading.Thread(target=lambda: verdicts.append(trial.try_model(JOB)))
    thread.start()
    while trial._child is None:
        thread.join(0.001)
    trial.close()
    thread.join(10)
    assert verdicts[0].stage == "crash"
    assert "SIGKILL" in verdicts[0].error


def test_nothing_is_left_open() -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        tried("os.abort()")
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_the_environment_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPILLWAY_SECRET", "x")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    environment = child_environment()
    assert "SPILLWAY_SECRET" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["PYTHONSAFEPATH"] == "1"
    assert str(Path(__file__).resolve().parents[2]) in environment["PYTHONPATH"].split(os.pathsep)


def test_memory_figures() -> None:
    assert resident_bytes(os.getpid()) > MIB
    assert resident_bytes(2**22 + 1) == 0
    assert MIB < available_bytes() < 2**50
    give_back()


def test_a_control_group_leaves_what_it_has_not_used(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 20\n")
    assert _left_bytes(tmp_path) == 450
    (tmp_path / "memory.current").write_text("2000\n")
    assert _left_bytes(tmp_path) == 0
    (tmp_path / "memory.max").write_text("max\n")
    assert _left_bytes(tmp_path) is None
    assert _left_bytes(tmp_path / "no group") is None
