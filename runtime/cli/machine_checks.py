"""What `spillway doctor` looks at of the machine and of what is installed.

Of the daemon's settings it only takes the numbers of threads and connections that the machine has to bear.
"""

import ctypes
import os
import platform
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from runtime.cli.check import Check, fail, ok, warn

PACKAGES = ("grpcio", "protobuf", "numpy", "onnx", "aiohttp", "msgspec", "prometheus-client", "psutil")
RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino")
OLDEST_PYTHON = (3, 11)
SPARE_FILES = 512
"""Descriptors beside those of connections: model files, pipes of the trial, libraries."""
_CGROUP_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
_TIMEX_BYTES = 256  # more than any struct timex


def python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < OLDEST_PYTHON:
        return fail("python", found, "install Python 3.11 or later")
    return ok("python", found)


def packages() -> Check:
    """What the daemon imports."""
    found = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in found.items() if not version]
    if missing:
        return fail("packages", f"not installed: {', '.join(missing)}", "pip install 'spillway-runtime[cpu]'")
    return ok("packages", ", ".join(f"{name} {version}" for name, version in found.items()))


def runtimes() -> Check:
    """Which builds of ONNX Runtime are installed: two overwrite each other's files."""
    found = {name: version for name in RUNTIMES if (version := _version(name))}
    said = ", ".join(f"{name} {version}" for name, version in found.items())
    if not found:
        advice = "pip install 'spillway-runtime[cpu]' (any machine) or 'spillway-runtime[gpu]' (NVIDIA, CUDA 13)"
        return fail("onnxruntime", "not installed", advice)
    if len(found) > 1:
        return fail("onnxruntime", f"{said} share one folder", "pip uninstall all of them, then install one")
    return ok("onnxruntime", said)


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def gpu() -> Check:
    """NVIDIA GPUs, as their driver's own tool sees them."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        if Path("/proc/driver/nvidia/version").exists():
            advice = "install the driver's nvidia-smi (in containers: NVIDIA_DRIVER_CAPABILITIES=compute,utility)"
            return warn("gpu", "an NVIDIA driver is loaded, nvidia-smi is missing", advice)
        return ok("gpu", "none found")
    query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        answer = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)  # noqa: S603
    except (OSError, subprocess.SubprocessError) as error:
        return warn("gpu", f"nvidia-smi failed: {error}", "mend the driver, or models run on the CPU")
    devices = "; ".join(answer.stdout.strip().splitlines())
    if not _version("onnxruntime-gpu"):
        advice = "pip uninstall onnxruntime, then pip install 'spillway-runtime[gpu]'"
        return warn("gpu", f"{devices}, and ONNX Runtime is a build without CUDA", advice)
    return ok("gpu", devices)


def cores(threads: int) -> Check:
    """CPUs that the process may use, against the threads that a model may keep busy."""
    usable = len(os.sched_getaffinity(0))
    quota = _quota()
    found = f"{usable} of {os.cpu_count()} usable" + (f", quota {quota:g}" if quota else "")
    found += f"; a model may use {threads} thread{'s' if threads > 1 else ''}"
    limit = min(usable, quota or usable)
    if threads > limit:
        advice = f"set serving.threads (--threads) to {max(1, int(limit))}: more threads than cores wait for each other"
        return warn("cores", found, advice)
    return ok("cores", found)


def _quota() -> float:
    """Cores that the control group may use at a time; 0 for no limit."""
    try:
        limit, period = _CGROUP_QUOTA.read_text().split()
    except (OSError, ValueError):
        return 0.0
    return 0.0 if limit == "max" else int(limit) / int(period)


def open_files(connections: int) -> Check:
    """The limit on file descriptors, against the connections that the settings allow."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft < wanted:
        more = "" if hard >= wanted else f" (the hard limit is {hard})"
        advice = f"raise it to {wanted}{more}: ulimit -n, or LimitNOFILE= in the unit"
        return warn("open files", f"limit {soft}, {wanted} are needed at {connections} connections", advice)
    return ok("open files", f"limit {soft}")


def clock(built: float, now: float) -> Check:
    """The wall clock: it dates logs and decides whether certificates hold. `built`: when this was installed."""
    stamp = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    if now < built:
        return fail("clock", f"{stamp} is before this program was installed", "set the clock, and run an NTP client")
    state = _clock_state()
    if state == _TIME_ERROR:
        advice = "run an NTP client (systemd-timesyncd, chrony): certificates are judged by this clock"
        return warn("clock", f"{stamp}, not synchronized", advice)
    return ok("clock", stamp + ("" if state is None else ", synchronized"))


def _clock_state() -> int | None:
    """What adjtimex(2) answers; None where it may not be asked."""
    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)))
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state


def malloc() -> Check:
    """Whether the daemon can tell the allocator to keep the pages of large messages (runtime/process.py)."""
    preloaded = os.environ.get("LD_PRELOAD", "")
    if preloaded:
        return ok("malloc", f"LD_PRELOAD={preloaded}; if that is an allocator, it decides by itself")
    try:
        ctypes.CDLL(None).mallopt  # noqa: B018 - looking it up is the check
    except (OSError, AttributeError):
        advice = "nothing is wrong, but large requests cost more here than with glibc"
        return warn("malloc", "this C library has no mallopt", advice)
    given = sorted(name for name in os.environ if name.startswith("MALLOC_"))
    found = "glibc, set by the daemon at its start"
    return ok("malloc", f"{found}, but for {', '.join(given)}" if given else found)


def look(threads: int, connections: int) -> Iterator[Check]:
    """Run all checks of this module."""
    yield python()
    yield packages()
    yield runtimes()
    yield gpu()
    yield cores(threads)
    yield open_files(connections)
    yield clock(Path(__file__).stat().st_mtime, time.time())
    yield malloc()
