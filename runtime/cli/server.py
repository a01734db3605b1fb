"""The server that a command talks to: flags that say where it is, and ways to ask it.

gRPC goes by the client library; what only HTTP has (the status document) by the standard library, so that a command
that asks nothing else starts without grpc and numpy.
"""

import argparse
import http.client
import math
import ssl
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import msgspec

from runtime.core.errors import CapacityError, DeadlineExpired, ExecutionError, InvalidRequest
from runtime.transport.status_document import StatusDocument

GRPC = "127.0.0.1:8001"
HTTP = "127.0.0.1:8000"
MAX_ANSWER_BYTES = 64 << 20

if TYPE_CHECKING:
    from runtime.client import AsyncClient, Client

_T = TypeVar("_T")


def add_grpc_flags(parser: argparse.ArgumentParser, timeout_s: float) -> None:
    """Describe where the gRPC listener is, and how long one call may take."""
    text = f"gRPC listener, HOST:PORT or unix:PATH (default {GRPC})"
    parser.add_argument("--grpc", default=GRPC, metavar="ADDRESS", help=text)
    _add_common_flags(parser, timeout_s)


def add_http_flags(parser: argparse.ArgumentParser, timeout_s: float) -> None:
    """Describe where the HTTP listener is, and how long one call may take."""
    text = f"HTTP listener, HOST:PORT or https://HOST:PORT (default {HTTP})"
    parser.add_argument("--http", default=HTTP, metavar="ADDRESS", help=text)
    _add_common_flags(parser, timeout_s)


def _add_common_flags(parser: argparse.ArgumentParser, timeout_s: float) -> None:
    add = parser.add_argument
    add("--tls-ca", metavar="FILE", help="CA that signed the server's certificate (PEM); turns TLS on")
    add("--tls-cert", metavar="FILE", help="our certificate (PEM), where the server wants one")
    add("--tls-key", metavar="FILE", help="its private key (PEM)")
    text = f"seconds that a call may take; 0: no limit (default {timeout_s:g})"
    add("--timeout", type=_seconds, default=timeout_s, metavar="S", help=text)
    parser.set_defaults(refuse=parser.error)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not within 0..86400")
    return value


def deadline_of(args: argparse.Namespace) -> float:
    """`--timeout` as a deadline of the client: infinity for 0."""
    return float(args.timeout) or math.inf


def connect(args: argparse.Namespace) -> "Client":
    """Make a client; it connects with its first call."""
    from runtime.client import Client  # noqa: PLC0415 - grpc and numpy take 0.25 s

    return Client(args.grpc, **tls_files(args))


def connect_async(args: argparse.Namespace) -> "AsyncClient":
    """Make a client of the running event loop."""
    from runtime.client import AsyncClient  # noqa: PLC0415

    return AsyncClient(args.grpc, **tls_files(args))


def tls_files(args: argparse.Namespace) -> dict[str, str | None]:
    """Return the files of the TLS flags; leaves with status 2 where the flags do not fit together.

    Raises:
        InvalidRequest: there is no such file.
    """
    if bool(args.tls_cert) != bool(args.tls_key):
        args.refuse("--tls-cert and --tls-key go together")
    for path in filter(None, (args.tls_ca, args.tls_cert, args.tls_key)):
        if not Path(path).is_file():
            raise InvalidRequest(f"{path}: no such file")
    return {"ca": args.tls_ca, "cert": args.tls_cert, "key": args.tls_key}


def get_status(args: argparse.Namespace) -> StatusDocument:
    """Ask for the status document.

    Raises:
        SpillwayError: there is no answer, or none that can be read.
    """
    return get(args, "/status", StatusDocument)


def get(args: argparse.Namespace, path: str, kind: type[_T]) -> _T:
    """Ask by HTTP GET for a JSON document.

    Raises:
        CapacityError: nobody answers there.
        DeadlineExpired: the answer did not come in time.
        ExecutionError: the answer is an error, or not the document.
    """
    secure, host, port = address_of(args.http, tls=any((args.tls_ca, args.tls_cert)))
    timeout = args.timeout or None
    if secure:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            host, port, timeout=timeout, context=_tls_context(args)
        )
    else:
        connection = http.client.HTTPConnection(host, port, timeout=timeout)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        body = reply.read(MAX_ANSWER_BYTES)
    except TimeoutError as error:
        raise DeadlineExpired(f"while waiting for {args.http}") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CapacityError(f"no answer from {args.http}: {reason}") from error
    finally:
        connection.close()
    return _document(body, reply.status, f"{args.http}{path}", kind)


def _document(body: bytes, status: int, place: str, kind: type[_T]) -> _T:
    try:
        if status == http.HTTPStatus.OK:
            return msgspec.json.decode(body, type=kind)
        reason = msgspec.json.decode(body, type=dict[str, str])["error"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as error:
        raise ExecutionError(f"{place} answered {status} with {len(body)} bytes that are no answer of ours") from error
    raise ExecutionError(f"{place} answered {status}: {reason}")


def address_of(text: str, *, tls: bool) -> tuple[bool, str, int]:
    """Split `HOST:PORT`, `http://...` or `https://...` into: with TLS or not, host, port.

    Raises:
        InvalidRequest: it is none of these.
    """
    try:
        parts = urlsplit(text if "//" in text else f"{'https' if tls else 'http'}://{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise InvalidRequest(f"address {text!r}: {error}") from error
    if parts.scheme not in ("http", "https") or not host or parts.path.strip("/"):
        raise InvalidRequest(f"address {text!r} is not HOST:PORT, http://HOST:PORT or https://HOST:PORT")
    return parts.scheme == "https", host, port or (443 if parts.scheme == "https" else 80)


def _tls_context(args: argparse.Namespace) -> ssl.SSLContext:
    files = tls_files(args)
    try:
        context = ssl.create_default_context(cafile=files["ca"])
        if files["cert"]:
            context.load_cert_chain(files["cert"], files["key"])
    except OSError as error:  # ssl.SSLError is one
        raise InvalidRequest(f"certificate files {', '.join(filter(None, files.values()))}: {error}") from error
    return context
