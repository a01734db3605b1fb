"""One ModelStreamInfer: many requests in flight, answered in the order in which they came.

Rules
- An error is the answer to its request, with the request's id; the stream lives on.
- At most `limit` requests are between their arrival and the sending of their answer; beyond it nothing more is read, so
  gRPC's flow control holds the caller back.
- When the caller half-closes, everything received is answered first. When it goes away, everything is cancelled.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from runtime.core.errors import InvalidRequest, SpillwayError
from runtime.core.inference import Done, InferRequest, InferResult
from runtime.core.tensor import Buffer
from runtime.transport.call import StreamCall
from runtime.wire.convert import RequestDecoder, ResponseEncoder, encode_stream_error
from runtime.wire.walk import walk

log = logging.getLogger(__name__)


class Engine(Protocol):
    """What answers requests; the contract is in `core/inference.py`."""

    def submit(self, request: InferRequest, done: Done) -> None:
        """Take one request; `done` comes exactly once, later."""
        ...


class _Slot:
    """A request's place in the order of answers; `request` is None where it could not be read."""

    __slots__ = ("outcome", "request", "request_id")

    def __init__(self, request_id: str, request: InferRequest | None, outcome: InferResult | Exception | None) -> None:
        self.request_id = request_id
        self.request = request
        self.outcome = outcome


class StreamSession:
    """Reads, submits and answers until the stream ends. One per call."""

    def __init__(
        self, engine: Engine, decoder: RequestDecoder, encoder: ResponseEncoder, limit: int, call: StreamCall
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._encoder = encoder
        self._limit = limit
        self._call = call
        self._slots: deque[_Slot] = deque()
        self._half_closed = False
        self._news = asyncio.Event()  # the first answer is there, or no more requests come
        self._room = asyncio.Event()  # an answer was taken to be sent, or the writer ended

    async def run(self) -> None:
        """Serve the stream."""
        writer = asyncio.create_task(self._write())
        writer.add_done_callback(self._writer_ended)
        try:
            async for message in self._call.receive():
                while len(self._slots) >= self._limit and not writer.done():
                    self._room.clear()
                    await self._room.wait()
                if writer.done():
                    break
                self._accept(message)
            self._half_closed = True
            self._news.set()
            await writer
        finally:
            writer.cancel()
            for slot in self._slots:
                if slot.request is not None:
                    slot.request.cancel()

    def _accept(self, message: bytes) -> None:
        try:
            request = self._decoder.decode(message, self._call.deadline)
        except Exception as error:  # noqa: BLE001 - one bad message must not end the others' stream; logged if a bug
            self._slots.append(_Slot(_id_of(message), None, error))
            self._news.set()
            return
        slot = _Slot(request.request_id, request, None)
        self._slots.append(slot)

        def done(outcome: InferResult | SpillwayError) -> None:
            slot.outcome, slot.request = outcome, None
            if self._slots and self._slots[0] is slot:
                self._news.set()

        self._engine.submit(request, done)

    async def _write(self) -> None:
        while True:
            while not self._slots or self._slots[0].outcome is None:
                if self._half_closed and not self._slots:
                    return
                self._news.clear()
                await self._news.wait()
            slot = self._slots.popleft()
            self._room.set()
            await self._call.send(self._encoded(slot))

    def _encoded(self, slot: _Slot) -> Sequence[Buffer]:
        outcome = slot.outcome
        if isinstance(outcome, InferResult):
            try:
                return self._encoder.encode_stream_result(outcome, slot.request_id)
            except Exception as error:  # noqa: BLE001 - as in _accept
                outcome = error
        assert outcome is not None
        if not isinstance(outcome, SpillwayError):
            log.error("request in stream failed", exc_info=outcome, extra={"peer": self._call.peer})
        return (encode_stream_error(outcome, slot.request_id),)

    def _writer_ended(self, writer: asyncio.Task[None]) -> None:
        self._room.set()
        if not writer.cancelled():
            writer.exception()  # fetched: `run` may not get to it when the caller goes away


def _id_of(message: bytes) -> str:
    """The id of a request that cannot be read otherwise, if that much can be read."""
    try:
        return walk(message)[1]
    except InvalidRequest:
        return ""
