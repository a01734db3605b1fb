"""Asks the daemon beside it whether it is well: `python -S probe.py /readyz`, exit status 0 or 1.

For the health check of an image and for probes of Kubernetes. The address is loopback, so it works whatever the
daemon shows to the outside. A bare socket, because this runs every few seconds for as long as the container lives
and an HTTP library would double what it costs. The daemon never imports it.
"""  # noqa: INP001 - a program, in no package

import os
import socket
import sys

LIMIT_S = 4.0


def status_line(path: str, port: int) -> str:
    """Return the first line of the answer to GET `path` on loopback.

    Raises:
        OSError: nobody answered in time.
    """
    with socket.create_connection(("127.0.0.1", port), LIMIT_S) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        return connection.makefile("rb").readline(128).decode(errors="replace").strip()


def main(path: str) -> int:
    """Print what was answered, for whoever inspects the container; return the exit status."""
    try:
        answer = status_line(path, int(os.environ.get("SPILLWAY_HTTP_PORT", "8000")))
    except OSError as error:
        answer = str(error)
    sys.stdout.write(f"{path}: {answer}\n")
    return 0 if answer.split()[1:2] == ["200"] else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
