"""What the daemon says to the system it runs on: service manager, memory allocator, interpreter.

Imports nothing of ours.
"""

import ctypes
import gc
import logging
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager

log = logging.getLogger(__name__)

# From <malloc.h>; glibc only.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_ENVIRONMENT = {
    _M_TRIM_THRESHOLD: "MALLOC_TRIM_THRESHOLD_",
    _M_TOP_PAD: "MALLOC_TOP_PAD_",
    _M_MMAP_THRESHOLD: "MALLOC_MMAP_THRESHOLD_",
}
MALLOC = {_M_MMAP_THRESHOLD: 256 << 20, _M_TRIM_THRESHOLD: 512 << 20, _M_TOP_PAD: 64 << 20}
"""Keep the pages of large messages instead of giving them back and faulting them in again for the next one: 600 KB
parse 9 x cheaper (research/arch.md section 1). What an unloaded model held goes back through `malloc_trim`."""
_OLD_LIMIT = 32 << 20
"""What glibc before 2.35 accepts at most for the mmap threshold."""
SWITCH_INTERVAL_S = 0.001
"""A batch that ended on its thread waits at most this long for the interpreter lock."""


def tune() -> None:
    """Set allocator and interpreter for serving; what the environment sets already is left alone."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.info("allocator has no mallopt")
        return
    for parameter, value in MALLOC.items():
        if _ENVIRONMENT[parameter] not in os.environ and not mallopt(ctypes.c_int(parameter), ctypes.c_int(value)):
            mallopt(ctypes.c_int(parameter), ctypes.c_int(_OLD_LIMIT))


@contextmanager
def importing() -> Iterator[None]:
    """Import inside of this what stays for good.

    Imports make no garbage: looking for it meanwhile costs an eighth of the start, and again 30 ms of every full
    collection while requests are served.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def notify(*states: str) -> None:
    """Tell systemd (sd_notify(3)): `READY=1`, `STOPPING=1`, `STATUS=...`, `WATCHDOG=1`. Nothing without it."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send("\n".join(states).encode())
    except OSError as error:
        log.warning("service manager not reached", extra={"address": address, "error": str(error)})


def watchdog_interval_s() -> float:
    """Half of the time after which systemd restarts us (WATCHDOG_USEC), 0 where it does not watch."""
    usec = os.environ.get("WATCHDOG_USEC", "0")
    mine = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
    return int(usec) / 2e6 if mine and usec.isdigit() else 0.0
