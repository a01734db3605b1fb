"""What both clients need to open a channel, and how they read its errors.

Addresses are `HOST:PORT` or `unix:PATH`. TLS is on when any of `ca`, `cert` and `key` is given: `ca` says whom to trust
(without it, the authorities that gRPC brings along), `cert` and `key` who we are.
"""

import math
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any, Final

import grpc

from runtime.core.errors import SpillwayError
from runtime.wire.status import error_of

DEADLINE_S: Final = 60.0
LOAD_DEADLINE_S: Final = 600.0
"""A large model takes minutes to be checked and tried."""

Pem = bytes | str | PathLike[str]
"""A PEM file's content, or its path."""

OPTIONS: Final[Sequence[tuple[str, Any]]] = (
    ("grpc.max_send_message_length", -1),  # the server has its own limit
    ("grpc.max_receive_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # every client has a connection of its own
)


def credentials(ca: Pem | None, cert: Pem | None, key: Pem | None) -> grpc.ChannelCredentials | None:
    """Make the credentials of a channel; None means no TLS.

    Raises:
        ValueError: one of `cert` and `key` without the other.
        OSError: a file cannot be read.
    """
    if (cert is None) != (key is None):
        raise ValueError("cert and key go together")
    if ca is None and cert is None:
        return None
    return grpc.ssl_channel_credentials(_content(ca), _content(key), _content(cert))


def _content(pem: Pem | None) -> bytes | None:
    if pem is None or isinstance(pem, bytes):
        return pem
    return Path(pem).read_bytes()


def timeout_of(deadline_s: float) -> float | None:
    """Return gRPC's word for a deadline; infinity is none."""
    return None if deadline_s == math.inf else deadline_s


def error_from(error: grpc.RpcError) -> SpillwayError:
    """Return our error for one that a call raised; all that calls raise have a code."""
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    return error_of(error.code(), error.details() or "")
