"""Laws of the backlog, against a list that is sorted by hand."""

import gc
import weakref

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from runtime.serving.backlog import SWEEP_AT, Backlog
from runtime.serving.binding import bind
from runtime.serving.entry import Entry, State
from tests.serving.rig import Sent, echo_spec

SPEC = echo_spec(max_batch_size=8)


def entry_of(level: int = 0, width: int = 4, rows: int = 1) -> Entry:
    sent = Sent(1.0, rows, width)
    binding = bind(SPEC, sent.request.head)
    entry = Entry(sent.request, sent.done, binding, {}, binding.nbytes(sent.request.buffers), 0.0)
    entry.level = level
    return entry


class BacklogLaws(RuleBasedStateMachine):
    """The model: every waiting entry with (level, timed out, number), and nothing else."""

    @initialize(levels=st.sampled_from([0, 3]))
    def start(self, levels: int) -> None:
        self.backlog = Backlog()
        self.levels = levels
        self.number = 0
        self.waiting: dict[Entry, tuple[int, bool, int]] = {}
        self.running: dict[Entry, tuple[int, bool, int]] = {}

    @rule(width=st.integers(1, 4), rows=st.integers(1, 4), choice=st.integers(0, 2))
    def push(self, width: int, rows: int, choice: int) -> None:
        entry = entry_of(1 + choice if self.levels else 0, width, rows)
        self.number += 1
        self.waiting[entry] = (entry.level, False, self.number)
        self.backlog.push(entry)

    @precondition(lambda self: self.waiting)
    @rule(requests=st.integers(1, 6))
    def take(self, requests: int) -> None:
        lane = self.backlog.first()
        assert lane is not None
        head = min(self.waiting, key=self.waiting.__getitem__)
        assert lane.key == head.binding.key, "the most urgent of all goes first"
        same_shape = [entry for entry in self.waiting if entry.binding.key == lane.key]
        expected = sorted(same_shape, key=self.waiting.__getitem__)
        assert list(lane) == expected
        assert lane.head() is expected[0]
        taken = self.backlog.take(lane, requests)
        assert taken == expected[:requests]
        for entry in taken:
            assert entry.state is State.RUNNING
            self.running[entry] = self.waiting.pop(entry)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(list(self.waiting)))
        del self.waiting[entry]
        self.backlog.end(entry)

    @precondition(lambda self: any(not late for _, late, _ in self.waiting.values()))
    @rule(data=st.data())
    def delay(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from([entry for entry, (_, late, _) in self.waiting.items() if not late]))
        self.number += 1
        self.waiting[entry] = (entry.level, True, self.number)
        self.backlog.delay(entry)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        entries = data.draw(st.lists(st.sampled_from(list(self.running)), min_size=1, unique=True))
        for entry in entries:
            self.waiting[entry] = self.running.pop(entry)
        self.backlog.requeue(entries)

    @rule()
    def forget_running(self) -> None:
        for entry in self.running:
            entry.state = State.ENDED
        self.running.clear()

    @invariant()
    def counts_are_true(self) -> None:
        assert len(self.backlog) == self.backlog.count == len(self.waiting)
        assert self.backlog.rows == sum(entry.rows for entry in self.waiting)
        assert self.backlog.nbytes == sum(entry.nbytes for entry in self.waiting)
        assert self.backlog.lanes == len({entry.binding.key for entry in self.waiting})
        assert set(self.backlog.waiting()) == set(self.waiting)
        for level in range(self.levels and 1, self.levels + 1):
            ahead = [entry for entry in self.waiting if not level or entry.level <= level]
            assert self.backlog.rows_ahead(level) == sum(entry.rows for entry in ahead)
            at_level = [entry for entry in self.waiting if entry.level == level] if level else list(self.waiting)
            assert self.backlog.level_count(level) == len(at_level)

    @invariant()
    def first_finds_somebody_if_and_only_if_somebody_waits(self) -> None:
        assert (self.backlog.first() is None) == (not self.waiting)

    @invariant()
    def nothing_is_held_when_nobody_waits(self) -> None:
        if not self.waiting:
            assert self.backlog._lanes == {}
            assert self.backlog._heads == []

    @invariant()
    def each_shape_has_one_ticket(self) -> None:
        live = [ticket for ticket in self.backlog._heads if ticket[-1].ticket is ticket]
        assert len(live) == self.backlog.lanes


BacklogLaws.TestCase.settings = settings(max_examples=50, stateful_step_count=40, deadline=None)
TestBacklogLaws = pytest.mark.slow(BacklogLaws.TestCase)


def test_a_queue_that_is_emptied_and_filled_again_and_again_keeps_one_head() -> None:
    backlog = Backlog()
    for _ in range(200):
        backlog.push(entry_of())
        lane = backlog.first()
        assert lane is not None
        backlog.take(lane, 8)
        backlog.push(entry_of())
        backlog.push(entry_of(width=6))
    assert backlog.lanes == 2
    assert len(backlog._heads) <= 4


def test_higher_priorities_that_come_and_go_leave_nothing_behind() -> None:
    backlog = Backlog()
    backlog.push(entry_of(level=2))
    for _ in range(200):
        urgent = entry_of(level=1)
        backlog.push(urgent)
        lane = backlog.first()
        assert lane is not None
        assert backlog.take(lane, 1) == [urgent]
    assert len(backlog._heads) <= 3


def test_ended_requests_in_the_middle_are_swept() -> None:
    backlog = Backlog()
    first = entry_of()
    backlog.push(first)
    for _ in range(20 * SWEEP_AT):
        entry = entry_of()
        backlog.push(entry)
        backlog.end(entry)
    lane = backlog.first()
    assert lane is not None
    assert sum(map(len, lane.queues.values())) <= SWEEP_AT + 2
    assert list(lane) == [first]


def test_an_ended_request_is_not_held() -> None:
    backlog = Backlog()
    stays = entry_of()
    backlog.push(stays)
    gone: list[weakref.ref[Sent]] = []
    for _ in range(10):
        entry = entry_of()
        gone.append(weakref.ref(entry.request.release.__self__))  # type: ignore[attr-defined]
        backlog.push(entry)
        backlog.end(entry)
        entry.end()
        entry.give_back()
    del entry
    gc.collect()
    assert [reference() for reference in gone] == [None] * 10
