"""One thing that `spillway doctor` looked at."""

from typing import Literal

import msgspec


class Check(msgspec.Struct, frozen=True):
    """`fail` keeps the daemon from running, `warn` from running well; `advice` says what to do about it."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    advice: str = ""


def ok(name: str, found: str) -> Check:
    """Return a check that found nothing wrong."""
    return Check(name, "ok", found)


def warn(name: str, found: str, advice: str) -> Check:
    """Return a check that found what should be better."""
    return Check(name, "warn", found, advice)


def fail(name: str, found: str, advice: str) -> Check:
    """Return a check that found what must be mended."""
    return Check(name, "fail", found, advice)
