"""`spillway doctor`: each check with a machine, or settings, on which it fails."""

import ctypes
import os
import resource
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import psutil
import pytest
from onnx import TensorProto, helper

from runtime.cli import machine_checks, node_checks
from runtime.cli.check import Check
from runtime.cli.doctor import TRIAL
from runtime.config import Config, load_config
from tests.cli.conftest import MODELS, Spillway
from tests.e2e.daemon import Daemon
from tests.transport.test_http_tls import Authority


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("runtime.config.DEFAULT_FILE", tmp_path / "missing.toml")


def settings(**flags: Any) -> Config:
    """Settings by `section__key`."""
    return load_config(None, {key.replace("__", "."): value for key, value in flags.items()}, environment={}).config


def by_name(checks: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


# --- the command


def test_a_good_machine(spillway: Spillway, tmp_path: Path) -> None:
    (tmp_path / "state").mkdir(mode=0o700)
    ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
    said = spillway("doctor", "--model-repository", str(MODELS), "--state-dir", str(tmp_path / "state"), *ports)
    assert said.status == 0, said.out
    assert "a model loads and runs in the trial child, on cpu" in said.out
    assert "fail" not in {line.split()[0] for line in said.out.splitlines()}


def test_a_failed_check_is_status_1_and_says_what_to_do(spillway: Spillway, tmp_path: Path) -> None:
    flags = ("--state-dir", str(tmp_path), "--host", "0.0.0.0", "--json")
    said = spillway("doctor", *flags)
    assert said.status == 1
    found = {each["name"]: each for each in said.json}
    assert found["repository"]["status"] == "fail"
    assert found["grpc port"]["advice"].startswith("give --grpc-tls-client-ca for mutual TLS")
    assert all(each["advice"] for each in said.json if each["status"] != "ok")


def test_settings_that_do_not_load(spillway: Spillway) -> None:
    said = spillway("doctor", "--drain", "-1")
    assert said.status == 1
    assert "drain_s -1.0 is outside 0..3600" in said.out


# --- the machine


def test_python(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_checks.python().status == "ok"
    monkeypatch.setattr(sys, "version_info", (3, 10, 0))
    assert machine_checks.python().status == "fail"


def test_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_checks.packages().status == "ok"
    monkeypatch.setattr(machine_checks, "PACKAGES", ("grpcio", "no-such-package"))
    assert machine_checks.packages().found == "not installed: no-such-package"


@pytest.mark.parametrize(
    ("installed", "status"),
    [({}, "fail"), ({"onnxruntime": "1"}, "ok"), ({"onnxruntime": "1", "onnxruntime-gpu": "1"}, "fail")],
)
def test_builds_of_onnxruntime(installed: dict[str, str], status: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_checks, "_version", lambda name: installed.get(name, ""))
    assert machine_checks.runtimes().status == status


@pytest.mark.parametrize(
    ("script", "status", "words"),
    [
        (
            "echo 'NVIDIA H100, 80 GiB, 570.1'",
            "warn",
            "NVIDIA H100, 80 GiB, 570.1, and ONNX Runtime is a build without",
        ),
        ("echo broken >&2; exit 9", "warn", "nvidia-smi failed"),
    ],
)
def test_gpu(script: str, status: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(machine_checks, "_version", lambda name: "")
    check = machine_checks.gpu()
    assert (check.status, words in check.found) == (status, True), check


@pytest.mark.parametrize(
    ("threads", "quota", "status", "advice"),
    [
        (1, "max 100000", "ok", ""),
        (999, "max 100000", "warn", "--threads"),
        (2, "50000 100000", "warn", "--threads) to 1"),
    ],
)
def test_cores(
    threads: int, quota: str, status: str, advice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(machine_checks, "_CGROUP_QUOTA", tmp_path / "cpu.max")
    check = machine_checks.cores(threads)
    assert check.status == status
    assert advice in check.advice


def test_open_files() -> None:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert machine_checks.open_files(0).status == "ok"
    assert machine_checks.open_files(soft).status == "warn"


def test_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine_checks.clock(built=100.0, now=99.0).status == "fail"
    for state, status in ((0, "ok"), (5, "warn"), (None, "ok")):
        monkeypatch.setattr(machine_checks, "_clock_state", lambda state=state: state)
        assert machine_checks.clock(built=0.0, now=1e9).status == status


def test_the_kernel_tells_the_state_of_its_clock() -> None:
    assert machine_checks._clock_state() in (None, *range(6))
    assert ctypes.CDLL(None).adjtimex is not None


def test_malloc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LD_PRELOAD", raising=False)
    monkeypatch.setenv("MALLOC_TOP_PAD_", "1")
    assert machine_checks.malloc().found == "glibc, set by the daemon at its start, but for MALLOC_TOP_PAD_"
    monkeypatch.setenv("LD_PRELOAD", "libjemalloc.so")
    assert "libjemalloc.so" in machine_checks.malloc().found


# --- the node


def test_the_smallest_model_is_what_it_says() -> None:
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert onnx.load_from_string(node_checks.IDENTITY) == model
    onnx.checker.check_model(node_checks.IDENTITY)


def test_providers() -> None:
    found = by_name(node_checks.providers(settings(serving__providers=("cuda", "cpu")), TRIAL))
    assert found["trial"].status == "ok"
    assert found["provider cuda"].found.startswith(node_checks.NOT_BUILT_IN)


def test_a_trial_that_does_not_start() -> None:
    (check,) = node_checks.providers(settings(), (sys.executable, "-c", "raise SystemExit('no onnxruntime')"))
    assert check.status == "fail"
    assert "no onnxruntime" in check.found


@pytest.mark.parametrize(
    ("mode", "status"), [(0o700, "ok"), (0o750, "warn"), (0o755, "warn"), (0o770, "fail"), (0o707, "fail")]
)
def test_state_folder(mode: int, status: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.mkdir()
    folder.chmod(mode)
    check = node_checks.state_dir(folder)
    assert check.status == status
    assert status == "ok" or f"chmod 0700 {folder}" in check.advice


def test_state_folder_that_is_not_there(tmp_path: Path) -> None:
    assert node_checks.state_dir(tmp_path / "a" / "b").found == f"{tmp_path}/a/b will be made in {tmp_path}"
    (tmp_path / "file").write_text("")
    assert node_checks.state_dir(tmp_path / "file").status == "fail"
    assert node_checks.state_dir(Path("/proc/spillway")).status == ("ok" if os.geteuid() == 0 else "fail")


def test_repository(tmp_path: Path) -> None:
    def checks(*directories: str) -> list[Check]:
        return list(node_checks.repository(settings(repository__directories=directories)))

    assert [check.status for check in checks()] == ["fail"]
    assert [check.status for check in checks(str(tmp_path / "missing"))] == ["fail"]
    assert [check.status for check in checks(str(tmp_path))] == ["warn"]
    assert [check.status for check in checks(str(MODELS))] == ["ok"]
    (tmp_path / "empty").mkdir()
    found = checks(str(tmp_path))
    assert [check.status for check in found] == ["ok", "warn"]
    assert "model 'empty': it has no version" in found[1].found


def test_ports_that_are_free_taken_or_no_address_of_ours() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        check = node_checks.port_check("http port", "--http-port", "127.0.0.1", port)
    assert (check.status, check.advice) == ("fail", "stop it, or choose another port with --http-port")
    assert f"(process {os.getpid()})" in check.found
    assert node_checks.port_check("http port", "--http-port", "127.0.0.1", 0).status == "ok"
    assert node_checks.port_check("http port", "--http-port", "192.0.2.1", 8000).status == "fail"
    assert node_checks.port_check("http port", "--http-port", "no host", 8000).status == "fail"


def test_a_port_of_somebody_who_cannot_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(kind: str) -> list[Any]:
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil, "net_connections", denied)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check = node_checks.port_check("http port", "--http-port", *taken.getsockname())
    assert check.found.endswith("is in use by another program")


def test_ports_of_a_daemon_that_runs(daemon: Daemon) -> None:
    for address in (daemon.grpc, daemon.http, daemon.metrics):
        host, _, port = address.rpartition(":")
        check = node_checks.port_check("port", "--port", host, int(port))
        assert check.status == "ok"
        assert check.found.endswith(f"process {daemon.process.pid}")


def test_unix_socket(tmp_path: Path) -> None:
    assert node_checks.unix_socket(str(tmp_path / "s")).status == "ok"
    assert node_checks.unix_socket(str(tmp_path / "missing" / "s")).status == "fail"
    (tmp_path / "s").write_text("")
    assert node_checks.unix_socket(str(tmp_path / "s")).status == "fail"


def test_certificates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    authority = Authority(tmp_path)
    cert, key = authority.issue("server", "server")
    Path(key).chmod(0o600)
    config = settings(grpc__tls_cert=cert, grpc__tls_key=key, grpc__tls_client_ca=str(authority.path))
    begins, ends = node_checks.validity(cert)
    monkeypatch.setattr(node_checks, "EXPIRES_SOON_S", 60)  # certificates of tests live for two hours

    def status_at(moment: float) -> dict[str, str]:
        return {name: check.status for name, check in by_name(node_checks.certificates(config, moment)).items()}

    assert status_at(ends - 90) == {"tls certificate": "ok", "tls client ca": "ok"}
    for moment, status in ((ends - 30, "warn"), (ends + 1, "fail"), (begins - 1, "fail")):
        assert status_at(moment)["tls certificate"] == status
    Path(key).chmod(0o644)
    assert by_name(node_checks.certificates(config, begins))["tls key"].status == "warn"
    (only,) = node_checks.certificates(settings(), begins)
    assert only.status == "ok"


def test_certificate_files_that_do_not_fit(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    cert, _ = authority.issue("one", "one")
    _, other = authority.issue("two", "two")
    (check,) = node_checks.certificates(settings(grpc__tls_cert=cert, grpc__tls_key=other), 0.0)
    assert (check.status, check.name) == ("fail", "tls")


def test_both_decoders_read_the_same_dates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, _ = Authority(tmp_path).issue("server", "server")
    known = node_checks.validity(cert)
    monkeypatch.setitem(sys.modules, "cryptography", None)  # as where it is not installed
    assert node_checks.validity(cert) == known


def test_what_expires_soon_is_in_the_table_and_under_it(spillway: Spillway, tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).issue("server", "server")
    flags = ("--grpc-tls-cert", cert, "--grpc-tls-key", key, "--state-dir", str(tmp_path / "state"))
    said = spillway("doctor", *flags)
    assert any(line.split()[:3] == ["warn", "tls", "certificate"] for line in said.out.splitlines()), said.out
    assert "warn  tls certificate: renew it; the daemon takes the new file over by itself" in said.out
