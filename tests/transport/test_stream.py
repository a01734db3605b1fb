import asyncio
from contextlib import suppress

import pytest

from runtime.core.errors import Cancelled, ModelNotFound, Overloaded, SpillwayError
from runtime.core.inference import InferRequest, InferResult
from runtime.transport.inference import InferenceHandlers
from runtime.transport.services import STREAM_INFER
from runtime.wire.convert import RequestDecoder, ResponseEncoder
from runtime.wire.pb import inference_pb2 as pb
from tests.fakes.engine import FakeEngine, echo
from tests.transport.calls import FakeStreamCall
from tests.transport.grpc_harness import infer_request, rows_of, serving


def session(engine: FakeEngine, call: FakeStreamCall, limit: int = 4) -> "asyncio.Task[None]":
    handlers = InferenceHandlers(engine, RequestDecoder(), ResponseEncoder(), max_in_flight_per_stream=limit)
    return asyncio.create_task(handlers.stream(call))


def message(row: float, **more: int) -> bytes:
    return infer_request(row, request_id=f"id-{row:g}", parameters=more).SerializeToString()


async def next_answer(call: FakeStreamCall) -> pb.ModelStreamInferResponse:
    return pb.ModelStreamInferResponse.FromString(await call.sent.get())


async def test_answers_keep_the_order_of_requests() -> None:
    engine, call = FakeEngine(holding=True), FakeStreamCall()
    task = session(engine, call)
    call.feed(message(1), message(2), message(3))
    await engine.holds(3)
    for index in (2, 1):
        engine.held[index].answer()
    await asyncio.sleep(0)
    assert call.sent.empty(), "the first one has no answer yet"
    engine.held[0].answer()

    answers = [await next_answer(call) for _ in range(3)]
    assert [answer.infer_response.id for answer in answers] == ["id-1", "id-2", "id-3"]
    assert [rows_of(answer.infer_response) for answer in answers] == [[1.0], [2.0], [3.0]]
    call.half_close()
    await task


async def test_every_answer_is_the_final_one() -> None:
    engine, call = FakeEngine(), FakeStreamCall()
    call.feed(message(1), message(2, triton_enable_empty_final_response=1))
    call.half_close()
    await session(engine, call)

    assert call.sent.qsize() == 2, "no empty response for models that answer once"
    for _ in range(2):
        assert (await next_answer(call)).infer_response.parameters["triton_final_response"].bool_param


async def test_errors_are_answers_with_the_id_and_the_stream_lives_on() -> None:
    def answer(request: InferRequest) -> InferResult | SpillwayError:
        return ModelNotFound("nobody") if request.request_id == "id-2" else echo(request)

    engine, call = FakeEngine(answer), FakeStreamCall()
    call.feed(message(1), message(2), message(3))
    call.half_close()
    await session(engine, call)

    good, bad, other = [await next_answer(call) for _ in range(3)]
    assert bad.error_message == "Request for unknown model: 'nobody' is not found"
    assert bad.infer_response.id == "id-2"
    assert not good.error_message
    assert not other.error_message


@pytest.mark.parametrize(
    ("broken", "request_id"),
    [
        (b"\xff\xff\xff", ""),
        (b"", ""),
        (pb.ModelInferRequest(model_name="digits", id="9", raw_input_contents=[b"xyz"]).SerializeToString(), "9"),
        (message(5)[:-1], ""),
    ],
)
async def test_what_cannot_be_read_is_an_error_in_its_place(broken: bytes, request_id: str) -> None:
    def answer(request: InferRequest) -> InferResult | SpillwayError:
        return echo(request) if request.head.inputs else Overloaded("no inputs")

    engine, call = FakeEngine(answer), FakeStreamCall()
    call.feed(message(1), broken, message(3))
    call.half_close()
    await session(engine, call)

    answers = [await next_answer(call) for _ in range(3)]
    assert [bool(answer.error_message) for answer in answers] == [False, True, False]
    assert [answer.infer_response.id for answer in answers] == ["id-1", request_id, "id-3"]


