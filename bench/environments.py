"""Virtual environments for the peers: each in its own, because their requirements contradict ours and each other.

Made on first use under the bench's cache by `venv` and `pip`, with pinned versions and the same ONNX Runtime as ours.
Where that fails (no network, no wheel for this machine), the peer is skipped and the reason is printed: the bench
never fails for want of a peer.
"""

import importlib.metadata
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_INSTALL_LIMIT_S = 900


class Unavailable(Exception):
    """A peer cannot run here; the message says why."""


@dataclass(frozen=True)
class Environment:
    """What one peer needs."""

    name: str
    packages: tuple[str, ...]
    constraints: str = ""  # a file at the repository's root that pins what the packages require
    system_python: bool = False  # prefer the distribution's interpreter to the one that runs the bench


KSERVE = Environment("kserve", ("kserve==0.21.0",), constraints="constraints-kserve.txt")
MOSEC = Environment("mosec", ("mosec==0.9.8",))
# PyTriton's stub embeds an interpreter that fits Debian's 3.11.2 and not every later patch release.
PYTRITON = Environment("pytriton", ("nvidia-pytriton==0.7.0",), system_python=True)


def python_of(environment: Environment, cache: Path) -> Path:
    """The interpreter of the environment, made now if it is not there yet.

    Raises:
        Unavailable: it cannot be made here.
    """
    home = cache / f"venv-{environment.name}"
    python, stamp = home / "bin" / "python", home / "packages"
    packages = [*environment.packages, f"onnxruntime=={importlib.metadata.version('onnxruntime')}"]
    if stamp.exists() and stamp.read_text() == "\n".join(packages):
        return python
    shutil.rmtree(home, ignore_errors=True)
    interpreter = shutil.which("python3", path="/usr/bin") if environment.system_python else None
    # Without pip, which Debian's interpreter may lack: ours installs into the new environment.
    _run([interpreter or sys.executable, "-m", "venv", "--without-pip", str(home)])
    pins = ["--constraint", str(_ROOT / environment.constraints)] if environment.constraints else []
    _run([sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-input", *pins, *packages])
    stamp.write_text("\n".join(packages))
    return python


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_INSTALL_LIMIT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise Unavailable(f"{' '.join(command[1:4])} took over {_INSTALL_LIMIT_S} s") from error
    if done.returncode != 0:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        raise Unavailable(lines[-1] if lines else f"{' '.join(command[1:4])} failed with {done.returncode}")
