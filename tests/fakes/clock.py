"""Event loops whose clock belongs to the test, so that none sleeps.

`@simulated`: time jumps to the next timer and every run is the same. Threads have no place there: `run_in_executor`
calls the function on the loop, and a wait that nothing can end is an error at once instead of a hang.
`@with_threads`: a real loop whose clock can be put forward.
"""

import asyncio
import functools
import selectors
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, ParamSpec

P = ParamSpec("P")
LATE_S = 1e-9
"""Timers fire a nanosecond late, as real ones do; exact sums of floats would fire some too early."""


class Stuck(RuntimeError):
    """The loop has nothing to run and no timer: whoever waits, waits for ever."""


class _JumpingSelector(selectors.BaseSelector):
    """Looks at the real file descriptors, and lets time pass instead of waiting for them."""

    def __init__(self, passes: Callable[[float], None]) -> None:
        self._real = selectors.DefaultSelector()
        self._passes = passes

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._real.register(fileobj, events, data)

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._real.unregister(fileobj)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if ready or timeout == 0:
            return ready
        if timeout is None:
            raise Stuck("nothing to run and no timer")
        self._passes(timeout + LATE_S)
        return []

    def close(self) -> None:
        self._real.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._real.get_map()


class ManualLoop(asyncio.SelectorEventLoop):
    """Time starts at 1000 s and passes only while everybody waits, or by `advance`."""

    def __init__(self) -> None:
        self._now = 1000.0
        self.executor_delay_s = 0.0
        super().__init__(_JumpingSelector(self.advance))
        self.failures = _collected(self)

    def time(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Let time pass at once, as code does that blocks the loop."""
        self._now += seconds

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        answer: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            try:
                answer.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - an executor hands over whatever the function raised
                answer.set_exception(error)

        self.call_later(self.executor_delay_s, run)
        return answer


class ShiftedLoop(asyncio.SelectorEventLoop):
    """A real loop, with real threads, whose clock can be put forward: a deadline passes when the test says so."""

    def __init__(self) -> None:
        self._ahead_s = 0.0
        super().__init__()
        self.failures = _collected(self)

    def time(self) -> float:
        return super().time() + self._ahead_s

    def advance(self, seconds: float) -> None:
        """Let time pass at once."""
        self._ahead_s += seconds


def _collected(loop: asyncio.AbstractEventLoop) -> list[str]:
    """What callbacks of the loop raise: asyncio only logs it, and the test would pass."""
    failures: list[str] = []
    loop.set_exception_handler(
        lambda _, context: failures.append(f"{context['message']}: {context.get('exception')!r}")
    )
    return failures


def manual_loop() -> ManualLoop:
    """The manual loop that runs now."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ManualLoop)
    return loop


def simulated(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a `ManualLoop`."""
    return _on(ManualLoop, test)


def with_threads(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an async test on a `ShiftedLoop`."""
    return _on(ShiftedLoop, test)


def _on(
    factory: Callable[[], ManualLoop | ShiftedLoop], test: Callable[P, Coroutine[Any, Any, None]]
) -> Callable[P, None]:
    @functools.wraps(test)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        loop = factory()
        with asyncio.Runner(loop_factory=lambda: loop) as runner:
            runner.run(test(*args, **kwargs))
        assert loop.failures == []

    return run
