"""How a command finds its server over HTTP, and what it says when it does not."""

import argparse
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from runtime.cli.server import add_http_flags, address_of, get_status
from runtime.core.errors import CapacityError, DeadlineExpired, ExecutionError, InvalidRequest
from tests.transport.test_http_tls import Authority

EMPTY = b'{"server":"spillway","version":"1","uptime_s":1,"ready":true,"draining":false,"models":[],"new":1}'


@contextmanager
def answering(status: int, body: bytes, tls: ssl.SSLContext | None = None) -> Iterator[str]:
    """An HTTP server that says one thing; the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/status" else 404)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"localhost:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def flags(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_http_flags(parser, timeout_s=5.0)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("text", "tls", "address"),
    [
        ("127.0.0.1:8000", False, (False, "127.0.0.1", 8000)),
        ("127.0.0.1:8000", True, (True, "127.0.0.1", 8000)),
        ("http://node:8000/", True, (False, "node", 8000)),
        ("https://node", False, (True, "node", 443)),
        ("[::1]:8000", False, (False, "::1", 8000)),
    ],
)
def test_addresses(text: str, tls: bool, address: tuple[bool, str, int]) -> None:
    assert address_of(text, tls=tls) == address


@pytest.mark.parametrize("text", ["", ":8000", "node:http", "node:99999", "ftp://node:1", "node:8000/v2", "[::1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidRequest, match="address"):
        address_of(text, tls=False)


def test_members_that_a_newer_server_adds_are_passed_over() -> None:
    with answering(200, EMPTY) as address:
        assert get_status(flags("--http", address)).server == "spillway"


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>", "answered 200 with 6 bytes that are no answer of ours"),
        (200, b"{}", "that are no answer of ours"),
        (404, b"not found", "answered 404 with 9 bytes that are no answer of ours"),
        (401, b'{"error": "role \'operate\' is needed"}', "answered 401: role 'operate' is needed"),
        (500, b'{"detail": "x"}', "that are no answer of ours"),
        (500, b"\xff", "that are no answer of ours"),
    ],
)
def test_other_answers(status: int, body: bytes, words: str) -> None:
    with answering(status, body) as address, pytest.raises(ExecutionError, match=words):
        get_status(flags("--http", address))


def test_nobody_there() -> None:
    with pytest.raises(CapacityError, match=r"no answer from 127\.0\.0\.1:1: Connection refused"):
        get_status(flags("--http", "127.0.0.1:1"))


def test_too_late() -> None:
    listener = HTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)  # accepts, and nobody serves
    with listener, pytest.raises(DeadlineExpired):
        get_status(flags("--http", f"127.0.0.1:{listener.server_port}", "--timeout", "0.02"))


def test_tls_with_a_certificate_of_ours(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", "server"))
    context.load_verify_locations(authority.path)
    context.verify_mode = ssl.CERT_REQUIRED
    cert, key = authority.issue("me", "me", host="")
    with answering(200, EMPTY, context) as address:
        trusted = ("--http", address, "--tls-ca", str(authority.path))
        assert get_status(flags(*trusted, "--tls-cert", cert, "--tls-key", key)).ready
        with pytest.raises(CapacityError):
            get_status(flags(*trusted))
        with pytest.raises(CapacityError, match="certificate verify failed"):
            get_status(flags("--http", f"https://{address}"))


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="no such file"):
        get_status(flags("--tls-ca", str(tmp_path / "ca.pem")))
    (tmp_path / "ca.pem").write_text("rubbish")
    with pytest.raises(InvalidRequest, match="certificate files"):
        get_status(flags("--tls-ca", str(tmp_path / "ca.pem")))
