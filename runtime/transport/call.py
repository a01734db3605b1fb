"""What a handler sees of one RPC: bytes and this Protocol, no type of any gRPC library.

So that a faster front can stand beside the grpcio one, and so that handlers are tested without a network.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from runtime.core.tensor import Buffer


@dataclass(frozen=True, slots=True)
class Identity:
    """Who calls: the common name and subject alternative names of a verified client certificate; empty without TLS."""

    names: tuple[str, ...] = ()


class Call(Protocol):
    """One RPC. Event loop only."""

    @property
    def peer(self) -> str:
        """Address of the caller, for logs."""
        ...

    @property
    def identity(self) -> Identity:
        """The caller as the transport authenticated it."""
        ...

    @property
    def metadata(self) -> Mapping[str, str]:
        """Request metadata with lower-case keys; binary entries left out."""
        ...

    @property
    def deadline(self) -> float:
        """Absolute, seconds on the monotonic clock; infinity where the caller gave none."""
        ...


class UnaryCall(Call, Protocol):
    """A call with one answer; exactly one of `send` and `fail` is called, once."""

    def send(self, parts: Sequence[Buffer]) -> None:
        """Answer with the concatenation of `parts`. Buffers may be read until the reply is on the wire."""
        ...

    def fail(self, error: Exception) -> None:
        """End the call with the status that `wire/status.py` gives `error`."""
        ...

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Run `callback` once if the caller goes away or the deadline fires before the answer."""
        ...


class StreamCall(Call, Protocol):
    """A call with streams of messages in both directions."""

    def receive(self) -> AsyncIterator[bytes]:
        """Messages of the caller, until it half-closes."""
        ...

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message; waits while the stream is held back by flow control."""
        ...
