"""One request and its answer, as transports hand them to the engine.

The contract in the middle of the data path is one call:

    scheduler.submit(request, done)

It never blocks. `done(outcome)` is called exactly once, on the event loop, and never from inside `submit`.
`done` ends the request. `release` ends the loan of its input buffers: it comes exactly once, after the copy or the
run that reads them, possibly later than `done` (a deadline can fire while a batch still runs).

Rules
- A `RequestHead` is immutable and may be shared by many requests: clients repeat themselves, converters cache heads
  by their bytes, and the engine keeps what it derived from a head in `memo`.
- Input buffers are views of what was received. They are never copied before the batch is assembled.
- Arrays in a result own their memory.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from runtime.core.errors import SpillwayError
from runtime.core.model import ModelSpec
from runtime.core.tensor import Array, Buffer

Parameter = bool | int | float | str
"""Value of a request or response parameter."""


@dataclass(frozen=True, slots=True)
class TensorHead:
    """Name, protocol data type and full shape (with the batch axis) of one tensor on the wire."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RequestedOutput:
    """An output the client asked for by name; `classification` > 0 asks for the top classes instead of the tensor."""

    name: str
    classification: int = 0


@dataclass(slots=True, eq=False)
class RequestHead:
    """Everything of a request but its id, its tensor bytes and its deadline. Treat as immutable.

    `outputs` empty means all. `priority` 0 means the model's default. `timeout_us` 0 means none.
    `memo` belongs to the engine: what it derived from this head for one model (a binding).
    """

    model_name: str
    model_version: str
    inputs: tuple[TensorHead, ...]
    outputs: tuple[RequestedOutput, ...] = ()
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    priority: int = 0
    timeout_us: int = 0
    memo: Any = None


def _nothing() -> None:
    """Release of buffers that nobody lent."""


@dataclass(slots=True, eq=False)
class InferRequest:
    """One inference request on its way through the engine.

    `buffers[k]` holds the data of `head.inputs[k]`: bytes as on the wire (little endian; BYTES with lengths), or an
    array whose dtype is that of the data type (for BYTES an object array) and whose size fits the shape.
    `deadline` is on the monotonic clock, in seconds; infinity means none.
    """

    head: RequestHead
    buffers: Sequence[Buffer | Array]
    request_id: str = ""
    deadline: float = math.inf
    release: Callable[[], None] = _nothing
    cancelled: bool = False
    on_cancel: Callable[[], None] | None = None

    def cancel(self) -> None:
        """Take the request back. Idempotent; `done` still comes once, with `Cancelled` unless the answer was first.

        Event loop only. What already runs on the device runs out, but its answer is dropped.
        """
        if not self.cancelled:
            self.cancelled = True
            if self.on_cancel is not None:
                self.on_cancel()


@dataclass(slots=True, eq=False)
class OutputTensor:
    """One output: `array` has the full shape and the dtype of `datatype` (BYTES: object array of bytes or str).

    Treat as immutable; a class that enforces it costs a microsecond more to make, for every answer.
    """

    name: str
    datatype: str
    array: Array


@dataclass(slots=True, eq=False)
class InferResult:
    """The answer to one request; treat as immutable. Its arrays own their memory (or keep alive what does)."""

    model_name: str
    model_version: str
    outputs: Sequence[OutputTensor]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)


Outcome = InferResult | SpillwayError
Done = Callable[[Outcome], None]


class Scheduler(Protocol):
    """What is served under one model version: the batcher; later the sequencer and the ensemble above it."""

    @property
    def spec(self) -> ModelSpec:
        """The model that is served."""
        ...

    def submit(self, request: InferRequest, done: Done) -> None:
        """Take one request; see the module's contract. Event loop only."""
        ...

    async def drain(self) -> None:
        """Accept no more (`Draining`); return when everything accepted before has its answer."""
        ...

    async def close(self) -> None:
        """Give back sessions and memory. Idempotent; after `drain`, or to end what is left with `Draining`."""
        ...


class Catalogue(Protocol):
    """Finds what is served. Implemented by the repository's manager; one dictionary look-up on the hot path."""

    def find(self, model: str, version: str) -> Scheduler:
        """The scheduler of a version, or of the highest ready one where `version` is empty.

        Raises:
            InvalidRequest: the version is not a positive decimal number.
            ModelNotFound, VersionNotFound: not served here.
            ModelNotReady: known, and loading, unloading or failed.
        """
        ...
