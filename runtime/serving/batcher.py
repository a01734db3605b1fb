"""The first scheduler: requests of one model version gathered into batches, run, and answered.

Data: submit -> bind -> admission -> backlog -> (a device is free) -> plan -> Work -> device -> answers.

Rules
- Everything here runs on the event loop and nothing blocks it, but inline runs of tiny models, which are bounded:
  1 ms a turn, and one run over 2 ms moves the model to a thread for good.
- The device is taken first, the batch is cut second: what arrives meanwhile still gets in.
- No thread, task or future per request; one wake-up of the loop per batch.
- Decisions are pure functions elsewhere (`planner`, `refill`, `admission`, `cost`); this file holds none.
- `done` comes once per request, from here only (`_end`). Input buffers go back when the batch that reads them ended.
- A callback may submit and cancel: whoever calls one looks at an entry's state again afterwards.
"""

import asyncio
import logging
import math
from collections.abc import Sequence
from functools import partial

from runtime.core.errors import Cancelled, DeadlineExpired, DeviceLost, Draining, QueueTimeout, SpillwayError
from runtime.core.inference import Done, InferRequest, Outcome
from runtime.core.model import BatchPolicy, ModelSpec
from runtime.core.verdict import RunCost
from runtime.serving.admission import Limits, Load, refusal
from runtime.serving.answers import answers
from runtime.serving.backlog import Backlog, Lane
from runtime.serving.binding import Binding, ShapeKey, bind
from runtime.serving.cost import CostModel
from runtime.serving.devices import INLINE_TURN_S, Device, DevicePool
from runtime.serving.entry import Entry, State, answer_refused, tell
from runtime.serving.expiry import Expiry
from runtime.serving.idle import WhenIdle
from runtime.serving.learned import Learned
from runtime.serving.ordering import Ordering
from runtime.serving.planner import Limits as BatchLimits
from runtime.serving.planner import Plan, plan_greedy, plan_triton, wants_triton
from runtime.serving.ranking import queue_policy, rank
from runtime.serving.statistics import Statistics
from runtime.serving.work import Work

log = logging.getLogger(__name__)

_NO_BATCHING = BatchPolicy()
LOOK_AHEAD = 16
"""Other shape keys that may go while the most urgent one waits for company."""
MAX_MOVES = 2
"""Devices that may be lost under one request before it is suspected and gets the error instead of a third."""


