"""The certificates of the gRPC listener, for the HTTP one.

Rules
- As in `tls.py`: with a client CA every caller must show a certificate that it signed; there is no optional mode.
- Renewed in place: the files are looked at before each handshake. A client CA that is replaced is added to the old one.
"""

import ssl

from runtime.core.errors import ConfigError
from runtime.transport.settings import GrpcSettings
from runtime.transport.tls import CertificateFiles


class HttpTls:
    """A server context that follows its files."""

    def __init__(self, settings: GrpcSettings) -> None:
        """Load the files.

        Raises:
            ConfigError: none are configured, or they cannot be used.
        """
        if not settings.tls_cert:
            raise ConfigError("http tls is on, but grpc has no tls_cert whose certificate it could use")
        self.mutual = settings.mutual_tls
        self._settings = settings
        self._files = CertificateFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
        self._files.read()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        if self.mutual:
            self.context.verify_mode = ssl.CERT_REQUIRED
        self._load()

    def refresh(self) -> None:
        """Take over files that changed and fit together; call before a handshake."""
        if self._files.changed() is not None:
            self._load()

    def _load(self) -> None:
        self.context.load_cert_chain(self._settings.tls_cert, self._settings.tls_key)
        if self.mutual:
            self.context.load_verify_locations(self._settings.tls_client_ca)
