"""The probe of the images, run as they run it, against a listener that answers what it is told."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

PROBE = Path(__file__).resolve().parents[2] / "containers" / "probe.py"


def probe(port: int) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-S", PROBE, "/readyz"],
        env={"SPILLWAY_HTTP_PORT": str(port)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", 0),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", 1),
        (b"HTTP/1.1 2000 No\r\n\r\n", 1),
        (b"", 1),
    ],
)
def test_only_200_is_well(answer: bytes, status: int) -> None:
    asked: list[bytes] = []

    def answer_once() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1024))
            connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=answer_once)
        thread.start()
        done = probe(listener.getsockname()[1])
        thread.join()
    assert done.returncode == status, done.stdout + done.stderr
    assert asked[0].startswith(b"GET /readyz HTTP/1.0\r\n")


def test_nobody_there_is_not_well() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    done = probe(port)
    assert done.returncode == 1
    assert "refused" in done.stdout
