"""What a gRPC front serves: handlers by method path, free of any gRPC library's types.

A front needs nothing else to know of the server behind it, so that a faster one can take the place of grpcio's.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from runtime.transport.call import Call, StreamCall, UnaryCall

CallbackHandler = Callable[[bytes, UnaryCall], None]
"""Answers through the call, now or later, without a task of its own: the hot path."""
CoroutineHandler = Callable[[bytes, Call], Awaitable[bytes]]
"""Answers with the message it returns, or with the error it raises."""
StreamHandler = Callable[[StreamCall], Awaitable[None]]
"""Reads and writes messages until it returns; an error it raises ends the stream."""


@dataclass(frozen=True, slots=True)
class Routes:
    """All methods of a server, by full path.

    `watches` are streams that never end by themselves: a front that drains cuts them off. Of the others it only stops
    reading, so that they finish what they have. `limits` holds the largest message of a method, in bytes.
    """

    callbacks: Mapping[str, CallbackHandler] = field(default_factory=dict)
    coroutines: Mapping[str, CoroutineHandler] = field(default_factory=dict)
    streams: Mapping[str, StreamHandler] = field(default_factory=dict)
    watches: Mapping[str, StreamHandler] = field(default_factory=dict)
    limits: Mapping[str, int] = field(default_factory=dict)
