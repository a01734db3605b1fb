"""The front door."""

import asyncio

import pytest

from runtime.core.errors import Draining, ExecutionError, ModelNotFound, SpillwayError
from runtime.core.inference import Scheduler
from runtime.serving.engine import Engine
from tests.fakes.clock import simulated
from tests.serving.rig import Rig, Sent


class OneModel:
    """A catalogue that serves one batcher, or raises."""

    def __init__(self, scheduler: Scheduler | None) -> None:
        self.scheduler = scheduler
        self.asked: list[tuple[str, str]] = []

    def find(self, model: str, version: str) -> Scheduler:
        self.asked.append((model, version))
        if self.scheduler is None:
            raise ModelNotFound(model)
        return self.scheduler


class ToEngine:
    """Lets `Sent` submit to an engine."""

    def __init__(self, engine: Engine) -> None:
        self.submit = engine.submit


@simulated
async def test_it_finds_the_scheduler_and_hands_the_request_on() -> None:
    rig = Rig()
    catalogue = OneModel(rig.batcher)
    engine = Engine(catalogue)
    sent = Sent(1.0)
    sent.submit(ToEngine(engine))  # type: ignore[arg-type]
    assert catalogue.asked == [("echo", "")]
    await rig.settle()
    assert sent.answered


@simulated
async def test_an_unknown_model_is_answered_later_with_the_buffers_given_back() -> None:
    sent = Sent(1.0)
    sent.submit(ToEngine(Engine(OneModel(None))))  # type: ignore[arg-type]
    assert sent.outcome is None
    await asyncio.sleep(0)
    assert isinstance(sent.error, ModelNotFound)
    assert str(sent.error) == "Request for unknown model: 'echo' is not found"
    assert sent.released


@simulated
async def test_while_it_drains_new_requests_are_refused_and_old_ones_answered() -> None:
    rig = Rig()
    engine = Engine(OneModel(rig.batcher))
    old, new = Sent(1.0), Sent(2.0)
    old.submit(ToEngine(engine))  # type: ignore[arg-type]
    engine.refuse_new()
    assert engine.draining
    new.submit(ToEngine(engine))  # type: ignore[arg-type]
    await rig.settle()
    assert old.answered
    assert isinstance(new.error, Draining)
    assert new.released


@simulated
async def test_infer_returns_the_result_or_raises_the_error() -> None:
    rig = Rig()
    engine = Engine(OneModel(rig.batcher))
    sent = Sent(3.0)
    result = await engine.infer(sent.request)
    assert result.outputs[0].array.tolist() == [[3.0] * 4]
    rig.runners[0].failures.append(ExecutionError("no"))
    with pytest.raises(SpillwayError, match="no"):
        await engine.infer(Sent(4.0).request)
    await rig.settle()


@simulated
async def test_cancelling_the_wait_cancels_the_request() -> None:
    rig = Rig()
    engine = Engine(OneModel(rig.batcher))
    rig.send()
    await rig.after(0.001)
    sent = Sent(2.0)
    waiting = asyncio.ensure_future(engine.infer(sent.request))
    await rig.after(0.002)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert sent.released
    await rig.settle()
    assert rig.batches() == [[1]]
