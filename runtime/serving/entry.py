"""One request inside a batcher, from the door to its answer."""

import logging
import math
from collections.abc import Callable
from enum import Enum

from runtime.core.errors import SpillwayError
from runtime.core.inference import Done, InferRequest, Outcome, RequestHead
from runtime.core.tensor import Array
from runtime.serving.binding import Binding
from runtime.serving.work import Work

log = logging.getLogger(__name__)


class State(Enum):
    """Where the request is. Only WAITING entries may be cut into a batch."""

    WAITING = 1
    RUNNING = 2
    ENDED = 3


class Entry:
    """A request with what the batcher needs to know of it. Event loop only.

    `expires` is the earlier of the caller's deadline and the queue policy's timeout, on the monotonic clock.
    `turn` is its number in the queue, `work` the batch that carries it, `moves` how many devices were lost under it.
    An ended entry is an empty shell: queues may keep it for a while, but not the request's memory.
    """

    __slots__ = (
        "arrays",
        "arrived",
        "binding",
        "done",
        "expires",
        "level",
        "moves",
        "nbytes",
        "release",
        "request",
        "rows",
        "started",
        "state",
        "timed_out",
        "turn",
        "work",
    )

    def __init__(
        self, request: InferRequest, done: Done, binding: Binding, arrays: dict[str, Array], nbytes: int, arrived: float
    ) -> None:
        self.request = request
        self.release = request.release
        self.done = done
        self.binding = binding
        self.arrays = arrays
        self.rows = binding.rows
        self.nbytes = nbytes
        self.arrived = arrived
        self.started = 0.0
        self.expires = math.inf
        self.level = 0
        self.turn = 0
        self.moves = 0
        self.state = State.WAITING
        self.timed_out = False
        self.work: Work | None = None

    def end(self) -> Done:
        """Become a shell; returns whom to tell. `release` stays until it is called: a batch may still read."""
        done = self.done
        self.request.on_cancel = None
        self.state = State.ENDED
        self.request = _NO_REQUEST
        self.done = _told
        self.arrays = {}
        self.work = None
        return done

    def give_back(self) -> None:
        """Nobody reads the request's buffers any more."""
        release, self.release = self.release, _released
        tell(release)


def tell(callback: Callable[..., None], *arguments: Outcome) -> None:
    """Call back into a transport. A bug over there must not keep other requests from their answers."""
    try:
        callback(*arguments)
    except Exception:
        log.exception("callback of a request failed")


def answer_refused(request: InferRequest, done: Done, error: SpillwayError) -> None:
    """End a request that never got an entry, or whose entry was not taken."""
    tell(request.release)
    tell(done, error)


def _told(outcome: Outcome) -> None:
    raise AssertionError(f"request answered twice, now with {outcome}")


def _released() -> None:
    raise AssertionError("buffers of a request released twice")


_NO_REQUEST = InferRequest(RequestHead("", "", ()), ())
