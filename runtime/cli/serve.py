"""`spillway serve`: flags named as Triton's users know them, turned into config keys."""

import argparse
import asyncio
from pathlib import Path
from typing import Any

from runtime import logs, process
from runtime.config import load_config

FLAGS = {
    "host": "grpc.host",
    "grpc_port": "grpc.port",
    "http_port": "http.port",
    "metrics_port": "http.metrics_port",
    "uds": "grpc.uds",
    "model_repository": "repository.directories",
    "model_control_mode": "repository.control_mode",
    "load_model": "daemon.load",
    "state_dir": "repository.state_dir",
    "grpc_tls_cert": "grpc.tls_cert",
    "grpc_tls_key": "grpc.tls_key",
    "grpc_tls_client_ca": "grpc.tls_client_ca",
    "insecure": "access.insecure",
    "threads": "serving.threads",
    "drain": "daemon.drain_s",
    "announce": "daemon.announce",
    "log_level": "daemon.log_level",
    "log_format": "daemon.log_format",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags. None of them has a default here: defaults live in the settings."""
    add = parser.add_argument
    add("--model-repository", action="append", metavar="DIR", help="directory of models; may be given several times")
    add("--config", type=Path, metavar="FILE", help="TOML file; default /etc/spillway/spillway.toml if it is there")
    add("--host", help="address to listen on (default 127.0.0.1)")
    add("--grpc-port", type=int, metavar="PORT", help="default 8001; 0 lets the system choose")
    add("--http-port", type=int, metavar="PORT", help="default 8000")
    add("--metrics-port", type=int, metavar="PORT", help="default 8002")
    add("--uds", metavar="PATH", help="also listen on this unix socket (gRPC)")
    add("--model-control-mode", choices=("none", "explicit"), help="none: load all models at start")
    add("--load-model", action="append", metavar="NAME", help="with explicit control: load at start; '*' for all")
    add("--state-dir", metavar="DIR", help="where verdicts and uploads are kept")
    add("--grpc-tls-cert", metavar="FILE", help="server certificate (PEM)")
    add("--grpc-tls-key", metavar="FILE", help="its private key (PEM)")
    add("--grpc-tls-client-ca", metavar="FILE", help="CA of client certificates; makes TLS mutual")
    add("--insecure", action="store_true", default=None, help="allow listening beyond loopback without mutual TLS")
    add("--threads", type=int, metavar="N", help="CPU threads per model; default: the CPUs of this process")
    add("--drain", type=float, metavar="SECONDS", help="how long a stop waits for requests in flight (default 30)")
    add("--announce", metavar="FILE", help="write the bound addresses as JSON when ready")
    add("--log-level", choices=("DEBUG", "INFO", "WARNING", "ERROR"))
    add("--log-format", choices=("text", "json"))


def flags_of(args: argparse.Namespace) -> dict[str, Any]:
    """The flags that were given, by config key.

    `--host` is for gRPC and HTTP. With `--grpc-tls-client-ca` both are under mutual TLS and metrics, which have none,
    stay on loopback; without it metrics go where the others go, and `--insecure` decides.
    """
    given = {key: getattr(args, name) for name, key in FLAGS.items() if getattr(args, name) is not None}
    if args.host is not None:
        given["http.host"] = args.host
        given |= {"http.tls": True} if args.grpc_tls_client_ca else {"http.metrics_host": args.host}
    if args.model_repository is not None:
        given["repository.directories"] = [str(Path(path).absolute()) for path in args.model_repository]
    return given


def run(args: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT."""
    config = load_config(args.config, flags_of(args)).config
    logs.configure(config.daemon.log_level, config.daemon.log_format)
    process.tune()
    with process.importing():
        from runtime.daemon import serve  # noqa: PLC0415 - after the allocator is set, and not for `--help`

    return asyncio.run(serve(config))
