"""One timer for many moments."""

import math

from hypothesis import given
from hypothesis import strategies as st

from runtime.serving.entry import Entry
from runtime.serving.expiry import SWEEP_AT, Expiry
from tests.fakes.clock import manual_loop, simulated
from tests.serving.test_backlog import entry_of


def watched(expiry: Expiry, moment: float) -> Entry:
    entry = entry_of()
    entry.expires = moment
    expiry.add(entry)
    return entry


@given(st.lists(st.tuples(st.floats(0.001, 1.0), st.booleans()), max_size=30))
def test_each_living_entry_is_called_once_when_its_moment_comes(moments: list[tuple[float, bool]]) -> None:
    @simulated
    async def run() -> None:
        loop = manual_loop()
        late: dict[Entry, float] = {}
        expiry = Expiry(loop, lambda entry: late.__setitem__(entry, loop.time() - entry.expires))
        entries = [watched(expiry, loop.time() + after) for after, _ in moments]
        for entry, (_, ends) in zip(entries, moments, strict=True):
            if ends:
                entry.end()
        done = loop.create_future()
        loop.call_later(2.0, done.set_result, None)
        await done
        assert set(late) == {entry for entry, (_, ends) in zip(entries, moments, strict=True) if not ends}
        assert all(0 <= seconds < 1e-6 for seconds in late.values())
        assert expiry._heap == []

    run()


@simulated
async def test_a_moment_that_moved_counts_and_the_old_one_does_not() -> None:
    loop = manual_loop()
    began = loop.time()
    fired: list[float] = []
    expiry = Expiry(loop, lambda _: fired.append(round(loop.time() - began, 6)))
    entry = watched(expiry, began + 0.1)
    entry.expires = began + 0.3
    expiry.add(entry)
    done = loop.create_future()
    loop.call_later(1.0, done.set_result, None)
    await done
    assert fired == [0.3]


@simulated
async def test_the_callback_may_watch_for_more() -> None:
    loop = manual_loop()
    began = loop.time()
    fired: list[float] = []

    def again(entry: Entry) -> None:
        fired.append(round(loop.time() - began, 6))
        entry.expires = loop.time() + 0.1 if len(fired) < 3 else math.inf
        if entry.expires != math.inf:
            expiry.add(entry)

    expiry = Expiry(loop, again)
    watched(expiry, began + 0.1)
    watched(expiry, began + 0.15).end()
    done = loop.create_future()
    loop.call_later(1.0, done.set_result, None)
    await done
    assert fired == [0.1, 0.2, 0.3]


@simulated
async def test_ended_entries_are_swept_out() -> None:
    expiry = Expiry(manual_loop(), lambda _: None)
    alive = [watched(expiry, manual_loop().time() + 100 + number) for number in range(3)]
    for _ in range(5 * SWEEP_AT):
        watched(expiry, manual_loop().time() + 50).end()
    assert len(expiry._heap) <= SWEEP_AT + len(alive)
    assert {item[2] for item in expiry._heap} >= set(alive)
    expiry.close()
    assert expiry._heap == []
