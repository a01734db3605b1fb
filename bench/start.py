"""From exec to ready, for the sample model (issue 2), and where the time goes.

    python -m bench.start [--quick] [--json FILE]

Each round starts the daemon twice: at first sight (empty state directory, so that the trial child checks and measures
the model) and with the verdict that this left. Ready is when the daemon announces itself as ready, as a script or a
service manager sees it. The steps are read from its log; CPU seconds are those of the daemon and its trial child: where
wall time is much longer than CPU time, this machine was busy with other work.

The last table is Python's own import timer (least of several runs, self time, summed by package): the timer itself
costs a little, so its sum is above what a start spends.
"""

import json
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

import psutil

from bench import alone, findings
from bench.findings import Findings
from bench.results import middle

MODELS = Path(__file__).resolve().parents[1] / "examples" / "digits" / "models"
_LIMIT_S = 60.0
_TICK_S = 0.001
_STEPS = {
    "grpc listening": "interpreter, imports, gRPC listener",
    "http listening": "HTTP listeners",
    "sessions ready": "repository, verdict or trial, session",
    "ready": "announcement",
}
"""Events in the daemon's log that end a step, and what was done until then."""
_IMPORT = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+(\S+)")
_SHOWN = 12


@dataclass(frozen=True)
class Start:
    """One start. Seconds."""

    ready_s: float
    cpu_s: float
    steps_s: Mapping[str, float]


def start(state: str, *, fresh: bool) -> Start:
    """Start the daemon, wait until it is ready, end it.

    Raises:
        RuntimeError: it ended, or was not ready in time; the text is the end of its log.
    """
    home = alone.scratch(state, fresh=fresh)
    announce, log = home / "announce", home / "log"
    announce.unlink(missing_ok=True)
    words = [sys.executable, "-m", "runtime", "serve", "--model-repository", str(MODELS), "--log-format", "json"]
    words += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    with log.open("wb") as out:
        begun, wall = time.monotonic(), time.time()
        process = subprocess.Popen([*words, "--announce", str(announce), "--state-dir", str(home)], stderr=out)
        try:
            while not announce.exists() and process.poll() is None and time.monotonic() - begun < _LIMIT_S:
                time.sleep(_TICK_S)
            ready_s = time.monotonic() - begun
            if not announce.exists() or not json.loads(announce.read_text())["ready"]:
                raise RuntimeError(f"not ready after {ready_s:.1f} s: {log.read_text()[-500:]}")
            used = psutil.Process(process.pid).cpu_times()
        finally:
            process.terminate()
            process.wait()
    cpu_s = used.user + used.system + used.children_user + used.children_system
    return Start(ready_s, cpu_s, _steps(log.read_text(), wall))


def _steps(log: str, begun: float) -> dict[str, float]:
    """Seconds of each step, by the events in a log; `begun` is wall time."""
    steps: dict[str, float] = {}
    before = begun
    for line in log.splitlines():
        entry = json.loads(line)
        if entry["event"] in _STEPS:
            now = datetime.fromisoformat(entry["time"]).timestamp()
            steps[_STEPS[entry["event"]]] = now - before
            before = now
    return steps


def imports(runs: int) -> Counter[str]:
    """Milliseconds of self time that importing the daemon costs, by module; the least of `runs`."""
    least: dict[str, float] = {}
    for _ in range(runs):
        words = [sys.executable, "-X", "importtime", "-c", "import runtime.cli.serve, runtime.daemon"]
        said = subprocess.run(words, capture_output=True, text=True, check=True).stderr
        for micros, module in _IMPORT.findall(said):
            least[module] = min(least.get(module, float("inf")), int(micros) / 1e3)
    return Counter(least)


def program(found: Findings) -> None:
    """Both kinds of start in turn, then the imports."""
    rounds = 3 if found.quick else 9
    starts: dict[str, list[Start]] = {"first sight": [], "cached verdict": []}
    start("start", fresh=True)  # not counted: bytecode and libraries come from the disk
    for _ in range(rounds):
        for kind, each in starts.items():
            each.append(start("start", fresh=kind == "first sight"))
    for kind, each in starts.items():
        _say(found, kind, each)
    modules = imports(rounds)
    packages: Counter[str] = Counter()
    for module, spent_ms in modules.items():
        packages[module.split(".")[0]] += round(spent_ms, 1)
    found.say(f"imports, {sum(packages.values()):.0f} ms: {_top(packages)}")
    found.say(f"our own, ms: {_top(Counter({m: s for m, s in modules.items() if m.split('.')[0] == 'runtime'}))}")
    found.figures = {"starts": {kind: list(map(asdict, each)) for kind, each in starts.items()}, "imports_ms": modules}
    for kind, bound in (("cached verdict", 1.0), ("first sight", 1.5)):
        found.at_most(f"start to ready, {kind}, s", middle([each.ready_s for each in starts[kind]]), bound)


def _say(found: Findings, kind: str, starts: Sequence[Start]) -> None:
    ready_s, cpu_s = middle([each.ready_s for each in starts]), middle([each.cpu_s for each in starts])
    found.say(f"{kind}: ready after {ready_s:.2f} s (of {len(starts)}), {cpu_s:.2f} s of CPU")
    for step in _STEPS.values():
        spent_s = middle([each.steps_s.get(step) for each in starts])
        found.say(f"    {step:40} {'-' if spent_s is None else f'{spent_s:.2f} s'}")


def _top(spent_ms: "Counter[str]") -> str:
    return ", ".join(f"{name} {ms:.0f}" for name, ms in spent_ms.most_common(_SHOWN))


if __name__ == "__main__":
    sys.exit(findings.measured("start", findings.arguments(__doc__).parse_args(), program))
