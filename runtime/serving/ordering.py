"""Answers in the order in which their requests arrived (`preserve_ordering`)."""

from collections import OrderedDict

from runtime.core.inference import Done, Outcome
from runtime.serving.entry import Entry, tell


class Ordering:
    """Holds each answer back until all earlier requests have theirs. Event loop only.

    A request that gives up (deadline, cancellation, queue timeout) is not held back and holds nobody back: its caller
    was promised a time, and there is no answer to be out of order.
    """

    def __init__(self) -> None:
        self._due: OrderedDict[Entry, tuple[Done, Outcome] | None] = OrderedDict()

    def expect(self, entry: Entry) -> None:
        """The next answer after those expected before is that of `entry`."""
        self._due[entry] = None

    def answer(self, entry: Entry, done: Done, outcome: Outcome) -> None:
        """Tell `done` when it is this entry's turn."""
        self._due[entry] = (done, outcome)
        self._tell_ready()

    def give_up(self, entry: Entry) -> None:
        """Do not wait for `entry`: it was answered out of turn."""
        del self._due[entry]
        self._tell_ready()

    def _tell_ready(self) -> None:
        while self._due:
            entry, ready = next(iter(self._due.items()))
            if ready is None:
                return
            del self._due[entry]
            tell(*ready)
