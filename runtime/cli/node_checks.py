"""What `spillway doctor` looks at of the daemon's settings: whether this machine can do what they ask for."""

import errno
import os
import socket
import ssl
import stat
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil

from runtime.cli.check import Check, fail, ok, warn
from runtime.config import Config
from runtime.core.errors import ConfigError
from runtime.core.verdict import TrialJob
from runtime.repository.layout import list_models, list_versions
from runtime.repository.trial_process import TrialProcess
from runtime.transport.access import require_safe_listener

EXPIRES_SOON_S = 30 * 86_400
IDENTITY = bytes.fromhex(
    "08083a410a100a017812017922084964656e746974791201675a140a0178120f0a0d080112090a0312016e0a02080162140a0179120f"
    "0a0d080112090a0312016e0a02080142040a001011"
)
"""The smallest ONNX model, y = x, FP32 [n, 1]: shows which execution providers start here."""
NOT_BUILT_IN = "not in the installed build"


def providers(config: Config, argv: tuple[str, ...]) -> Iterator[Check]:
    """Load the smallest model as the daemon would, in a trial child (`argv`), and say on which provider it runs."""
    trial = TrialProcess(argv, config.repository.trial_memory_bytes, config.repository.trial_timeout_s)
    with tempfile.TemporaryDirectory(prefix="spillway-doctor-") as folder:
        path = Path(folder, "1", "model.onnx")
        path.parent.mkdir()
        path.write_bytes(IDENTITY)
        job = TrialJob(
            model="identity",
            version=1,
            path=str(path),
            folder=folder,
            config=b"",
            providers=config.serving.providers,
            thread_budget=1,
            default_max_batch_size=1,
            probe_s=0.0,
        )
        try:
            verdict = trial.try_model(job)
        finally:
            trial.close()
    if verdict.error:
        advice = "the daemon would refuse every model: mend the installation of ONNX Runtime"
        yield fail("trial", f"the smallest model fails in {verdict.stage}: {verdict.error}", advice)
        return
    yield ok("trial", f"a model loads and runs in the trial child, on {verdict.provider} ({verdict.runtime_versions})")
    for name, reason in verdict.skipped:
        if reason.startswith(NOT_BUILT_IN):
            yield ok(f"provider {name}", reason)
        else:
            yield warn(f"provider {name}", reason, "models run on the next provider of serving.providers")


def listeners(config: Config) -> Iterator[Check]:
    """Whether each listener can be opened, or is open already and answers."""
    tls = config.grpc.mutual_tls
    for name, flag, host, port, mutual in (
        ("grpc", "--grpc-port", config.grpc.host, config.grpc.port, tls),
        ("http", "--http-port", config.http.host, config.http.port, tls and config.http.tls),
        ("metrics", "--metrics-port", config.http.metrics_host, config.http.metrics_port, False),
    ):
        try:
            require_safe_listener(host, mutual_tls=mutual, insecure=config.access.insecure)
        except ConfigError as error:
            reason, _, advice = str(error).partition(": ")
            yield fail(f"{name} port", reason, advice)
            continue
        yield port_check(f"{name} port", flag, host, port)
    if config.grpc.uds:
        yield unix_socket(config.grpc.uds)


def port_check(name: str, flag: str, host: str, port: int) -> Check:
    """Whether a TCP port can be bound."""
    if not port:
        return ok(name, f"{host}, chosen by the system at the start")
    try:
        family, kind, _, _, address = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        return fail(name, f"host {host}: {error.strerror}", "give an address of this machine with --host")
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return _port_in_use(name, flag, host, port)
            return fail(name, f"{host}:{port}: {error.strerror}", f"choose another one ({flag}), or another --host")
    return ok(name, f"{host}:{port} is free")


def _port_in_use(name: str, flag: str, host: str, port: int) -> Check:
    owner = _owner(port)
    if owner is not None and _is_ours(owner):
        return ok(name, f"{host}:{port} is served by a daemon that runs already, process {owner.pid}")
    who = "another program" if owner is None else f"{owner.name()} (process {owner.pid})"
    return fail(name, f"{host}:{port} is in use by {who}", f"stop it, or choose another port with {flag}")


def _owner(port: int) -> psutil.Process | None:
    """Who listens on a port; None where that is another user's secret."""
    try:
        for each in psutil.net_connections("tcp"):
            if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port and each.pid:
                return psutil.Process(each.pid)
    except psutil.Error:
        return None
    return None


def _is_ours(owner: psutil.Process) -> bool:
    try:
        words = owner.cmdline()
    except psutil.Error:
        return False
    return "serve" in words and any("spillway" in word or word == "runtime" for word in words)


def unix_socket(path: str) -> Check:
    """Whether a socket can be made at `path`."""
    folder = Path(path).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        return fail(
            "unix socket", f"{folder} cannot be written", f"make the folder, or choose another path than {path}"
        )
    if Path(path).exists() and not stat.S_ISSOCK(Path(path).stat().st_mode):
        return fail("unix socket", f"{path} exists and is no socket", "remove it, or choose another path")
    return ok("unix socket", path)


