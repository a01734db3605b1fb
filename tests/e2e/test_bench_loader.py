"""The compiled load generator against servers whose behaviour is known. Skipped where it is not built."""

import json
import subprocess
import threading
from collections.abc import Iterator
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path

import grpc
import pytest

from tests.conftest import require

_BUILD = Path(__file__).resolve().parents[2] / "bench" / "loader" / "build"


@pytest.fixture(autouse=True, scope="module")
def _built() -> None:
    require((_BUILD / "loader").exists(), "the loader is not built: make -C bench/loader")


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    (tmp_path / "request").write_bytes(b"question")
    (tmp_path / "expected").write_bytes(b"answer")
    return ["--request", str(tmp_path / "request"), "--expect", str(tmp_path / "expected")]


@pytest.fixture
def every_third_refused() -> Iterator[str]:
    calls = count()

    def infer(_request: bytes, context: grpc.ServicerContext) -> bytes:
        if next(calls) % 3 == 2:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")
        return b"an answer"

    server = grpc.server(futures.ThreadPoolExecutor(2))
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
        "ModelInfer": grpc.unary_unary_rpc_method_handler(infer)
    }
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("inference.GRPCInferenceService", handlers)])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.fixture
def http_server() -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one write: no wait for a delayed acknowledgement

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.send_header("Content-Length", "9")
            self.end_headers()
            self.wfile.write(b"an answer")

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.01,)).start()
    yield f"127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def _load(*arguments: str) -> dict[str, object]:
    done = subprocess.run([_BUILD / "loader", *arguments], capture_output=True, text=True, check=True)
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_counts_refusals_apart(every_third_refused: str, files: list[str]) -> None:
    found = _load("--target", every_third_refused, *files, "--count", "30", "--concurrency", "4", "--connections", "2")
    assert found["codes"] == {"OK": 20, "RESOURCE_EXHAUSTED": 10}
    assert found["sent"] == found["answered"] == 30
    assert found["mismatched"] == 0
    assert found["reply_bytes"] == {"min": 9, "max": 9}
    assert isinstance(found["refused_ms"], dict)
    assert found["refused_ms"]["count"] == 10


def test_finds_wrong_answers(every_third_refused: str, files: list[str], tmp_path: Path) -> None:
    (tmp_path / "expected").write_bytes(b"ANSWER")
    found = _load("--target", every_third_refused, *files, "--count", "3")
    assert (found["ok"], found["mismatched"], found["goodput"]) == (2, 2, 0)


def test_open_loop_sends_at_its_rate(every_third_refused: str, files: list[str]) -> None:
    found = _load(
        "--target", every_third_refused, *files, "--rate", "500", "--count", "100", "--idle-connections", "20"
    )
    assert found["mode"] == "open"
    assert found["answered"] == 100
    assert isinstance(found["window_s"], float)
    assert 0.1 < found["window_s"] < 0.6  # 100 Poisson arrivals at 500/s: 0.2 s on average, sd 0.02


def test_http_mode(http_server: str, files: list[str]) -> None:
    closed = ["--concurrency", "3", "--count", "30"]
    found = _load("--target", http_server, "--http-path", "/x", *files, *closed)
    assert (found["codes"], found["mismatched"]) == ({"OK": 30}, 0)
    found = _load("--target", http_server, "--http-path", "/x", *files, "--rate", "400", "--duration", "0.2")
    assert found["answered"] == found["ok"] == found["sent"]


def test_an_unreachable_server_is_an_error(files: list[str]) -> None:
    command = [str(_BUILD / "loader"), "--target", "127.0.0.1:9", "--http-path", "/x", *files]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot connect to 127.0.0.1:9" in done.stderr
