"""Runs one server and loads it: start, first good answer, CPU and memory of its whole process tree, the loader, stop.

Rules:
- A server is ready when it gave the expected answer, not when a port is open; the time from exec to there is its start.
- CPU is that of the server's process and all its descendants, over the loader's whole run, divided by all its answers
  (warm-up included): both sides count the same calls.
- Memory is what the tree would hold alone on a machine. Not PSS: that would split the pages of the interpreter and its
  libraries with the bench itself and with the other servers that use the same files.
- A server that does not come up is `Unavailable` with the end of its log; every process started here ends here.
"""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import msgspec
import numpy as np
import psutil

from bench.environments import Unavailable
from bench.models import Prepared
from bench.servers import Server

_LOADER_HOME = Path(__file__).parent / "loader"
_START_LIMIT_S = 60.0
_STOP_LIMIT_S = 10.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_LARGE_REPLY_BYTES = 1 << 16  # above this, comparing every reply would cost the loader too much


class Percentiles(msgspec.Struct, frozen=True):
    """Milliseconds, by nearest rank."""

    count: int
    mean: float
    p50: float
    p90: float
    p99: float
    max: float


class Load(msgspec.Struct, frozen=True):
    """What the loader printed (bench/loader/recorder.h says what each figure counts)."""

    mode: str
    protocol: str
    sent: int
    answered: int
    unfinished: int
    counted: int
    ok: int
    mismatched: int
    codes: dict[str, int]
    rps: float
    goodput: float
    window_s: float
    elapsed_s: float
    cpu_s: float
    reply_bytes: dict[str, int]
    ok_ms: Percentiles | None
    refused_ms: Percentiles | None  # all that were not OK
    code_ms: dict[str, Percentiles]  # the same by status code
    late_ms: Percentiles | None

    @property
    def clean(self) -> bool:
        """Every call was answered, OK and, where compared, right."""
        return self.ok == self.counted > 0 and self.mismatched == 0 and self.unfinished == 0


@dataclass(frozen=True)
class Shape:
    """How to load: `concurrency` calls in flight, or `rate` arrivals a second."""

    concurrency: int = 1
    rate: float = 0.0
    duration_s: float = 4.0
    warmup_s: float = 0.5
    connections: int = 1
    idle_connections: int = 0  # opened beside and held without a call
    deadline_ms: int = 0  # sent with every call, and the bound of goodput
    count: int = 0  # stop after so many calls instead; all count, there is no warm-up


@dataclass(frozen=True)
class Cell:
    """One load on one server: what the loader saw, and what the server paid for each answer."""

    load: Load
    server_cpu_ms: float


