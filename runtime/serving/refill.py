"""Refill: after a batch, wait a moment for the clients just answered, if they usually return and it pays.

Greedy batching splits closed-loop clients into two halves that alternate. The rule (research/arch.md section 2):
within a window w of at most T/4 after a batch, k of the answered clients usually come back; hold the next batch if
the fixed cost that k requests save by riding along outweighs three times the delay of those who wait:
k * a > 3 * waiting * w. Let go when 0.9 k are in, or when w is over. Pure: time is handed in, nothing is scheduled.
"""

WINDOW_SHARE = 0.25
ENOUGH = 0.9
WEIGHT = 3.0
LEARN = 0.2
MIN_WINDOW_S = 0.0002
"""Below this a timer of the event loop is too coarse to hold anything."""


class Refill:
    """What one shape key's clients do after an answer. All times in seconds on the monotonic clock."""

    def __init__(self) -> None:
        self._ended = float("-inf")
        self._window_max = 0.0
        self._answered = 0
        self._returned = 0
        self._last_return = 0.0
        self._share = 0.0
        self._delay = 0.0

    def arrived(self, now: float) -> None:
        """A request came in."""
        since = now - self._ended
        if since <= self._window_max:
            self._returned += 1
            self._last_return = since

    def answered(self, requests: int, run_s: float, now: float) -> None:
        """A batch ended and its `requests` are about to be answered."""
        if self._answered:
            share = min(1.0, self._returned / self._answered)
            self._share += LEARN * (share - self._share)
            if self._returned:
                self._delay += LEARN * (self._last_return - self._delay)
        self._ended = now
        self._window_max = run_s * WINDOW_SHARE
        self._answered = requests
        self._returned = 0

    def hold_until(self, waiting: int, room: int, fixed_s: float) -> float:
        """Moment until which to hold a batch of `waiting` requests with room for `room` more; 0 to cut now."""
        expected = min(self._share * self._answered, self._returned + room)
        window = min(self._window_max, 2 * self._delay)
        missing = ENOUGH * expected - self._returned
        if missing < 1 or window < MIN_WINDOW_S:
            return 0.0
        if expected * fixed_s <= WEIGHT * waiting * window:
            return 0.0
        return self._ended + window
