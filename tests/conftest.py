"""What every room's tests share: the one word on a tool that is missing, and patience with a busy machine."""

import os

import pytest
from hypothesis import settings

settings.register_profile("patient", deadline=None)  # a time limit for each example is a coin toss on a busy machine
settings.load_profile("patient")
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before any test imports onnxruntime by itself


def require(condition: object, reason: str) -> None:
    """Skip the test for `reason` unless `condition`; fail it where `SPILLWAY_REQUIRE=1` says that all is installed."""
    if condition:
        return
    if os.environ.get("SPILLWAY_REQUIRE") == "1":
        pytest.fail(f"SPILLWAY_REQUIRE=1, and {reason}")
    pytest.skip(reason)