class Batcher:
    """Serves one model version on a pool of devices; implements `core.inference.Scheduler`."""

    def __init__(
        self,
        spec: ModelSpec,
        pool: DevicePool,
        limits: Limits,
        costs: Sequence[RunCost] = (),
    ) -> None:
        self._spec = spec
        self._loop = asyncio.get_running_loop()
        self._pool = pool
        self._limits = limits
        self._policy = spec.batching or _NO_BATCHING
        self._max_rows = spec.max_batch_size if spec.batching is not None else 0
        self._triton = wants_triton(self._policy)
        self._names = [tensor.name for tensor in spec.outputs]
        self._backlog = Backlog()
        self._expiry = Expiry(self._loop, self._expired)
        self._learned = Learned(self._max_rows, lambda: pool.overhead_s, costs)
        self._ordering = Ordering() if self._policy.preserve_ordering else None
        self._running: dict[Work, tuple[list[Entry], Device]] = {}
        self._when_idle = WhenIdle(self._loop, self._pump)
        self._pump_due = False
        self._pumping = False
        self._timer: asyncio.TimerHandle | None = None
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._accepted = 0
        self.statistics = Statistics()
        pool.start(self._finished)

    @property
    def spec(self) -> ModelSpec:
        """The model that is served."""
        return self._spec

    @property
    def pool(self) -> DevicePool:
        """The devices that serve it, for status pages."""
        return self._pool

    def costs(self) -> dict[ShapeKey, CostModel]:
        """Learned run times by shape key."""
        return self._learned.costs()

    def submit(self, request: InferRequest, done: Done) -> None:
        """Take one request; see `core.inference`."""
        now = self._loop.time()
        try:
            if self._draining:
                raise Draining(f"model '{self._spec.name}'")
            if not self._pool.alive:
                raise self._no_device()
            binding = request.head.memo
            if not isinstance(binding, Binding) or binding.spec is not self._spec:
                binding = request.head.memo = bind(self._spec, request.head)
            arrays = binding.arrays(request.buffers)
            entry = Entry(request, done, binding, arrays, binding.nbytes(request.buffers), now)
            refused = self._refusal(entry, now)
        except SpillwayError as error:
            refused = error
        if refused is not None:
            self._refuse(request, done, refused)
        else:
            self._accept(entry)

    async def drain(self) -> None:
        """Accept no more; return when everything accepted has its answer."""
        self._draining = True
        self._schedule_pump()
        await self._idle.wait()

    async def close(self) -> None:
        """End what waits with `Draining`, let running batches end, give back the devices."""
        self._draining = True
        self._drop_waiting(Draining(f"model '{self._spec.name}'"))
        await self._idle.wait()
        self._expiry.close()
        self._stop_timer()
        await self._pool.close()

    # --- the door

    def _refusal(self, entry: Entry, now: float) -> SpillwayError | None:
        """Why `entry` is not taken. Not raised: a traceback would hold its buffers until a garbage collection."""
        place = rank(entry.request.head, self._policy, entry.request.deadline, now)
        entry.level, entry.expires = place.level, place.expires
        cost, refill = self._learned.of(entry.binding.key)
        wait_s, run_s = self._wait_s(cost, entry.level, now), cost.predict(entry.rows) + self._learned.handover_s
        most, queued = place.queue.max_queue_size, self._backlog.level_count(entry.level)
        load = Load(self._backlog.count, self._backlog.nbytes, wait_s, run_s, most, queued)
        refused = refusal(self._spec.name, load, self._limits, entry.nbytes, entry.request.deadline - now)
        if refused is not None:
            self.statistics.refusals[refused[0]] += 1
            return refused[1]
        if self._max_rows > 1:
            refill.arrived(now)
        return None

    def _refuse(self, request: InferRequest, done: Done, error: SpillwayError) -> None:
        self.statistics.failed(error)
        self._loop.call_soon(answer_refused, request, done, error)

    def _wait_s(self, cost: CostModel, level: int, now: float) -> float:
        """Predicted seconds until a request that arrives now would start."""
        if not self._backlog.count and self._pool.idle:
            return 0.0
        ahead_s = cost.backlog_s(self._backlog.rows_ahead(level), self._learned.handover_s)
        return self._pool.room_in_s(now) + ahead_s / max(1, self._pool.capacity)

    def _accept(self, entry: Entry) -> None:
        request = entry.request
        request.on_cancel = partial(self._cancelled, entry)
        self._accepted += 1
        self._idle.clear()
        if self._ordering is not None:
            self._ordering.expect(entry)
        self._backlog.push(entry)
        self._gauge()
        self.statistics.queue_depth.observe(self._backlog.count)
        if entry.expires != math.inf:
            self._expiry.add(entry)
        if request.cancelled:  # before it came here
            self._loop.call_soon(request.on_cancel)
        if self._pool.idle and not self._pumping:
            self._schedule_pump()

    # --- cutting batches

    def _schedule_pump(self) -> None:
        if not self._pump_due:
            self._pump_due = True
            if self._pool.inline:
                self._when_idle.ask()
            else:
                self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Give idle devices batches until there is no device, no request, or a reason to wait."""
        self._pump_due = False
        self._stop_timer()
        turn_ends = self._loop.time() + INLINE_TURN_S
        self._pumping = True
        try:
            while self._pool.idle and (lane := self._backlog.first()) is not None:
                now = self._loop.time()
                if now > turn_ends and self._pool.inline:
                    self._schedule_pump()  # others have a turn first
                    return
                lane, plan = self._choose(lane, now)
                if not plan.take:
                    self._timer = self._loop.call_later(plan.wait_s, self._pump)
                    return
                self._cut(lane, plan, now)
        finally:
            self._pumping = False

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _choose(self, first: Lane, now: float) -> tuple[Lane, Plan]:
        """The most urgent lane that goes now; where all wait, the one whose wait ends first."""
        plan = self._plan(first, now)
        if plan.take or self._backlog.lanes == 1:
            return first, plan
        best = first
        for lane in self._backlog.others(first, LOOK_AHEAD):
            other = self._plan(lane, now)
            if other.take:
                return lane, other
            if other.wait_s < plan.wait_s:
                best, plan = lane, other
        return best, plan

    def _plan(self, lane: Lane, now: float) -> Plan:
        if self._max_rows <= 1:
            return Plan(1, "full")
        if self._triton and not self._draining:
            age_s = now - lane.head().arrived
            return plan_triton((entry.rows for entry in lane), age_s, self._max_rows, self._policy)
        cost, refill = self._learned.of(lane.key)
        if cost.pays > 1 and not self._draining:
            until = refill.hold_until(lane.count, cost.pays - lane.rows, cost.fixed_s)
            if until > now:
                return Plan(0, "wait", until - now)
        limits = BatchLimits(self._max_rows, cost.limit(), self._pool.unused)
        return plan_greedy((entry.rows for entry in lane), lane.rows, limits)

    def _cut(self, lane: Lane, plan: Plan, now: float) -> None:
        taken = self._backlog.take(lane, plan.take)
        self._gauge()
        cost = self._learned.of(lane.key).cost
        # A request that cannot end in time would only take that of others who wait. Alone it may try: predictions err.
        ends = now + cost.predict(sum(entry.rows for entry in taken)) if self._backlog.count else now
        entries = [entry for entry in taken if entry.request.deadline > ends]
        late = [entry for entry in taken if entry.request.deadline <= ends] if len(entries) < len(taken) else ()
        if entries:
            self.statistics.cuts["shape" if plan.reason == "empty" and self._backlog.count else plan.reason] += 1
            self._start(entries, cost, now)
        for entry in late:  # only now, because callbacks may cancel what is in this batch
            self._end_run(entry, DeadlineExpired("in the queue"))

    def _start(self, entries: list[Entry], cost: CostModel, now: float) -> None:
        rows = sum(entry.rows for entry in entries)
        work = Work([entry.arrays for entry in entries], rows, self._wanted(entries))
        for entry in entries:
            entry.started = now
            entry.work = work
        device = self._pool.take(now, cost.predict(rows) + self._learned.handover_s)
        self._running[work] = (entries, device)
        device.start(work)

    def _wanted(self, entries: Sequence[Entry]) -> Sequence[str]:
        if all(entry.binding.all_outputs for entry in entries):
            return self._names
        indices = {slot.index for entry in entries for slot in entry.binding.outputs}
        return [self._names[index] for index in sorted(indices)]

    # --- a batch ended

    def _finished(self, work: Work) -> None:
        """The device is done with `work`: give it the next batch first, then answer this one."""
        entries, device = self._running.pop(work)
        self._pool.put_back(device)
        if isinstance(work.error, DeviceLost):
            self._device_lost(entries, device, work.error)
            return
        now = self._loop.time()
        cost, refill = self._learned.of(entries[0].binding.key)
        if work.error is None:
            cost.observe(work.rows, work.infer_s)
            self._learned.note_handover(now - entries[0].started - work.infer_s)
        if self._max_rows > 1:
            refill.answered(len(entries), work.input_s + work.infer_s, now)
        if self._backlog.count and not self._pumping:
            self._pump()
        self._answer(entries, work)

    def _answer(self, entries: Sequence[Entry], work: Work) -> None:
        begun = self._loop.time()
        try:
            if work.error is not None:
                raise work.error
            results = answers(self._spec, [entry.binding for entry in entries], work)
        except SpillwayError as error:
            for entry in entries:
                self._end_run(entry, error)
            return
        now = self._loop.time()
        self.statistics.ran(work.rows, work.input_s, work.infer_s, now - begun)
        answered = 0
        for entry, result in zip(entries, results, strict=True):
            if entry.state is State.RUNNING:
                answered += 1
                self.statistics.succeeded(now - entry.arrived, entry.started - entry.arrived)
            self._end_run(entry, result)
        self.statistics.computed(answered, work.input_s, work.infer_s, now - begun)

    def _end_run(self, entry: Entry, outcome: Outcome) -> None:
        """The batch of `entry` ended: answer it, or only give back its buffers where it ended before."""
        if entry.state is State.RUNNING:
            self._end(entry, outcome, in_turn=True)
        else:
            entry.give_back()

    def _device_lost(self, entries: Sequence[Entry], device: Device, error: DeviceLost) -> None:
        """Its requests wait again, for another device or for what the pool brings up in its place."""
        log.error("device lost", extra={"model": self._spec.name, "provider": device.provider, "error": str(error)})
        self._pool.discard(device, self._settled)
        for entry in entries:
            entry.moves += 1
        again = [entry for entry in entries if entry.state is State.RUNNING and entry.moves <= MAX_MOVES]
        self._backlog.requeue(again)
        self._gauge()
        for entry in set(entries).difference(again):
            self._end_run(entry, error)
        self._schedule_pump()

    def _settled(self) -> None:
        """A lost device was replaced, or not."""
        if not self._pool.alive:
            self._drop_waiting(self._no_device())
        self._schedule_pump()

    def _no_device(self) -> DeviceLost:
        return DeviceLost(f"model '{self._spec.name}' has no device left: {self._pool.fault}")

    # --- requests that end early

    def _expired(self, entry: Entry) -> None:
        """The entry's moment came: its deadline, or its queue policy's timeout."""
        waits = entry.state is State.WAITING
        if self._loop.time() >= entry.request.deadline:
            self._drop(entry, DeadlineExpired("in the queue" if waits else "while running"))
        elif waits and queue_policy(self._policy, entry.level).timeout_action == "REJECT":
            self._drop(entry, QueueTimeout(self._spec.name))
        else:
            if waits:
                self._backlog.delay(entry)
            entry.expires = entry.request.deadline
            if entry.expires != math.inf:
                self._expiry.add(entry)

    def _cancelled(self, entry: Entry) -> None:
        self._drop(entry, Cancelled())

    def _drop_waiting(self, error: SpillwayError) -> None:
        for entry in self._backlog.waiting():
            if entry.state is State.WAITING:
                self._drop(entry, error)

    def _drop(self, entry: Entry, error: SpillwayError) -> None:
        """End a request before its answer. A running batch ends early only when nobody waits for it any more."""
        if entry.state is State.WAITING:
            self._backlog.end(entry)
            self._gauge()
            self._end(entry, error)
        elif entry.state is State.RUNNING:
            work = entry.work
            self._end(entry, error, lent=True)
            entries, _ = self._running.get(work, ((), None)) if work else ((), None)
            if work and entries and all(other.state is State.ENDED for other in entries):
                work.terminate()

    def _end(self, entry: Entry, outcome: Outcome, *, lent: bool = False, in_turn: bool = False) -> None:
        """Answer a request, once. `lent`: a batch still reads its buffers, they go back when it ends."""
        if isinstance(outcome, SpillwayError):
            self.statistics.failed(outcome, self._loop.time() - entry.arrived)
        done = entry.end()
        if not lent:
            entry.give_back()
        if self._ordering is None:
            tell(done, outcome)
        elif in_turn:
            self._ordering.answer(entry, done, outcome)
        else:
            tell(done, outcome)
            self._ordering.give_up(entry)
        self._accepted -= 1
        if not self._accepted:
            self._idle.set()

    def _gauge(self) -> None:
        self.statistics.pending_requests = self._backlog.count
        self.statistics.pending_bytes = self._backlog.nbytes
