import pytest

from runtime.core.errors import Cancelled, InvalidRequest, SpillwayError
from runtime.core.inference import InferRequest, InferResult
from runtime.transport.inference import InferenceHandlers
from runtime.wire.convert import RequestDecoder, ResponseEncoder
from runtime.wire.pb import inference_pb2 as pb
from tests.fakes.engine import FakeEngine
from tests.transport.calls import FakeUnaryCall
from tests.transport.grpc_harness import infer_request, rows_of


def handlers(engine: FakeEngine) -> InferenceHandlers:
    return InferenceHandlers(engine, RequestDecoder(), ResponseEncoder(), max_in_flight_per_stream=4)


async def answer_to(message: bytes, engine: FakeEngine | None = None) -> bytes | Exception:
    call = FakeUnaryCall()
    handlers(engine or FakeEngine()).infer(message, call)
    await call.answered.wait()
    assert len(call.answers) == 1
    return call.answers[0]


async def test_the_answer_carries_the_id() -> None:
    answer = await answer_to(infer_request(1.0, 2.0, request_id="seven").SerializeToString())

    assert isinstance(answer, bytes)
    response = pb.ModelInferResponse.FromString(answer)
    assert (response.id, rows_of(response)) == ("seven", [1.0, 2.0])


async def test_errors_of_the_engine_are_the_answer() -> None:
    assert isinstance(
        await answer_to(infer_request(1.0).SerializeToString(), FakeEngine(lambda _: Cancelled())), Cancelled
    )


async def test_an_answer_that_cannot_be_encoded_is_an_error_and_not_a_silence() -> None:
    def nonsense(request: InferRequest) -> InferResult | SpillwayError:
        return InferResult("m", "1", [object()])  # type: ignore[list-item]

    assert isinstance(await answer_to(infer_request(1.0).SerializeToString(), FakeEngine(nonsense)), AttributeError)


async def test_what_cannot_be_read_never_reaches_the_engine() -> None:
    engine = FakeEngine()
    with pytest.raises(InvalidRequest):
        handlers(engine).infer(b"\xff\xff", FakeUnaryCall())
    assert not engine.seen


async def test_the_deadline_of_the_call_is_that_of_the_request() -> None:
    engine = FakeEngine()
    call = FakeUnaryCall(deadline=123.5)
    handlers(engine).infer(infer_request(1.0).SerializeToString(), call)

    assert engine.seen[0].deadline == 123.5
    await call.answered.wait()


async def test_cancelling_the_call_cancels_the_request() -> None:
    engine = FakeEngine(holding=True)
    call = FakeUnaryCall()
    handlers(engine).infer(infer_request(1.0).SerializeToString(), call)
    assert call.cancel is not None
    call.cancel()
    await call.answered.wait()

    assert engine.seen[0].cancelled
    assert isinstance(call.answers[0], Cancelled)
