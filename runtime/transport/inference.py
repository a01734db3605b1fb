"""ModelInfer and ModelStreamInfer: bytes in, `submit`, bytes out.

Rules
- No decision is taken here. What the engine answers is encoded, an error becomes a status or a message in the stream.
- Unary calls make no task and no future of their own: the engine's `done` answers the call.
- Knows no gRPC library: it sees bytes and a `Call`.
"""

from functools import partial

from runtime.core.inference import InferResult, Outcome
from runtime.transport.call import StreamCall, UnaryCall
from runtime.transport.stream import Engine, StreamSession
from runtime.wire.convert import RequestDecoder, ResponseEncoder


class InferenceHandlers:
    """Handlers of the two inference calls. Event loop only."""

    def __init__(
        self, engine: Engine, decoder: RequestDecoder, encoder: ResponseEncoder, *, max_in_flight_per_stream: int
    ) -> None:
        self._engine = engine
        self._decoder = decoder
        self._encoder = encoder
        self._max_in_flight = max_in_flight_per_stream

    def infer(self, message: bytes, call: UnaryCall) -> None:
        """ModelInfer. What it raises is the call's error."""
        request = self._decoder.decode(message, call.deadline)
        call.on_cancel(request.cancel)
        self._engine.submit(request, partial(self._answer, request.request_id, call))

    async def stream(self, call: StreamCall) -> None:
        """ModelStreamInfer."""
        await StreamSession(self._engine, self._decoder, self._encoder, self._max_in_flight, call).run()

    def _answer(self, request_id: str, call: UnaryCall, outcome: Outcome) -> None:
        if not isinstance(outcome, InferResult):
            call.fail(outcome)
            return
        try:
            parts = self._encoder.encode(outcome, request_id)
        except Exception as error:  # noqa: BLE001 - on the engine's stack: nothing may escape; fail() logs what is a bug
            call.fail(error)
        else:
            call.send(parts)
