"""The event loop as a device: who waits for it to be idle, and for how long."""

import asyncio

from runtime.serving.idle import BOUND_S, WhenIdle
from tests.fakes.clock import manual_loop, simulated
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig


@simulated
async def test_a_loop_with_nothing_else_to_do_calls_back_without_time_passing() -> None:
    loop = manual_loop()
    called: list[float] = []
    WhenIdle(loop, lambda: called.append(loop.time())).ask()
    begun = loop.time()
    assert not called, "never from inside ask"
    await asyncio.sleep(1e-6)
    assert called == [begun]


@simulated
async def test_a_loop_that_never_rests_calls_back_after_the_bound() -> None:
    loop = manual_loop()
    begun = loop.time()
    called: list[float] = []
    WhenIdle(loop, lambda: called.append(loop.time() - begun)).ask()

    def busy() -> None:
        loop.advance(BOUND_S / 10)
        if loop.time() - begun < 3 * BOUND_S:
            loop.call_soon(busy)

    busy()
    await asyncio.sleep(4 * BOUND_S)
    assert len(called) == 1
    assert BOUND_S <= called[0] <= 1.2 * BOUND_S


@simulated
async def test_requests_that_a_busy_front_brings_one_by_one_share_a_batch() -> None:
    loop = manual_loop()
    runner = FakeRunner()
    rig = Rig(runners=[runner], inline=True)

    def arrive(left: int) -> None:
        rig.send()
        if left:
            loop.call_soon(arrive, left - 1)

    arrive(5)
    await asyncio.sleep(1e-6)
    assert runner.sizes == [6]
    await rig.settle()
