"""`make demo`: serve the handwritten digits and ask for every image that training never saw.

Starts the daemon as anyone would, puts the held-back images to it through NVIDIA's `tritonclient`
in concurrent clients, and prints what came back: accuracy, throughput, latency, and the average
batch that the daemon formed from single-image requests. Then SIGTERM, and the daemon has to drain.

It is a demonstration and no benchmark: all clients are threads of this one Python process and take
as much processor time as the daemon does. `make bench` measures.

Rules
- Exit status 0 only if every request was answered, accuracy reached its floor and the daemon left
  with status 0; otherwise 1, and the reasons are printed with the end of the daemon's log.
- Every wait has a limit, and the daemon never outlives this program.
"""

import argparse
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import tritonclient.grpc as triton
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from tritonclient.utils import InferenceServerException

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
MODEL = "digits"
ACCURACY_FLOOR = 0.97
START_LIMIT_S = 60.0
STOP_LIMIT_S = 40.0  # above the daemon's own drain limit of 30 s
REQUEST_LIMIT_S = 5.0


class DemoError(Exception):
    """The demo cannot go on; the message is the reason to print."""


@dataclass(slots=True)
class Outcome:
    """What one client, or all of them together, got back."""

    correct: int = 0
    latencies_s: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """Number of requests with an answer, right or wrong."""
        return len(self.latencies_s)

    @property
    def accuracy(self) -> float:
        """Share of right answers; 0 where there are none."""
        return self.correct / self.answered if self.answered else 0.0

    def add(self, other: "Outcome") -> None:
        """Count another client's outcome into this one."""
        self.correct += other.correct
        self.latencies_s += other.latencies_s
        self.failures += other.failures


def shortcomings(outcome: Outcome, daemon_status: int | None) -> list[str]:
    """Return the reasons for which the demo failed; none means that it passed. Pure."""
    reasons = []
    if outcome.failures:
        reasons.append(f"{len(outcome.failures)} requests failed, the first with: {outcome.failures[0]}")
    if not outcome.answered:
        reasons.append("no request was answered")
    elif outcome.accuracy < ACCURACY_FLOOR:
        reasons.append(f"accuracy {outcome.accuracy:.4f} is below {ACCURACY_FLOOR}")
    if daemon_status is None:
        reasons.append(f"the daemon did not stop within {STOP_LIMIT_S:.0f} s of SIGTERM and was killed")
    elif daemon_status != 0:
        reasons.append(f"the daemon left with status {daemon_status}, not 0")
    return reasons


@contextmanager
def client_of(address: str) -> Iterator[triton.InferenceServerClient]:
    """Open a client with a connection of its own; without the option, gRPC lets equal channels share one."""
    client = triton.InferenceServerClient(address, channel_args=[("grpc.use_local_subchannel_pool", 1)])
    try:
        yield client
    finally:
        client.close()


def request_for(image: NDArray[np.uint8]) -> list[triton.InferInput]:
    """Return the inputs of a request for one image: a batch of one row, its bytes sent as they are."""
    tensor = triton.InferInput("image", [1, *image.shape], "UINT8")
    tensor.set_data_from_numpy(image[None])
    return [tensor]


def ask(
    address: str, images: NDArray[np.uint8], labels: NDArray[np.uint8], tickets: Iterator[int], until: float
) -> Outcome:
    """Be one client: draw tickets and ask for their images, one at a time, until the time is over.

    Tickets are shared by all clients (`next` on an `itertools.count` is atomic), and the first
    `len(images)` of them are always asked, so every image is asked at least once. Ends at the
    first failure: a daemon that is gone should not be asked a thousand times.
    """
    outcome = Outcome()
    wanted = [triton.InferRequestedOutput("digit")]
    with client_of(address) as client:
        for ticket in tickets:
            if ticket >= len(images) and time.monotonic() >= until:
                return outcome
            index = ticket % len(images)
            started = time.perf_counter()
            try:
                result = client.infer(MODEL, request_for(images[index]), outputs=wanted, client_timeout=REQUEST_LIMIT_S)
            except InferenceServerException as error:
                outcome.failures.append(str(error))
                return outcome
            outcome.latencies_s.append(time.perf_counter() - started)
            outcome.correct += int(result.as_numpy("digit")[0, 0] == labels[index])
    return outcome


def ask_all(
    address: str,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    *,
    clients: int,
    seconds: float,
    console: Console,
) -> tuple[Outcome, float]:
    """Run the clients side by side under a progress bar; return the joint outcome and the seconds it took."""
    tickets = itertools.count()
    columns = (TextColumn("[progress.description]{task.description}"), BarColumn(), TimeRemainingColumn())
    started = time.monotonic()
    with ThreadPoolExecutor(clients, "client") as pool, Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{clients} clients, one image a request", total=seconds)
        asking: set[Future[Outcome]] = {
            pool.submit(ask, address, images, labels, tickets, started + seconds) for _ in range(clients)
        }
        left = asking
        while left:
            left = wait(left, timeout=0.1).not_done
            progress.update(task, completed=min(time.monotonic() - started, seconds))
    total = Outcome()
    for future in asking:
        total.add(future.result())
    return total, time.monotonic() - started


@dataclass(frozen=True, slots=True)
class Counts:
    """The daemon's own count of what it ran."""

    inferences: int
    executions: int