async def test_a_bug_is_logged_and_ends_only_its_request(caplog: pytest.LogCaptureFixture) -> None:
    def nonsense(request: InferRequest) -> InferResult | SpillwayError:
        return InferResult("m", "1", [object()]) if request.request_id == "id-1" else echo(request)  # type: ignore[list-item]

    engine, call = FakeEngine(nonsense), FakeStreamCall()
    call.feed(message(1), message(2))
    call.half_close()
    await session(engine, call)

    assert (await next_answer(call)).error_message == "internal error"
    assert not (await next_answer(call)).error_message
    assert [record.message for record in caplog.records] == ["request in stream failed"]


async def test_no_more_is_read_than_may_be_in_flight() -> None:
    engine, call = FakeEngine(holding=True), FakeStreamCall()
    task = session(engine, call, limit=3)
    call.feed(*(message(n) for n in range(10)))
    await engine.holds(3)
    for _ in range(5):
        await asyncio.sleep(0)
    assert (len(engine.seen), call.read) == (3, 4), "one more waits at the door"

    engine.held[2].answer()  # not the first: its answer cannot be sent yet
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(engine.seen) == 3
    engine.held[0].answer()
    await engine.holds(2)
    assert len(engine.seen) == 4

    engine.holding = False
    call.half_close()
    while not task.done():
        engine.answer_all()
        await asyncio.sleep(0)
    assert [(await next_answer(call)).infer_response.id for _ in range(10)] == [f"id-{n}" for n in range(10)]


async def test_a_caller_that_does_not_read_is_not_read() -> None:
    engine, call = FakeEngine(), FakeStreamCall()
    call.open.clear()
    task = session(engine, call, limit=2)
    call.feed(*(message(n) for n in range(50)))
    for _ in range(100):
        await asyncio.sleep(0)
    assert call.read <= 2 + 2, "in flight, being sent, and at the door"

    call.open.set()
    call.half_close()
    await task
    assert call.sent.qsize() == 50


async def test_half_closing_waits_for_what_is_outstanding() -> None:
    engine, call = FakeEngine(holding=True), FakeStreamCall()
    task = session(engine, call)
    call.feed(message(1))
    call.half_close()
    await engine.holds(1)
    for _ in range(5):
        await asyncio.sleep(0)
    assert not task.done()
    engine.answer_all()
    await task
    assert call.sent.qsize() == 1


async def test_cancelling_the_stream_cancels_every_request() -> None:
    engine, call = FakeEngine(holding=True), FakeStreamCall()
    task = session(engine, call)
    call.feed(message(1), message(2), message(3))
    await engine.holds(3)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

    assert all(request.cancelled for request in engine.seen)
    await engine.holds(0)
    assert call.sent.empty()


async def test_a_caller_that_is_gone_ends_the_session() -> None:
    engine, call = FakeEngine(holding=True), FakeStreamCall(failure=Cancelled())
    task = session(engine, call, limit=2)
    call.feed(message(1), message(2), message(3))
    await engine.holds(2)
    engine.held[0].answer()
    with pytest.raises(Cancelled):
        await task
    await engine.holds(0)
    assert engine.seen[1].cancelled


async def test_requests_have_the_deadline_of_the_stream() -> None:
    engine, call = FakeEngine(), FakeStreamCall(deadline=77.0)
    call.feed(message(1))
    call.half_close()
    await session(engine, call)
    assert engine.seen[0].deadline == 77.0


async def test_over_the_network_many_in_flight_and_a_cancel() -> None:
    engine = FakeEngine(holding=True)
    async with serving(engine, max_in_flight_per_stream=8) as server:
        stream = server.stream(STREAM_INFER)
        for row in range(8):
            await stream.write(message(row))
        await engine.holds(8)
        engine.answer_all()
        answers = [pb.ModelStreamInferResponse.FromString(await stream.read()) for _ in range(8)]
        assert [answer.infer_response.id for answer in answers] == [f"id-{n}" for n in range(8)]

        await stream.write(message(9))
        await engine.holds(1)
        stream.cancel()
        await engine.holds(0)
        assert engine.cancelled == 1
