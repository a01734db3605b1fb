"""The limit: ONNX Runtime called in this process, with nothing in front of it.

    python inprocess.py --model-file FILE --inputs FILE.npz --plan 1x1x8,2x1x8 [--seconds S] [--provider NAME]

A plan entry is sessions x threads x batch: that many sessions, each driven by its own Python thread (ONNX Runtime gives
the interpreter lock back while it runs), each with that many intra-op threads, on ready-made batches of that many rows.
Prints a JSON list, an entry each: rows a second, CPU milliseconds a row (of the whole process), p50 and p99 of one run.
"""

import argparse
import json
import resource
import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

Feed = dict[str, NDArray[np.generic]]

_LEAST_RUNS = 3  # of each session, however slow the model


def open_sessions(path: Path, sessions: int, threads: int, provider: str) -> list[ort.InferenceSession]:
    """Sessions that share nothing. Threads do not spin where several sessions share the cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    if sessions > 1 or threads == 1:
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return [ort.InferenceSession(path, options, providers=[provider]) for _ in range(sessions)]


def drive(session: ort.InferenceSession, feed: Feed, until: float, took: list[float]) -> None:
    """Run until the time is over; appends the seconds that each run took."""
    while len(took) < _LEAST_RUNS or time.perf_counter() < until:
        begin = time.perf_counter()
        session.run(None, feed)
        took.append(time.perf_counter() - begin)


def cpu_s() -> float:
    """CPU seconds of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def measure(sessions: list[ort.InferenceSession], feed: Feed, batch: int, seconds: float) -> dict[str, float]:
    """Drive all sessions at once."""
    for session in sessions:
        session.run(None, feed)
    took: list[list[float]] = [[] for _ in sessions]
    cpu, begin = cpu_s(), time.perf_counter()
    until = begin + seconds
    workers = [
        threading.Thread(target=drive, args=(session, feed, until, times))
        for session, times in zip(sessions, took, strict=True)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    elapsed, spent = time.perf_counter() - begin, cpu_s() - cpu
    runs = np.concatenate(took)
    rows = len(runs) * batch
    return {
        "rows_per_s": rows / elapsed,
        "cpu_ms_per_row": spent * 1e3 / rows,
        "p50_ms": float(np.percentile(runs, 50)) * 1e3,
        "p99_ms": float(np.percentile(runs, 99)) * 1e3,
    }


def main() -> None:
    """Read the command line, measure the plan, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--inputs", type=Path, required=True)
    parser.add_argument("--plan", required=True)
    parser.add_argument("--seconds", type=float, default=1.0)
    parser.add_argument("--provider", default="CPUExecutionProvider")
    args = parser.parse_args()
    row: Feed = dict(np.load(args.inputs))
    opened: tuple[int, int] | None = None
    found: list[ort.InferenceSession] = []
    results = []
    for entry in args.plan.split(","):
        sessions, threads, batch = (int(part) for part in entry.split("x"))
        if opened != (sessions, threads):
            found = []  # before the next are opened: two sets may not fit
            found, opened = open_sessions(args.model_file, sessions, threads, args.provider), (sessions, threads)
        feed = {name: np.repeat(array, batch, axis=0) for name, array in row.items()}
        figures = measure(found, feed, batch, args.seconds)
        results.append({"sessions": sessions, "threads": threads, "batch": batch, **figures})
    print(json.dumps(results))


if __name__ == "__main__":
    main()
