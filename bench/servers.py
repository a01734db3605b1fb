"""How each measured server is started: a command line, an environment, and where its address will be found.

All get the same cores, the same ONNX Runtime and the same model file; each serves one model. Nothing here starts one.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import environments
from bench.models import Prepared

_PEERS = Path(__file__).parent / "peers"
_LOADER = Path(__file__).parent / "loader" / "build"

OURS = "spillway"
FLOOR = "aio echo"
TUNED_FLOOR = "aio echo tuned"
CEILING = "C++ echo"
KSERVE = "kserve"
MOSEC = "mosec"
PYTRITON = "pytriton"


@dataclass(frozen=True)
class Server:
    """One server, ready to be started. `announce` is a file in which it states its address; else `address` is fixed."""

    name: str
    command: list[str]
    announce: Path | None = None
    address: str = ""
    http_path: str = ""  # set: HTTP/1.1 with raw bodies; else gRPC
    environment: Mapping[str, str] = field(default_factory=dict)


# As in runtime/process.py: freed pages stay with the process.
_MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": str(256 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(512 << 20),
    "MALLOC_TOP_PAD_": str(64 << 20),
}

Build = Callable[[Prepared, Path], Server]  # model, a scratch directory of this server's own


def ours(prepared: Prepared, scratch: Path) -> Server:
    """The daemon, as an operator starts it, on ports that the system chooses."""
    announce = scratch / "announce"
    ports = ["--grpc-port", "0", "--http-port", "0", "--metrics-port", "0"]
    command = [sys.executable, "-m", "runtime", "serve", "--model-repository", str(prepared.repository), *ports]
    command += ["--state-dir", str(scratch / "state"), "--announce", str(announce)]
    return Server(OURS, command, announce=announce)


def floor(prepared: Prepared, scratch: Path) -> Server:
    """A bare grpc.aio echo."""
    announce = scratch / "announce"
    command = [sys.executable, str(_PEERS / "aio_echo.py"), "--reply", str(prepared.reply)]
    return Server(FLOOR, [*command, "--announce", str(announce)], announce=announce)


def tuned_floor(prepared: Prepared, scratch: Path) -> Server:
    """The same with the allocator settings that the daemon gives itself: on large tensors they are half of the cost."""
    return replace(floor(prepared, scratch), name=TUNED_FLOOR, environment=_MALLOC)


def ceiling(prepared: Prepared, scratch: Path) -> Server:
    """The loader's own limit: a C++ server that answers with a constant."""
    announce = scratch / "announce"
    command = [str(_LOADER / "echo"), "--reply", str(prepared.reply)]
    return Server(CEILING, [*command, "--announce", str(announce)], announce=announce)


def kserve(prepared: Prepared, scratch: Path) -> Server:
    """KServe's Python server, in its environment."""
    python = environments.python_of(environments.KSERVE, _cache(scratch))
    grpc_port, http_port = free_ports(2)
    ports = ["--grpc_port", str(grpc_port), "--http_port", str(http_port)]
    model = ["--model_name", prepared.model.name, "--model-file", str(prepared.model_file)]
    command = [str(python), str(_PEERS / "kserve_server.py"), *model, *ports, "--threads", str(cores())]
    return Server(KSERVE, command, address=f"127.0.0.1:{grpc_port}")


def mosec(prepared: Prepared, scratch: Path) -> Server:
    """Mosec over HTTP, in its environment."""
    python = environments.python_of(environments.MOSEC, _cache(scratch))
    (port,) = free_ports(1)
    command = [str(python), str(_PEERS / "mosec_server.py"), "--address", "127.0.0.1", "--port", str(port)]
    command += ["--timeout", "60000"]  # ms; its default of 3 s refuses on a slow machine
    settings = {
        "BENCH_MODEL_FILE": str(prepared.model_file),
        "BENCH_THREADS": str(cores()),
        "BENCH_MAX_BATCH": str(prepared.model.max_batch),
    }
    return Server(MOSEC, command, address=f"127.0.0.1:{port}", http_path="/inference", environment=settings)


def pytriton(prepared: Prepared, scratch: Path) -> Server:
    """PyTriton, in its environment."""
    python = environments.python_of(environments.PYTRITON, _cache(scratch))
    grpc_port, http_port = free_ports(2)
    ports = ["--grpc-port", str(grpc_port), "--http-port", str(http_port)]
    model = ["--model-name", prepared.model.name, "--model-file", str(prepared.model_file)]
    limits = ["--threads", str(cores()), "--max-batch", str(prepared.model.max_batch)]
    command = [str(python), str(_PEERS / "pytriton_server.py"), *model, *limits, *ports]
    return Server(PYTRITON, command, address=f"127.0.0.1:{grpc_port}")


BUILDERS: Mapping[str, Build] = {
    CEILING: ceiling,
    FLOOR: floor,
    TUNED_FLOOR: tuned_floor,
    OURS: ours,
    KSERVE: kserve,
    MOSEC: mosec,
    PYTRITON: pytriton,
}


def cores() -> int:
    """The cores that this process may use: every peer's session gets that many threads."""
    return len(os.sched_getaffinity(0))


def free_ports(count: int) -> list[int]:
    """Ports that were free just now, for servers that cannot choose their own."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _cache(scratch: Path) -> Path:
    """Environments live beside the scratch directories, in the bench's cache."""
    return scratch.parents[1]
