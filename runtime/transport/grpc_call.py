"""`Call` over grpc.aio: what handlers see of one RPC, made of a servicer context.

Rules
- Peer, metadata, identity and deadline cost something to fetch, so they are fetched when asked for.
- A bug in a handler is logged here, once, with its traceback; the caller learns `internal error`.
- After the caller has gone away, answers are dropped without a word.
"""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import grpc

from runtime.core.errors import Cancelled, Overloaded, SpillwayError
from runtime.core.tensor import Buffer
from runtime.transport.call import Identity
from runtime.wire.status import status_of

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[Any, Any]
Identify = Callable[[Context], Identity]
"""How a listener tells who calls."""

_PUSHBACK = "grpc-retry-pushback-ms"  # gRFC A6: clients with a retry policy wait so long


class GrpcCall:
    """Facts of one RPC; implements `Call`."""

    __slots__ = ("_context", "_identify")

    def __init__(self, context: Context, identify: Identify) -> None:
        self._context = context
        self._identify = identify

    @property
    def peer(self) -> str:
        """Address of the caller."""
        return self._context.peer()

    @property
    def identity(self) -> Identity:
        """The caller as its certificate names it."""
        return self._identify(self._context)

    @property
    def metadata(self) -> Mapping[str, str]:
        """Request metadata; of a repeated key the last value."""
        pairs = self._context.invocation_metadata() or ()
        return {key: value for key, value in pairs if isinstance(value, str)}

    @property
    def deadline(self) -> float:
        """Absolute, on the monotonic clock."""
        left: float | None = self._context.time_remaining()
        return math.inf if left is None else time.monotonic() + left

    def set_status(self, error: BaseException) -> None:
        """End the call with the status of `error`, once its handler returns."""
        code, details = status_of(error)
        if not isinstance(error, SpillwayError):
            log.error("handler failed", exc_info=error, extra={"peer": self.peer})
        self._context.set_code(code)
        self._context.set_details(details)
        if isinstance(error, Overloaded) and error.retry_after_s > 0:
            self._context.set_trailing_metadata(((_PUSHBACK, str(math.ceil(error.retry_after_s * 1000))),))


class GrpcUnaryCall(GrpcCall):
    """A call with one answer; implements `UnaryCall`. `waiter` wakes the RPC's coroutine, where it waits already."""

    __slots__ = ("_on_cancel", "answer", "waiter")

    def __init__(self, context: Context, identify: Identify) -> None:
        self._context = context  # not by super(): this runs for every request
        self._identify = identify
        self._on_cancel: Callable[[], None] | None = None
        self.answer: bytes | None = None
        self.waiter: asyncio.Future[None] | None = None

    def send(self, parts: Sequence[Buffer]) -> None:
        """Answer; the parts are joined here, once."""
        self._end(b"".join(parts))

    def fail(self, error: Exception) -> None:
        """End the call with an error."""
        self.set_status(error)  # cheaper than abort(), which sends by itself and raises
        self._end(b"")

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Remember what to do when the caller goes away."""
        self._on_cancel = callback

    def abandon(self) -> None:
        """The caller has gone away, or its deadline has passed."""
        if self._on_cancel is not None:
            self._on_cancel()

    def _end(self, answer: bytes) -> None:
        assert self.answer is None, "a call is answered once"
        self.answer = answer
        if self.waiter is not None and not self.waiter.done():
            self.waiter.set_result(None)


class GrpcStreamCall(GrpcCall):
    """A call with streams both ways; implements `StreamCall`.

    `stop` ends it from the server's side: the handler sees its caller half-close (or, where it was made `endless`, is
    cancelled), and `cut` tells that it was us.
    """

    __slots__ = ("_interruptible", "_limit", "_stopped", "_task", "cut")

    def __init__(self, context: Context, identify: Identify, limit: int, *, endless: bool) -> None:
        super().__init__(context, identify)
        self._limit = limit
        self._task = asyncio.current_task()
        self._interruptible = endless
        self._stopped = False
        self.cut = False

    async def receive(self) -> AsyncIterator[bytes]:
        """Messages of the caller, until it half-closes or the server stops.

        Raises:
            Overloaded: a message is larger than this method takes.
        """
        while not self._stopped:
            message = await self._read()
            if message is None:
                return
            check_size(message, self._limit)
            yield message
        self.cut = True

    async def send(self, parts: Sequence[Buffer]) -> None:
        """Send one message.

        Raises:
            Cancelled: the caller has gone away.
        """
        try:
            await self._context.write(b"".join(parts))
        except grpc.aio.BaseError as error:
            raise Cancelled from error

    def stop(self) -> None:
        """End the stream, once what was received has its answer."""
        self._stopped = True
        if self._interruptible and self._task is not None:
            self._task.cancel()

    async def _read(self) -> bytes | None:
        before, self._interruptible = self._interruptible, True
        try:
            message = await self._context.read()
        except asyncio.CancelledError:
            if not self.cut_by_stop():
                raise
            return None
        except grpc.aio.BaseError as error:
            raise Cancelled from error
        finally:
            self._interruptible = before
        return None if message is grpc.aio.EOF else bytes(message)

    def cut_by_stop(self) -> bool:
        """In handling a CancelledError: whether it came from `stop` alone. Then the task is no longer cancelled."""
        if self._stopped and self._task is not None and self._task.uncancel() == 0:
            self.cut = True
        return self.cut


def check_size(message: bytes, limit: int) -> None:
    """Refuse a message that is larger than its method takes, as gRPC itself does (Overloaded)."""
    if len(message) > limit:
        raise Overloaded(f"received message of {len(message)} bytes, this method takes {limit}")