@dataclass
class Running:
    """A started server. `start_s` runs from exec to its first good answer."""

    server: Server
    process: subprocess.Popen[bytes]
    address: str
    start_s: float

    def cpu_s(self) -> float:
        """CPU seconds of the tree so far, ended and reaped children included."""
        total = 0.0
        for member in _tree(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                times = member.cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total

    def memory_bytes(self) -> int:
        """Resident memory of the tree now: all private pages, and the largest shared part of any member once."""
        private, shared = 0, 0
        for member in _tree(self.process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                used = member.memory_full_info()
                private += used.uss
                shared = max(shared, used.rss - used.uss)
        return int(private + shared)


def build_loader() -> None:
    """Build the loader and its echo server where they are missing or older than their sources.

    Raises:
        Unavailable: no compiler or no libgrpc++ here.
    """
    try:
        done = subprocess.run(["make", "-C", str(_LOADER_HOME)], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise Unavailable("the loader needs make, g++, pkg-config and libgrpc++-dev") from error
    if done.returncode != 0:
        end = done.stderr.strip().splitlines()[-1:] or ["make failed"]
        raise Unavailable(f"the loader does not build (g++, pkg-config, libgrpc++-dev are needed): {end[0]}")


@contextlib.contextmanager
def running(server: Server, prepared: Prepared, scratch: Path) -> Iterator[Running]:
    """The server, started and answering; ended with its whole tree on exit.

    Raises:
        Unavailable: it did not give the expected answer in time.
    """
    log = scratch / "log"
    if server.announce is not None:
        server.announce.unlink(missing_ok=True)
    begin = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            server.command,
            env={**os.environ, **server.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        address = _await_answer(server, prepared, process, begin + _START_LIMIT_S)
        if not address:
            raise Unavailable(f"no good answer within {_START_LIMIT_S:.0f} s or it ended: {_last_words(log)}")
        yield Running(server, process, address, time.monotonic() - begin)
    finally:
        _end(process)


def measure(target: Running, prepared: Prepared, shape: Shape) -> Cell:
    """Load a running server once."""
    before = target.cpu_s()
    load = run_loader(target, prepared, shape)
    spent = target.cpu_s() - before
    return Cell(load=load, server_cpu_ms=spent * 1e3 / max(1, load.answered))


def run_loader(target: Running, prepared: Prepared, shape: Shape) -> Load:
    """Run the load generator and read its figures.

    Raises:
        Unavailable: the server takes no connections any more.
    """
    http_path = target.server.http_path
    command = [str(_LOADER_HOME / "build" / "loader"), "--target", target.address]
    command += ["--http-path", http_path] if http_path else ["--connections", str(shape.connections)]
    command += ["--request", str(prepared.body if http_path else prepared.request)]
    command += ["--expect", str(prepared.expected), "--tolerance", str(prepared.model.tolerance)]
    if prepared.expected.stat().st_size > _LARGE_REPLY_BYTES:
        command += ["--check-every", "16"]
    command += _shape_flags(shape)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Unavailable(done.stderr.strip() or f"the loader ended with {done.returncode}")
    return msgspec.json.decode(done.stdout, type=Load)


def as_expected(prepared: Prepared, reply: bytes) -> bool:
    """Tell whether a reply ends with the expected output, within the model's tolerance."""
    want = np.frombuffer(prepared.expected.read_bytes(), np.float32)
    if len(reply) < want.nbytes:
        return False
    got = np.frombuffer(reply[-want.nbytes :], np.float32)
    return bool(np.all(np.abs(got - want) <= prepared.model.tolerance * (1 + np.abs(want))))


def _shape_flags(shape: Shape) -> list[str]:
    flags = ["--concurrency", str(shape.concurrency)]
    if shape.count:
        flags += ["--count", str(shape.count)]
    else:
        flags += ["--duration", str(shape.duration_s), "--warmup", str(shape.warmup_s)]
    if shape.rate:
        flags += ["--rate", str(shape.rate)]
    if shape.deadline_ms:
        flags += ["--deadline-ms", str(shape.deadline_ms)]
    if shape.idle_connections:
        flags += ["--idle-connections", str(shape.idle_connections)]
    return flags


def _await_answer(server: Server, prepared: Prepared, process: subprocess.Popen[bytes], until: float) -> str:
    """The server's address once it answered as expected; empty when it ended or the time is over."""
    while time.monotonic() < until and process.poll() is None:
        address = _address(server)
        if address and _listens(address) and _answers(server, prepared, address):
            return address
        time.sleep(0.01)
    return ""


def _address(server: Server) -> str:
    if server.announce is None:
        return server.address
    if not server.announce.exists():
        return ""
    return str(json.loads(server.announce.read_text())["grpc"])


def _listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0


def _answers(server: Server, prepared: Prepared, address: str) -> bool:
    try:
        reply = _post(server, prepared, address) if server.http_path else _call(prepared, address)
    except (grpc.RpcError, OSError, http.client.HTTPException):
        return False
    return as_expected(prepared, reply)


def _call(prepared: Prepared, address: str) -> bytes:
    options = [("grpc.max_receive_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address, options=options) as channel:
        infer: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_METHOD)
        return infer(prepared.request.read_bytes(), timeout=10)


def _post(server: Server, prepared: Prepared, address: str) -> bytes:
    connection = http.client.HTTPConnection(address, timeout=10)
    try:
        connection.request("POST", server.http_path, prepared.body.read_bytes())
        reply = connection.getresponse()
        return reply.read() if reply.status == http.HTTPStatus.OK else b""
    finally:
        connection.close()


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the tree: politely, then not."""
    members = _tree(process.pid)
    process.send_signal(signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_LIMIT_S)
    for member in members:
        with contextlib.suppress(psutil.NoSuchProcess):
            member.kill()
    process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"
