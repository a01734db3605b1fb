"""Time as a parameter.

Decisions take `now` in seconds of `time.monotonic()`; only loops own a clock. Wall time is for records.
"""

import time
from collections.abc import Callable

Clock = Callable[[], float]
"""Seconds on a clock that never goes back."""

monotonic: Clock = time.monotonic
