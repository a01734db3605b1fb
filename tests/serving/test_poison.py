"""No running batch reads a buffer that was given back: real threads, real time, real sessions.

Each request's buffer is poisoned the moment it is released. `Watching` compares what a session read at the beginning of
its run with what is there at its end, whatever became of the requests meanwhile.
"""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import Cancelled, DeadlineExpired, ExecutionError, Overloaded
from runtime.core.model import ProviderChoice, SessionSettings
from runtime.core.tensor import Array
from runtime.serving.admission import Limits
from runtime.serving.batcher import Batcher
from runtime.serving.devices import DevicePool
from runtime.serving.instance import open_session
from runtime.serving.work import Runner, Work
from tests.fakes.clock import ShiftedLoop, with_threads
from tests.fakes.runner import GatedRunner
from tests.serving import graphs
from tests.serving.rig import Sent, echo_spec


class Watching:
    """A runner that looks at the inputs of another before and after each run, and tells `begun` what it reads."""

    def __init__(self, runner: Runner, begun: Callable[[list[float]], None]) -> None:
        self._runner = runner
        self._begun = begun
        self.runs = 0
        self.ended_early = 0
        self.corrupted = 0

    @property
    def provider(self) -> str:
        return self._runner.provider

    def run(self, names: Sequence[str], feeds: Mapping[str, Array], work: Work) -> Sequence[Array]:
        before = {name: np.array(array) for name, array in feeds.items()}
        self._begun(feeds["x"][:, 0].tolist())
        try:
            return self._runner.run(names, feeds, work)
        except ExecutionError:
            self.ended_early += 1
            raise
        finally:
            self.runs += 1
            self.corrupted += any(not np.array_equal(before[name], feeds[name]) for name in feeds)

    def close(self) -> None:
        self._runner.close()


async def sees(sent: Sent) -> None:
    """Wait for the answer, at most five seconds."""
    heard = asyncio.Event()
    sent.then = heard.set
    if sent.outcome is None:
        async with asyncio.timeout(5):
            await heard.wait()


@pytest.mark.parametrize("ending", ["deadline", "cancel"])
@with_threads
async def test_a_thread_in_the_middle_of_a_lone_requests_buffer(ending: str) -> None:
    """A lone request is not copied: the device reads the received bytes themselves."""
    runner = GatedRunner()
    batcher = Batcher(echo_spec(), DevicePool([runner], "echo"), Limits())
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ShiftedLoop)
    sent = Sent(1.0, deadline=loop.time() + 60.0).submit(batcher)
    assert await asyncio.to_thread(runner.reading.wait, 5)
    if ending == "cancel":
        sent.request.cancel()
    else:
        loop.advance(60.0)
    await sees(sent)
    assert isinstance(sent.error, DeadlineExpired if ending == "deadline" else Cancelled)
    assert runner.stopped, "nobody wants the answer any more"
    assert not sent.released, "the thread is still in the middle of it"
    assert bytes(sent.buffer) == sent.array.tobytes()
    runner.gate.set()
    await batcher.drain()
    await batcher.close()
    assert sent.released
    assert not runner.poisoned


async def test_a_batch_whose_other_request_lives_on() -> None:
    runner = GatedRunner()
    batcher = Batcher(echo_spec(), DevicePool([runner], "echo"), Limits())
    dead, alive = Sent(1.0).submit(batcher), Sent(2.0).submit(batcher)
    assert await asyncio.to_thread(runner.reading.wait, 5)
    dead.request.cancel()
    assert not dead.released
    assert not runner.stopped
    runner.gate.set()
    await batcher.drain()
    await batcher.close()
    assert alive.answered
    assert dead.released
    assert not runner.poisoned


@pytest.mark.slow
@pytest.mark.parametrize(("max_batch_size", "instances"), [(1, 1), (1, 2), (4, 1), (4, 2)])
async def test_real_sessions_with_deadlines_and_cancellations_in_the_middle_of_runs(
    max_batch_size: int, instances: int, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()
    dice = random.Random(max_batch_size * 10 + instances)
    everything: list[Sent] = []

    def cancel_some(values: list[float]) -> None:
        """In the middle of the run that reads them."""
        for value in set(values):
            if value % 3 == 0:
                everything[int(value) - 1].request.cancel()

    def begun(values: list[float]) -> None:
        loop.call_soon_threadsafe(cancel_some, values)

    path = graphs.slow_identity(tmp_path / "m.onnx", rounds=200)
    runners = [
        Watching(open_session(path, SessionSettings(), 1, [ProviderChoice("cpu")])[0], begun) for _ in range(instances)
    ]
    batcher = Batcher(echo_spec(max_batch_size=max_batch_size), DevicePool(runners, "echo"), Limits())

    async def client() -> None:
        for _ in range(15):
            deadline = loop.time() + dice.choice([5.0, 5.0, 5.0, 0.003, 0.010])
            sent = Sent(float(len(everything) + 1), dice.randint(1, max_batch_size), 256, deadline=deadline)
            everything.append(sent)
            sent.submit(batcher)
            await sees(sent)

    await asyncio.gather(*(client() for _ in range(6)))
    await batcher.drain()
    await batcher.close()
    for sent in everything:
        sent.check_settled()
    assert sum(runner.corrupted for runner in runners) == 0
    answered = sum(sent.answered for sent in everything)
    ended = sum(isinstance(sent.error, DeadlineExpired | Cancelled) for sent in everything)
    refused = sum(isinstance(sent.error, Overloaded) for sent in everything)
    assert answered + ended + refused == len(everything)
    assert answered > 10, "the test shows nothing where nobody is answered"
    assert ended > 10, "nor where nobody gives up"
    if max_batch_size == 1:
        assert sum(runner.ended_early for runner in runners) > 0, "some runs were terminated in their middle"


async def test_a_graph_that_hands_its_input_through_answers_from_memory_of_its_own(tmp_path: Path) -> None:
    path = graphs.handed_through(tmp_path / "m.onnx")
    runner, _ = open_session(path, SessionSettings(), 1, [ProviderChoice("cpu")])
    spec = echo_spec(outputs=(*echo_spec().outputs, echo_spec().inputs[0]))
    batcher = Batcher(spec, DevicePool([runner], "echo"), Limits())
    lone = Sent(1.0).submit(batcher)
    await sees(lone)
    pair = [Sent(float(value)).submit(batcher) for value in (2, 3)]
    await batcher.drain()
    await batcher.close()
    assert lone.released
    assert all(sent.answered for sent in (lone, *pair)), "compared after the poison"