def state_dir(path: Path) -> Check:
    """Whether verdicts and uploads can be kept, and nobody else can plant any."""
    advice = "give a folder of the daemon's own: --state-dir DIR"
    if not path.exists():
        above = next(each for each in path.parents if each.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            return fail("state folder", f"{path} does not exist and {above} cannot be written", advice)
        return ok("state folder", f"{path} will be made in {above}")
    if not path.is_dir() or not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        return fail("state folder", f"{path} is no folder that we may write", advice)
    status = path.stat()
    mode = stat.S_IMODE(status.st_mode)
    if mode & 0o022:
        found = f"{path} can be written by others (mode {mode:04o}): who plants a verdict there passes the gate"
        return fail("state folder", found, f"chmod 0700 {path}")
    if mode & 0o055:
        return warn("state folder", f"{path} can be read by others (mode {mode:04o})", f"chmod 0700 {path}")
    return ok("state folder", f"{path} is writable and private")


def repository(config: Config) -> Iterator[Check]:
    """Whether the model repositories can be read and hold models."""
    settings = config.repository
    if not settings.directories:
        advice = "give --model-repository DIR, or repository.directories in the config file"
        yield fail("repository", "none is configured", advice)
        return
    try:
        listing = list_models(settings.directories, settings.max_models)
    except ConfigError as error:
        yield fail("repository", str(error), "give a folder that the daemon's user may read")
        return
    where = ", ".join(settings.directories)
    if not listing.folders:
        yield warn("repository", f"{where} holds no models", "the layout is MODEL/1/model.onnx")
        return
    count = len(listing.folders)
    yield ok("repository", f"{where} holds {count} model{'s' if count > 1 else ''}")
    for name, folder in listing.folders.items():
        try:
            list_versions(folder)
        except (ValueError, OSError) as error:
            yield warn("repository", f"model '{name}': {error}", "spillway config check says more")


def certificates(config: Config, now: float) -> Iterator[Check]:
    """Whether the TLS files can be used, and for how long."""
    grpc = config.grpc
    if not grpc.tls_cert:
        yield ok("tls", "not configured; listeners stay on loopback")
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(grpc.tls_cert, grpc.tls_key, password=_no_password)
        if grpc.tls_client_ca:
            context.load_verify_locations(grpc.tls_client_ca)
    except (OSError, ValueError) as error:
        files = ", ".join(filter(None, (grpc.tls_cert, grpc.tls_key, grpc.tls_client_ca)))
        yield fail(
            "tls", f"{files}: {error}", "the files must be PEM, fit together, and be readable by the daemon's user"
        )
        return
    if stat.S_IMODE(Path(grpc.tls_key).stat().st_mode) & 0o004:
        yield warn("tls key", f"{grpc.tls_key} can be read by everybody", f"chmod 0640 {grpc.tls_key}")
    for name, path in (("tls certificate", grpc.tls_cert), ("tls client ca", grpc.tls_client_ca)):
        if path:
            yield _expiry(name, path, now)


def _no_password() -> bytes:
    raise ValueError("the private key is encrypted")


def _expiry(name: str, path: str, now: float) -> Check:
    begins, ends = validity(path)
    until = datetime.fromtimestamp(ends, UTC).strftime("%Y-%m-%d")
    if now < begins:
        return fail(name, f"{path} is not valid yet", "set the clock, or wait")
    if now >= ends:
        return fail(name, f"{path} expired on {until}", "renew it; the daemon takes the new file over by itself")
    if ends - now < EXPIRES_SOON_S:
        days = int((ends - now) // 86_400)
        return warn(name, f"{path} expires in {days} days", "renew it; the daemon takes the new file over by itself")
    return ok(name, f"{path} is valid until {until}")


def validity(path: str) -> tuple[float, float]:
    """Return from when to when the first certificate of a PEM file holds, in seconds since the epoch."""
    try:
        from cryptography import x509  # noqa: PLC0415 - may be missing
    except ImportError:
        # The only decoder of the standard library; private, but what ssl's own tests and many programs use.
        fields = ssl._ssl._test_decode_cert(path)  # type: ignore[attr-defined]  # noqa: SLF001
        return ssl.cert_time_to_seconds(fields["notBefore"]), ssl.cert_time_to_seconds(fields["notAfter"])
    certificate = x509.load_pem_x509_certificates(Path(path).read_bytes())[0]
    return certificate.not_valid_before_utc.timestamp(), certificate.not_valid_after_utc.timestamp()


def look(config: Config, argv: tuple[str, ...]) -> Iterator[Check]:
    """Run all checks of this module."""
    yield from providers(config, argv)
    yield state_dir(Path(config.repository.state_dir))
    yield from repository(config)
    yield from listeners(config)
    yield from certificates(config, time.time())
