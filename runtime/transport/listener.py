"""Addresses that a gRPC server listens on: TCP, and a unix socket file.

Rules
- Whoever cannot bind hears why, in a ConfigError that names the address.
- A socket file is for its owner and group only, from the moment it exists. One that nobody listens on any more is
  replaced; one that answers, or anything that is no socket, is left alone.
"""

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path

import grpc

from runtime.core.errors import ConfigError

_MODE = 0o660
_MAX_PATH_BYTES = 107  # sun_path of Linux, less its final NUL


def bind_tcp(server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None) -> int:
    """Add a TCP listener; returns its port, which the system chose where `port` is 0.

    Raises:
        ConfigError: the address cannot be bound.
    """
    bare = host.strip("[]")
    address = f"[{bare}]:{port}" if ":" in bare else f"{bare}:{port}"
    try:
        if credentials is None:
            return server.add_insecure_port(address)
        return server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise ConfigError(f"cannot listen on {address}: {_reason(bare, port)}") from error


class UnixSocket:
    """One socket file, ours from `bind` to `remove`."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._identity: tuple[int, int] | None = None

    def bind(self, server: grpc.aio.Server) -> None:
        """Add the listener, in place of a stale file.

        Raises:
            ConfigError: the path is too long, in use, or cannot be bound.
        """
        path = self._path
        if len(os.fsencode(path)) > _MAX_PATH_BYTES:
            raise ConfigError(f"unix socket path of {len(os.fsencode(path))} bytes exceeds {_MAX_PATH_BYTES}: {path}")
        self._clear()
        mask = os.umask(0o777 & ~_MODE)  # a chmod afterwards would leave a moment in which anybody may connect
        try:
            server.add_insecure_port(f"unix:{path}")
            status = path.stat()
        except (RuntimeError, OSError) as error:
            raise ConfigError(f"cannot listen on unix socket {path}: {self._reason()}") from error
        finally:
            os.umask(mask)
        self._identity = (status.st_dev, status.st_ino)

    def remove(self) -> None:
        """Delete the file, unless another server has put its own in the place. Idempotent."""
        with contextlib.suppress(FileNotFoundError):
            status = self._path.lstat()
            if (status.st_dev, status.st_ino) == self._identity:
                self._path.unlink()

    def _clear(self) -> None:
        try:
            status = self._path.lstat()
        except OSError:
            return  # nothing there, or bind() will say what is wrong
        if not stat.S_ISSOCK(status.st_mode):
            raise ConfigError(f"unix socket path {self._path} exists and is no socket")
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            failure = probe.connect_ex(str(self._path))
        if failure == errno.ECONNREFUSED:
            self._path.unlink(missing_ok=True)
        elif failure in (0, errno.EAGAIN):  # EAGAIN: somebody listens, and has a full backlog
            raise ConfigError(f"unix socket {self._path} is in use by another server")

    def _reason(self) -> str:
        with socket.socket(socket.AF_UNIX) as probe:
            return _why(probe, str(self._path))


def _reason(host: str, port: int) -> str:
    """That binding failed is all gRPC says; trying it once more by hand says why."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return error.strerror or str(error)
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return _why(probe, address)


def _why(probe: socket.socket, address: object) -> str:
    try:
        probe.bind(address)  # type: ignore[arg-type]
    except OSError as error:
        return error.strerror or str(error)
    return "gRPC refused the address"
