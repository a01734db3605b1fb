"""The batcher as a state machine: random arrivals, deadlines, cancellations, failures and lost devices.

Whatever happens, `done` comes exactly once and never inside `submit`, `release` exactly once and never before the last
read of the buffers: `Sent` poisons what it gets back, `SimulatedDriver` reads inputs at the last moment of a run, and
every answer must equal what was sent. At the end everything is answered and nothing is held.
"""

import asyncio

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.core.errors import DeviceLost, ExecutionError
from runtime.core.model import BatchPolicy, QueuePolicy
from runtime.core.verdict import RunCost
from runtime.serving.admission import Limits
from tests.fakes.clock import ManualLoop
from tests.fakes.runner import FakeRunner
from tests.serving.rig import Rig, Sent, echo_spec

POLICIES = st.builds(
    BatchPolicy,
    preferred_batch_sizes=st.sampled_from([(), (), (2,), (2, 4)]),
    max_queue_delay_s=st.sampled_from([0.0, 0.0, 0.004]),
    preserve_ordering=st.booleans(),
    priority_levels=st.just(2),
    default_priority_level=st.just(2),
    queue_policy=st.builds(
        QueuePolicy,
        timeout_action=st.sampled_from(["REJECT", "DELAY"]),
        default_timeout_s=st.sampled_from([0.0, 0.0, 0.012]),
        max_queue_size=st.sampled_from([0, 0, 5]),
    ),
)
DEADLINES_S = st.sampled_from([float("inf"), float("inf"), 0.0005, 0.005, 0.0105, 0.03])


class Contract(RuleBasedStateMachine):
    """Requests come, go, expire; devices fail, die and are replaced; time passes in between."""

    @initialize(
        policy=st.none() | POLICIES,
        providers=st.sampled_from([("cpu",), ("cpu", "cpu"), ("cuda",), ("cuda", "cuda")]),
        inline=st.booleans(),
        replaceable=st.booleans(),
        measured=st.booleans(),
    )
    def start(
        self, policy: BatchPolicy | None, providers: tuple[str, ...], inline: bool, replaceable: bool, measured: bool
    ) -> None:
        self.runners = [FakeRunner(provider) for provider in providers]
        self.order: list[Sent] = []

        def reopen(_: str) -> FakeRunner:
            self.runners.append(FakeRunner())
            return self.runners[-1]

        async def make() -> Rig:
            return Rig(
                echo_spec(max_batch_size=4, batching=policy),
                self.runners,
                limits=Limits(max_requests=30, max_bytes=30 * 64),
                costs=[RunCost(rows=1, run_s=0.010), RunCost(rows=4, run_s=0.010)] if measured else [],
                inline=inline and providers == ("cpu",),
                reopen=reopen if replaceable else None,
            )

        self.runner = asyncio.Runner(loop_factory=ManualLoop)
        self.rig = self.runner.run(make())
        self.rig.loop.executor_delay_s = 0.003  # type: ignore[attr-defined]
        self.ordered = policy is not None and policy.preserve_ordering

    def sends(self, count: int, rows: int, width: int, deadline_s: float, priority: int) -> list[Sent]:
        async def send() -> list[Sent]:
            return [
                self.rig.send(rows, width, deadline_s=deadline_s, priority=priority, timeout_us=0) for _ in range(count)
            ]

        sent = self.runner.run(send())
        for entry in sent:
            entry.then = lambda entry=entry: self.order.append(entry)
        return sent

    @rule(
        count=st.integers(1, 5),
        rows=st.integers(1, 4),
        width=st.sampled_from([1, 4]),
        deadline_s=DEADLINES_S,
        priority=st.integers(0, 3),
    )
    def arrive(self, count: int, rows: int, width: int, deadline_s: float, priority: int) -> None:
        self.sends(count, rows, width, deadline_s, priority)

    @rule(rows=st.sampled_from([0, 5]))
    def arrive_malformed(self, rows: int) -> None:
        self.sends(1, rows, 4, 1.0, 0)

    @precondition(lambda self: self.rig.sent)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.rig.sent[-12:]))

        async def cancel() -> None:
            sent.request.cancel()

        self.runner.run(cancel())

    @precondition(lambda self: self.rig.sent)
    @rule(data=st.data())
    def cancel_another_or_send_when_answered(self, data: st.DataObject) -> None:
        sent = data.draw(st.sampled_from(self.rig.sent[-12:]))
        other = data.draw(st.sampled_from(self.rig.sent[-12:]))

        def then() -> None:
            self.order.append(sent)
            other.request.cancel()
            self.rig.send(2).then = None

        if sent.outcome is None:
            sent.then = then

    @rule(
        which=st.integers(0, 1),
        failure=st.sampled_from([ExecutionError("no"), DeviceLost("CUDA failure 999"), ValueError("a bug")]),
    )
    def fail(self, which: int, failure: Exception) -> None:
        self.runners[-1 - which % len(self.runners)].failures.append(failure)

    @rule(seconds=st.sampled_from([0.0, 0.0003, 0.002, 0.0101, 0.05]))
    def wait(self, seconds: float) -> None:
        self.runner.run(asyncio.sleep(seconds))

    @rule()
    def block_the_loop(self) -> None:
        self.rig.loop.advance(0.007)  # type: ignore[attr-defined]

    @invariant()
    def devices_read_only_what_is_lent(self) -> None:
        assert not any(runner.poisoned for runner in self.runners)
        for sent in self.rig.sent:
            assert sent.answered or not sent.outcome or sent.error

    def teardown(self) -> None:
        if not hasattr(self, "rig"):
            return
        try:
            self.runner.run(self.rig.settle())
            assert self.rig.loop.failures == []  # type: ignore[attr-defined]
            assert not any(runner.poisoned or runner.misused for runner in self.runners)
            batcher = self.rig.batcher
            assert batcher._backlog.waiting() == []
            assert batcher._running == {}
            assert batcher._expiry._heap == []
            assert all(device.in_flight == 0 for device in self.rig.pool.devices)
            if self.ordered:
                answered = [sent.value for sent in self.order if sent.answered]
                assert answered == sorted(answered)
        finally:
            self.runner.close()


Contract.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestContract = pytest.mark.slow(Contract.TestCase)
