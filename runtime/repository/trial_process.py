"""The child process that tries models, and the guard over it.

    TrialJob as one JSON line -> stdin        stdout -> Verdict as one JSON line        stderr -> kept for the message

Rules
- The child is exec'd, never forked from this process' memory; it gets a small environment and a session of its own.
- One loop in the calling thread reads the answer and looks every 20 ms at the child's resident memory and at the time;
  above either limit the whole session is killed. (An address-space limit would break CUDA.)
- Whatever the child does - crash, hang, eat memory, print rubbish - becomes a verdict with stage `crash` or `memory`.
  The next job starts a fresh child; after a clean verdict the same child may try the next model.
"""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from select import POLLIN, poll

import msgspec

from runtime.core.clock import Clock, monotonic
from runtime.core.verdict import TrialJob, Verdict
from runtime.repository.memory import available_bytes, resident_bytes

TICK_S = 0.02
MEMORY_SHARE = 0.8
MAX_ANSWER_BYTES = 16 << 20
STDERR_TAIL_BYTES = 8192
_READ_BYTES = 65_536

_KEPT_VARIABLES = ("HOME", "LANG", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
_KEPT_PREFIXES = ("CUDA_", "LC_", "MALLOC_", "NVIDIA_", "OMP_", "OPENVINO_", "ORT_")


class TrialProcess:
    """Implements `gate.Trial`. One child at a time; `try_model` is serialised, `close` may come from any thread.

    `memory_limit_bytes` None means 80 % of what is available when the trial starts.
    """

    def __init__(
        self,
        argv: Sequence[str],
        memory_limit_bytes: int | None,
        timeout_s: float,
        clock: Clock = monotonic,
    ) -> None:
        self._argv = tuple(argv)
        self._memory_limit_bytes = memory_limit_bytes
        self._timeout_s = timeout_s
        self._clock = clock
        self._turn = threading.Lock()
        self._child: _Child | None = None

    def try_model(self, job: TrialJob) -> Verdict:
        """Hand one job to the child and wait for its verdict. Blocking."""
        with self._turn:
            try:
                child = self._living_child()
            except OSError as error:
                return _crash(f"the trial process cannot be started: {error.strerror}")
            limit = self._memory_limit_bytes or int(available_bytes() * MEMORY_SHARE)
            told = msgspec.structs.replace(job, memory_bytes=limit)
            verdict = child.ask(msgspec.json.encode(told), limit, self._timeout_s, self._clock)
            if verdict is child.epitaph:
                self._discard()
            return verdict

    def close(self) -> None:
        """Kill the child. A trial that is under way in another thread ends with stage `crash`. Blocks for a moment."""
        child = self._child
        if child is not None:
            child.kill()
        with self._turn:  # only its user may close the pipes: their numbers could be another file's by the next read
            self._discard()

    def _living_child(self) -> "_Child":
        if self._child is not None and not self._child.is_alive():
            self._discard()
        if self._child is None:
            self._child = _Child(self._argv)
        return self._child

    def _discard(self) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.close()
            self._child = None


class _Child:
    """One running child. `kill` may come from any thread; everything else from the one whose turn it is."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the daemon's own command, no shell
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        for stream in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(stream.fileno(), False)
        self._complaints = b""
        self.epitaph: Verdict | None = None
        _prefer_as_victim(self._process.pid)

    def is_alive(self) -> bool:
        """Tell whether the process runs and can take a job."""
        return self._process.poll() is None

    def ask(self, job: bytes, limit_bytes: int, timeout_s: float, clock: Clock) -> Verdict:
        """Send a job and guard the child until it answers; where it does not, the verdict is its `epitaph`."""
        deadline = clock() + timeout_s
        unsent = memoryview(job + b"\n")
        answer = bytearray()
        poller = poll()
        poller.register(self._stdout, POLLIN)
        poller.register(self._stderr, POLLIN)
        while True:
            unsent = self._send(unsent)
            for descriptor, event in poller.poll(TICK_S * 1000):
                if not event & POLLIN:  # closed by the child: without this the loop would spin
                    poller.unregister(descriptor)
            self._complaints = (self._complaints + _read(self._stderr.fileno()))[-STDERR_TAIL_BYTES:]
            code = self._process.poll()  # before the read: what a dead child said last is all in the pipe
            answer += _read(self._stdout.fileno())
            if b"\n" in answer:
                return self._decode(bytes(answer))
            if code is not None:
                self.epitaph = _crash(f"the trial process {_death(code)}{self._last_words()}")
            else:
                self.epitaph = self._look(len(answer), limit_bytes, timeout_s, is_late=clock() >= deadline)
            if self.epitaph is not None:
                return self.epitaph

    def kill(self) -> None:
        """End the process and its descendants. Idempotent."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it died since, which is what is wanted
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Reap the killed process and close the pipes."""
        self._process.wait()
        for stream in (self._stdin, self._stdout, self._stderr):
            stream.close()

    def _send(self, unsent: memoryview) -> memoryview:
        if not unsent:
            return unsent
        try:
            return unsent[os.write(self._stdin.fileno(), unsent) :]
        except BlockingIOError:
            return unsent
        except BrokenPipeError:  # the child died; the loop finds out why
            return unsent[:0]

    def _decode(self, answer: bytes) -> Verdict:
        line, _, rest = answer.partition(b"\n")
        try:
            verdict = msgspec.json.decode(line, type=Verdict)
        except ValueError as error:
            verdict = self.epitaph = _crash(f"the trial answered {line[:80]!r} instead of a verdict ({error})")
        if rest:
            verdict = self.epitaph = _crash(f"the trial answered more than a verdict: {rest[:80]!r}")
        return verdict

    def _look(self, answered: int, limit_bytes: int, timeout_s: float, *, is_late: bool) -> Verdict | None:
        """Return the epitaph of a child that exceeds a limit."""
        resident = resident_bytes(self._process.pid)
        if resident > limit_bytes:
            error = f"the trial took {_mib(resident)} MiB of memory, limit {_mib(limit_bytes)} MiB"
            return Verdict(stage="memory", error=error, peak_bytes=resident)
        if answered > MAX_ANSWER_BYTES:
            return _crash(f"the trial answered more than {MAX_ANSWER_BYTES} bytes")
        if is_late:
            return _crash(f"the trial did not end within {timeout_s:g} s{self._last_words()}")
        return None

    def _last_words(self) -> str:
        self._complaints += _read(self._stderr.fileno())
        lines = self._complaints.decode(errors="replace").split("\n")
        text = " | ".join(line.strip() for line in lines[-6:] if line.strip())
        return f": {text[-500:]}" if text else ""


def child_environment() -> dict[str, str]:
    """Return the few variables that a trial needs, and this process' import path instead of its working folder."""
    kept = {key: value for key, value in os.environ.items() if key in _KEPT_VARIABLES or key.startswith(_KEPT_PREFIXES)}
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**kept, "PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


def _read(descriptor: int) -> bytes:
    """Read what is there; empty at the end of the file and where nothing waits."""
    try:
        return os.read(descriptor, _READ_BYTES)
    except BlockingIOError:
        return b""


def _prefer_as_victim(pid: int) -> None:
    """Let the kernel kill the trial first where memory runs out between two looks."""
    with contextlib.suppress(OSError):  # gone already, or no such file: the guard above works without
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")


def _crash(reason: str) -> Verdict:
    return Verdict(stage="crash", error=reason)


def _death(code: int) -> str:
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        return f"was killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"was killed by signal {-code}"


def _mib(count: int) -> int:
    return count >> 20
