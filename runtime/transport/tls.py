"""Certificates of the gRPC listener, and the names on those of its callers.

Certificates are renewed in place: before each handshake the files' stamps are compared, and changed files are read
again. A pair that does not fit together (the key not written yet) is passed over, and the last good one stays.

Rules
- With a client CA every caller must show a certificate that it signed; there is no optional mode.
- Private keys are read into memory only, and never appear in errors or logs.
"""

import logging
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path

import grpc

from runtime.core.errors import ConfigError
from runtime.transport.call import Identity
from runtime.transport.settings import GrpcSettings

log = logging.getLogger(__name__)

_NAMES = ("x509_common_name", "x509_subject_alternative_name")
_UNNAMED = Identity(("certificate without a name",))


class CertificateFiles:
    """The three PEM files of a listener, as they are now on disk."""

    def __init__(self, cert: str, key: str, client_ca: str) -> None:
        self._cert, self._key, self._client_ca = cert, key, client_ca
        self._seen = self._stamps()

    def read(self) -> grpc.ServerCertificateConfiguration:
        """Read and check all files.

        Raises:
            ConfigError: a file is missing, no PEM, or key and certificate do not belong together.
        """
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self._cert, self._key, password=_no_password)
            if self._client_ca:
                context.load_verify_locations(self._client_ca)
            pair = (Path(self._key).read_bytes(), Path(self._cert).read_bytes())
            roots = Path(self._client_ca).read_bytes() if self._client_ca else None
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = ", ".join(filter(None, (self._cert, self._key, self._client_ca)))
            raise ConfigError(f"certificate files {files}: {error}") from error
        return grpc.ssl_server_certificate_configuration([pair], roots)

    def changed(self) -> grpc.ServerCertificateConfiguration | None:
        """Called by gRPC before each handshake, on a thread of its own: the new pair, or None to go on as before."""
        stamps = self._stamps()
        if stamps == self._seen:
            return None
        self._seen = stamps
        try:
            fresh = self.read()
        except ConfigError as error:
            log.warning("certificate not renewed", extra={"reason": str(error)})
            return None
        log.info("certificate renewed", extra={"file": self._cert})
        return fresh

    def _stamps(self) -> tuple[tuple[int, ...], ...]:
        return tuple(_stamp(path) for path in (self._cert, self._key, self._client_ca) if path)


def server_credentials(settings: GrpcSettings) -> grpc.ServerCredentials | None:
    """Credentials of the TCP listener, renewed as its files change; None where no certificate is configured.

    Raises:
        ConfigError: the files cannot be used.
    """
    if not settings.tls_cert:
        return None
    files = CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return grpc.dynamic_ssl_server_credentials(
        files.read(),
        files.changed,  # type: ignore[arg-type]  # None means unchanged; the stubs forget it
        require_client_authentication=settings.mutual_tls,
    )


def identity_of(auth_context: Mapping[str, Iterable[bytes]]) -> Identity:
    """Names on a verified client certificate, as gRPC reports them."""
    names = [name.decode("utf-8", "replace") for key in _NAMES for name in auth_context.get(key, ())]
    # One name often stands in both fields. A verified certificate is never taken for a caller without one.
    return Identity(tuple(dict.fromkeys(filter(None, names)))) if any(names) else _UNNAMED


def _stamp(path: str) -> tuple[int, ...]:
    try:
        status = Path(path).stat()
    except OSError:
        return ()
    return (status.st_mtime_ns, status.st_size, status.st_ino)


def _no_password() -> bytes:
    """Asked for only by an encrypted key: refuse instead of prompting on the terminal."""
    raise ValueError("the private key is encrypted")
