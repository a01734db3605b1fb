import asyncio
import datetime as dt
import ssl
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from runtime.core.errors import ConfigError
from runtime.transport.http_tls import HttpTls
from runtime.transport.settings import AccessSettings, GrpcSettings
from tests.transport.http_harness import App, request_json, serving

INFER = "/v2/models/m/infer"


@dataclass
class Authority:
    """A private CA in a folder."""

    folder: Path
    name: str = "ca"

    def __post_init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = self._sign(subject, subject, self.key.public_key(), ca=True)
        self.path = self.folder / f"{self.name}.pem"
        self.path.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, file: str, common: str, host: str = "localhost") -> tuple[str, str]:
        """Certificate and key for `common`, as files."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)] if common else [])
        certificate = self._sign(subject, self.certificate.subject, key.public_key(), host=host if common else "")
        paths = self.folder / f"{file}.pem", self.folder / f"{file}.key"
        paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        paths[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return str(paths[0]), str(paths[1])

    def _sign(
        self, subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, *, ca: bool = False, host: str = ""
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if host:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        return builder.sign(self.key, hashes.SHA256())


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def tls_of(authority: Authority, *, mutual: bool = True) -> HttpTls:
    cert, key = authority.issue("server", "server")
    ca = str(authority.path) if mutual else ""
    return HttpTls(GrpcSettings(tls_cert=cert, tls_key=key, tls_client_ca=ca))


def client_context(authority: Authority, pair: tuple[str, str] | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(authority.path))
    if pair is not None:
        context.load_cert_chain(*pair)
    return context


async def infer(app: App, context: ssl.SSLContext) -> int:
    url = f"https://localhost:{app.port}{INFER}"
    async with (
        aiohttp.ClientSession() as session,
        session.post(url, json=request_json([1], [1]), ssl=context) as reply,
    ):
        await reply.read()
        return reply.status


async def test_a_verified_client_is_served_and_named(authority: Authority) -> None:
    pair = authority.issue("client", "node-7", host="node-7.example")
    async with serving(tls=tls_of(authority)) as app:
        context = client_context(authority, pair)
        assert await infer(app, context) == 200
        async with app.session.get(f"https://localhost:{app.port}/v2", ssl=context) as reply:
            assert reply.status == 200
        (call,) = app.control.calls
        assert call.identity.names == ("node-7", "node-7.example")


async def test_no_certificate_or_one_of_another_authority_is_no_connection(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path, "other").issue("stranger", "stranger")
    async with serving(tls=tls_of(authority)) as app:
        for pair in (None, other):
            with pytest.raises(aiohttp.ClientError):
                await infer(app, client_context(authority, pair))
        with pytest.raises(aiohttp.ClientError):
            await app.get("/healthz")  # plain text on the TLS port
    assert app.engine.seen == []


async def test_roles_come_from_the_name(authority: Authority) -> None:
    access = AccessSettings(identities={"node-7": ("infer",), "boss": ("operate",)})
    node, boss = authority.issue("a", "node-7"), authority.issue("b", "boss")
    async with serving(tls=tls_of(authority), access=access) as app:
        assert await infer(app, client_context(authority, node)) == 200
        assert await infer(app, client_context(authority, boss)) == 403


async def test_a_certificate_without_a_name_is_not_taken_for_a_local_caller(authority: Authority) -> None:
    access = AccessSettings(identities={})
    async with serving(tls=tls_of(authority), access=access) as app:
        assert await infer(app, client_context(authority, authority.issue("c", ""))) == 403


async def test_mutual_tls_allows_wide_listeners_and_tls_alone_does_not(authority: Authority) -> None:
    async with serving(tls=tls_of(authority), host="0.0.0.0"):
        pass
    with pytest.raises(ConfigError, match="beyond loopback"):
        async with serving(tls=tls_of(authority, mutual=False), host="0.0.0.0"):
            pass


async def test_a_new_certificate_is_taken_over_and_half_of_one_is_not(authority: Authority) -> None:
    pair = authority.issue("client", "client")
    async with serving(tls=tls_of(authority)) as app:
        first = await serial(app, authority, pair)
        (authority.folder / "server.key").write_text("not a key yet")
        assert await serial(app, authority, pair) == first
        authority.issue("server", "server")
        second = await serial(app, authority, pair)
        assert second != first
        assert await serial(app, authority, pair) == second


async def serial(app: App, authority: Authority, pair: tuple[str, str]) -> str:
    """Serial number of the certificate that the server shows."""
    context = client_context(authority, pair)
    _, writer = await asyncio.open_connection("localhost", app.port, ssl=context)
    certificate = writer.get_extra_info("peercert")
    writer.close()
    return str(certificate["serialNumber"])


def test_tls_without_certificates_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="no tls_cert"):
        HttpTls(GrpcSettings())


def test_files_that_are_missing_are_a_config_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        HttpTls(GrpcSettings(tls_cert=str(tmp_path / "nowhere.pem"), tls_key=str(tmp_path / "nowhere.key")))
