"""The units load in systemd, their sandbox keeps its score, and they agree with the daemon."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.cli import EXIT_CONFIG, build_parser
from runtime.config import DEFAULT_FILE, SYSTEM_STATE, Config, load_config

FOLDER = Path(__file__).resolve().parents[2] / "systemd"
INSTALLED = "/opt/spillway/bin/spillway"


@pytest.fixture(scope="module")
def analyze() -> str:
    """The path of systemd-analyze (Debian package systemd); it works without a running systemd."""
    found = shutil.which("systemd-analyze")
    if found is None:
        reason = "systemd-analyze is not installed (Debian package systemd)"
        if os.environ.get("SPILLWAY_REQUIRE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return found


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """A folder with the units, their programs replaced by one that this machine has."""
    for name in ("spillway.service", "spillway-gpu.service"):
        text = (FOLDER / name).read_text()
        for program in (INSTALLED, "/usr/bin/nvidia-modprobe"):
            text = text.replace(f"ExecStart={program}", f"ExecStart={sys.executable}")
        (tmp_path / name).write_text(text)
    return tmp_path


def add_gpu_drop_in(units: Path) -> None:
    shutil.copytree(FOLDER / "spillway.service.d", units / "spillway.service.d")


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def settings(path: Path) -> list[tuple[str, str]]:
    """The assignments of a unit file, in order; keys may repeat."""
    lines = (line.strip() for line in path.read_text().splitlines())
    pairs = (line.partition("=") for line in lines if line and line[0] not in "#;[")
    return [(key, value) for key, _, value in pairs]


def seconds(text: str) -> float:
    return float(text.removesuffix("min")) * 60 if text.endswith("min") else float(text)


@pytest.mark.parametrize("gpu", [False, True])
def test_systemd_finds_nothing_to_say(analyze: str, units: Path, *, gpu: bool) -> None:
    if gpu:
        add_gpu_drop_in(units)
    done = run(analyze, "verify", str(units / "spillway.service"), str(units / "spillway-gpu.service"))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_systemd_would_find_a_misspelt_key(analyze: str, units: Path) -> None:
    """The check above can fail: verify warns and exits 0, so silence is what counts."""
    unit = units / "spillway.service"
    unit.write_text(unit.read_text().replace("LimitCORE", "LimitCROE"))
    assert "LimitCROE" in run(analyze, "verify", str(unit)).stderr


@pytest.mark.parametrize(("gpu", "threshold"), [(False, 12), (True, 20)])
def test_the_sandbox_keeps_its_score(analyze: str, units: Path, *, gpu: bool, threshold: int) -> None:
    """Exposure times ten: 1.2 on a CPU node, 2.0 where the accelerator's devices are open."""
    if gpu:
        add_gpu_drop_in(units)
    unit = str(units / "spillway.service")
    done = run(analyze, "security", "--offline=true", f"--threshold={threshold}", "--no-pager", unit)
    assert done.returncode == 0, done.stdout + done.stderr


def test_stopping_outlasts_the_drain() -> None:
    values = dict(settings(FOLDER / "spillway.service"))
    assert values["KillSignal"] == "SIGTERM"
    assert seconds(values["TimeoutStopSec"]) > Config().daemon.drain_s


def test_a_bad_configuration_is_not_tried_again() -> None:
    assert dict(settings(FOLDER / "spillway.service"))["RestartPreventExitStatus"] == str(EXIT_CONFIG)


def test_the_command_and_the_configuration_are_ones_that_the_daemon_knows() -> None:
    values = dict(settings(FOLDER / "spillway.service"))
    program, *arguments = values["ExecStart"].split()
    assert program == INSTALLED
    assert build_parser("serve").parse_args(arguments).config == DEFAULT_FILE
    systemd = {"STATE_DIRECTORY": f"/var/lib/{values['StateDirectory']}"}
    config = load_config(FOLDER / "spillway.toml", environment=systemd).config
    assert config.repository.state_dir == SYSTEM_STATE
    assert Path(config.grpc.uds).parent == Path("/run") / values["RuntimeDirectory"]
    assert config.grpc.host == "127.0.0.1"


def test_what_the_configuration_offers_as_comments_is_right_too(tmp_path: Path) -> None:
    """The lines for mutual TLS, with their comment signs taken away."""
    text = (FOLDER / "spillway.toml").read_text()
    (tmp_path / "spillway.toml").write_text(re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE))
    config = load_config(tmp_path / "spillway.toml", environment={}).config
    assert config.grpc.host == "0.0.0.0"
    assert config.grpc.mutual_tls


def test_the_runtime_does_not_report_to_its_maker() -> None:
    assert ("Environment", "ORT_DISABLE_TELEMETRY=1") in settings(FOLDER / "spillway.service")
