"""A small cache: what was used last is kept, within a number of entries and of bytes."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Recent(Generic[Key, Value]):
    """At most `entries` entries of at most `max_bytes` together; the least recently used are dropped first.

    One thread (or event loop) at a time.
    """

    __slots__ = ("_bytes", "_entries", "_items", "_max_bytes")

    def __init__(self, entries: int, max_bytes: int) -> None:
        self._items: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._entries = entries
        self._max_bytes = max_bytes
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: Key) -> Value | None:
        """Look up `key`, which makes it the most recent."""
        item = self._items.get(key)
        if item is None:
            return None
        self._items.move_to_end(key)
        return item[0]

    def put(self, key: Key, value: Value, size: int) -> None:
        """Remember a key that is not there, unless its `size` in bytes alone exceeds the limit."""
        if size > self._max_bytes:
            return
        self._items[key] = (value, size)
        self._bytes += size
        while len(self._items) > self._entries or self._bytes > self._max_bytes:
            _, (_, dropped) = self._items.popitem(last=False)
            self._bytes -= dropped
