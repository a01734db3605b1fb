"""TLS: who is trusted, and who we are."""

import datetime as dt
import ipaddress
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from runtime.client import AsyncClient, Client
from runtime.client.connection import credentials
from runtime.core import errors
from tests.client.server import serving

X = np.zeros((1, 2), np.float32)


@dataclass(frozen=True)
class Signed:
    """A key and its certificate, as PEM and as what signs others."""

    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def cert_pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)


def sign(name: str, issuer: Signed | None = None) -> Signed:
    """Make a key with a certificate for 127.0.0.1, signed by `issuer` or, as an authority, by itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(issuer.key if issuer else key, hashes.SHA256())
    )
    return Signed(key, certificate)


def test_mutual_tls(tmp_path: Path) -> None:
    authority = sign("authority")
    node, caller = sign("node", authority), sign("caller", authority)
    tls = grpc.ssl_server_credentials([(node.key_pem, node.cert_pem)], authority.cert_pem, require_client_auth=True)
    for name, pem in (("ca", authority.cert_pem), ("cert", caller.cert_pem), ("key", caller.key_pem)):
        (tmp_path / name).write_bytes(pem)
    with serving(tls=tls) as server:
        with Client(server.address, ca=authority.cert_pem, cert=caller.cert_pem, key=caller.key_pem) as client:
            assert client.infer("echo", {"x": X})["x"].shape == (1, 2)
        with Client(server.address, ca=tmp_path / "ca", cert=str(tmp_path / "cert"), key=tmp_path / "key") as client:
            assert client.ready()
        with Client(server.address, ca=authority.cert_pem) as client, pytest.raises(errors.CapacityError):
            client.ready(deadline_s=5)  # we say who they are, not who we are
        other = sign("other authority")
        stranger = Client(server.address, ca=other.cert_pem, cert=caller.cert_pem, key=caller.key_pem)
        with stranger, pytest.raises(errors.CapacityError):
            stranger.ready(deadline_s=5)


async def test_mutual_tls_of_the_asynchronous_client() -> None:
    authority = sign("authority")
    node = sign("node", authority)
    with serving(tls=grpc.ssl_server_credentials([(node.key_pem, node.cert_pem)])) as server:
        async with AsyncClient(server.address, ca=authority.cert_pem) as client:
            assert (await client.infer("echo", {"x": X}))["x"].shape == (1, 2)


def test_arguments_that_do_not_go_together(tmp_path: Path) -> None:
    for arguments in ((None, b"cert", None), (b"ca", None, b"key")):
        with pytest.raises(ValueError, match="cert and key go together"):
            credentials(*arguments)
    with pytest.raises(FileNotFoundError):
        credentials(tmp_path / "none", None, None)
    assert credentials(None, None, None) is None