def counts_of(address: str) -> Counts:
    """Ask the daemon for the model's statistics."""
    with client_of(address) as client:
        statistics = client.get_inference_statistics(MODEL, client_timeout=REQUEST_LIMIT_S).model_stats[0]
    return Counts(int(statistics.inference_count), int(statistics.execution_count))


def show_first_answer(address: str, image: NDArray[np.uint8], label: int, console: Console) -> None:
    """Print one image and the three likeliest labels, which the daemon names itself (classification)."""
    wanted = [triton.InferRequestedOutput("probabilities", class_count=3)]
    with client_of(address) as client:
        result = client.infer(MODEL, request_for(image), outputs=wanted, client_timeout=REQUEST_LIMIT_S)
    answers = [entry.decode().split(":") for entry in result.as_numpy("probabilities").ravel()]
    said = [f"{name} {float(share):.3f}" for share, _, name in answers]
    notes = ["", f"a held-back image, labelled {label}", "the daemon says", *(f"  {line}" for line in said)]
    shades = " .:-=+*#%@"
    for row, note in itertools.zip_longest(image, notes, fillvalue=""):
        console.print("  " + "".join(shades[int(value) * 9 // 16] * 2 for value in row) + f"   {note}", highlight=False)


def summary(outcome: Outcome, wall_s: float, counts: Counts) -> Table:
    """Lay out the figures."""
    p50, p99 = np.percentile(outcome.latencies_s, [50, 99]) * 1e3
    table = Table(title="handwritten digits, images held back from training", show_header=False)
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    table.add_row("accuracy", f"{outcome.accuracy:.4f}", f"floor {ACCURACY_FLOOR}")
    table.add_row("answered", f"{outcome.answered:,}", f"{len(outcome.failures)} failed")
    table.add_row(
        "throughput", f"{outcome.answered / wall_s:,.0f}/s", f"in {wall_s:.1f} s, clients on the same machine"
    )
    table.add_row("latency p50", f"{p50:.2f} ms", "as the client sees it")
    table.add_row("latency p99", f"{p99:.2f} ms", "")
    average = counts.inferences / counts.executions if counts.executions else 0.0
    table.add_row(
        "average batch", f"{average:.2f}", f"{counts.inferences:,} inferences in {counts.executions:,} executions"
    )
    return table


class Daemon:
    """The daemon as a child process, on ports that the system chose."""

    def __init__(self, folder: Path) -> None:
        self._announcement = folder / "announce.json"
        self._log = folder / "daemon.log"
        command = [sys.executable, "-m", "runtime", "serve", "--model-repository", str(HERE / "models")]
        command += ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
        command += ["--announce", str(self._announcement), "--state-dir", str(folder)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)

    def wait_ready(self) -> str:
        """Return the gRPC address once the daemon has announced that its model is served."""
        limit = time.monotonic() + START_LIMIT_S
        while not self._announcement.exists():  # it is renamed into place, so what is there is whole
            if self._process.poll() is not None:
                raise DemoError(f"the daemon ended with status {self._process.returncode} before it was ready")
            if time.monotonic() > limit:
                raise DemoError(f"the daemon was not ready within {START_LIMIT_S:.0f} s")
            time.sleep(0.01)
        announced = json.loads(self._announcement.read_text())
        if not announced["ready"]:
            raise DemoError("the daemon started without its model")
        return str(announced["grpc"])

    def stop(self) -> int | None:
        """Send SIGTERM and wait until the daemon has drained; None where it had to be killed. Idempotent."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return None

    def log_tail(self, lines: int = 20) -> str:
        """Return the end of what the daemon wrote."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])


def present(address: str, *, clients: int, seconds: float, console: Console) -> Outcome:
    """Run the demo against a daemon that is ready."""
    with np.load(HERE / "test_images.npz") as archive:
        images, labels = archive["images"], archive["labels"]
    try:
        show_first_answer(address, images[0], int(labels[0]), console)
        before = counts_of(address)
        outcome, wall_s = ask_all(address, images, labels, clients=clients, seconds=seconds, console=console)
        after = counts_of(address)
    except InferenceServerException as error:
        raise DemoError(f"a request outside the load failed: {error}") from error
    if outcome.answered:
        ran = Counts(after.inferences - before.inferences, after.executions - before.executions)
        console.print(summary(outcome, wall_s, ran))
    return outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; return its exit status."""
    parser = argparse.ArgumentParser(prog="demo.py", description="Serve handwritten digits and measure the answers.")
    parser.add_argument("--seconds", type=float, default=6.0, help="how long the clients ask (default %(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="concurrent clients (default %(default)s)")
    arguments = parser.parse_args(argv)
    console = Console()
    with tempfile.TemporaryDirectory(prefix="spillway-demo-") as folder:
        daemon = Daemon(Path(folder))
        try:
            started = time.monotonic()
            address = daemon.wait_ready()
            console.print(f"daemon ready on {address} in {time.monotonic() - started:.2f} s\n", highlight=False)
            outcome = present(address, clients=arguments.clients, seconds=arguments.seconds, console=console)
            reasons = shortcomings(outcome, daemon.stop())
        except DemoError as error:
            reasons = [str(error)]
        finally:
            daemon.stop()
        if reasons:
            console.print(daemon.log_tail(), style="dim", markup=False, highlight=False)
        for reason in reasons:
            console.print(f"failed: {reason}", style="red", highlight=False)
    if not reasons:
        console.print("passed: every request answered, accuracy above its floor, the daemon drained and left with 0")
    return 1 if reasons else 0


if __name__ == "__main__":
    raise SystemExit(main())
