"""The cache keeps what was used last, within both of its limits."""

from runtime.wire.recent import Recent


def test_the_least_recently_used_goes_first() -> None:
    recent: Recent[str, int] = Recent(entries=2, max_bytes=100)
    recent.put("a", 1, 10)
    recent.put("b", 2, 10)
    assert recent.get("a") == 1
    recent.put("c", 3, 10)
    assert [recent.get(key) for key in "abc"] == [1, None, 3]
    assert len(recent) == 2


def test_bytes_are_limited() -> None:
    recent: Recent[str, int] = Recent(entries=10, max_bytes=100)
    for key in "abc":
        recent.put(key, 0, 40)
    assert [recent.get(key) for key in "abc"] == [None, 0, 0]
    recent.put("d", 0, 100)
    assert [recent.get(key) for key in "bcd"] == [None, None, 0]
    recent.put("e", 0, 1)
    assert [recent.get(key) for key in "de"] == [None, 0]


def test_what_is_too_large_is_not_kept_and_drops_nothing() -> None:
    recent: Recent[str, int] = Recent(entries=10, max_bytes=100)
    recent.put("a", 1, 100)
    recent.put("b", 2, 101)
    assert (recent.get("a"), recent.get("b")) == (1, None)
