"""SIGTERM in the middle of traffic (issue 2; ops.md F13): another daemon takes over, is anything lost?

    python -m bench.drain [--quick] [--json FILE]

Two addresses, one active daemon. Again and again the other one is started, the active one gets SIGTERM while all
clients wait for answers, and it has to end within its grace. The clients are Python's grpc: half of them have one
channel that knows both addresses, half have a channel for each and change it when they are refused.

A request may be refused (UNAVAILABLE, with our text) or find nobody listening, and is sent again: nothing has happened
to it. Whatever else becomes of it - a reset, a cancelled call, a connection that breaks before the answer, a wrong
answer - is a request lost. Then the compiled loader does the same with 32 calls in flight; it does not send again, so
there OK and UNAVAILABLE are the only fair ends.
"""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from itertools import cycle

import grpc

from bench import alone, findings, harness, models, servers
from bench.findings import CACHE, Findings
from bench.harness import Running, Shape
from bench.models import Prepared

CLIENTS = 12
GRACE_S = 10.0
_METHOD = "/inference.GRPCInferenceService/ModelInfer"
_CALL_LIMIT_S = 30.0
_PAUSE_S = 0.005
_OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]
_OUR_REFUSAL = "is stopping, new requests are not accepted"
_NOBODY_THERE = "failed to connect to all addresses"
_REFUSED, _UNREACHED = "refused, sent again", "nobody there, sent again"
_NEVER = f"not served within {_CALL_LIMIT_S:.0f} s"
_FAIR = ("OK", _REFUSED, _UNREACHED)


class Pair:
    """Two addresses, and the daemon that serves on one of them at a time."""

    def __init__(self, prepared: Prepared, stack: ExitStack) -> None:
        self._prepared = prepared
        self._stack = stack
        self._ports = servers.free_ports(2)
        self._turn = cycle(self._ports)
        self._active = self._next = self._start()

    @property
    def addresses(self) -> list[str]:
        """Both."""
        return [f"127.0.0.1:{port}" for port in self._ports]

    @property
    def target(self) -> Running:
        """The pair, for a loader that is given both addresses: the active one, where it connects, and the next."""
        return replace(self._active, address=f"ipv4:{self._active.address},{self._next.address}")

    def start_other(self) -> None:
        """Bring up the daemon that is to take over; both serve from now on."""
        self._next = self._start()

    def take_over(self) -> float:
        """SIGTERM to the active one; returns the seconds until it has ended."""
        leaving, self._active = self._active, self._next
        begun = time.monotonic()
        leaving.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            leaving.process.wait(2 * GRACE_S)
        return time.monotonic() - begun

    def _start(self) -> Running:
        port = next(self._turn)
        flags = ("--grpc-port", str(port), "--drain", str(GRACE_S))
        return self._stack.enter_context(alone.daemon(self._prepared, f"drain-{self._ports.index(port)}", *flags))


class Clients:
    """Callers that ask without a pause, between `start` and `stop`. `ends` counts what became of their calls."""

    def __init__(self, addresses: Sequence[str], prepared: Prepared) -> None:
        self._addresses = addresses
        self._request = prepared.request.read_bytes()
        self._prepared = prepared
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._ask_on, args=(number,)) for number in range(CLIENTS)]
        self._lock = threading.Lock()
        self.ends: Counter[str] = Counter()
        self.ended = 0

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Ask until the end of the block, then wait for the last answers."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stopping.set()
            for thread in self._threads:
                thread.join()

    def wait(self, count: int) -> None:
        """Until `count` requests have ended, well or not."""
        while self.ended < count and any(thread.is_alive() for thread in self._threads):
            time.sleep(_PAUSE_S)

    def _ask_on(self, number: int) -> None:
        both = "ipv4:" + ",".join(self._addresses)
        targets = [both] if number % 2 else list(self._addresses)
        channels = [grpc.insecure_channel(target, options=_OWN_CONNECTION) for target in targets]
        calls: list[grpc.UnaryUnaryMultiCallable[bytes, bytes]] = [each.unary_unary(_METHOD) for each in channels]
        turn = cycle(calls)
        call = next(turn)
        while not self._stopping.is_set():
            limit = time.monotonic() + _CALL_LIMIT_S
            while (end := self._ask(call)) in (_REFUSED, _UNREACHED) and time.monotonic() < limit:
                self._note(end, ended=False)
                call = next(turn)
                time.sleep(_PAUSE_S)
            self._note(_NEVER if end in (_REFUSED, _UNREACHED) else end, ended=True)
        for channel in channels:
            channel.close()

    def _note(self, end: str, *, ended: bool) -> None:
        with self._lock:
            self.ends[end] += 1
            self.ended += ended

    def _ask(self, call: "grpc.UnaryUnaryMultiCallable[bytes, bytes]") -> str:
        try:
            reply = call(self._request, timeout=_CALL_LIMIT_S)
        except grpc.RpcError as error:
            details = error.details() or ""
            if error.code() is grpc.StatusCode.UNAVAILABLE and _OUR_REFUSAL in details:
                return _REFUSED
            if error.code() is grpc.StatusCode.UNAVAILABLE and _NOBODY_THERE in details:
                return _UNREACHED
            return f"{error.code().name}: {details[:120]}"
        return "OK" if harness.as_expected(self._prepared, reply) else "wrong answer"


def with_clients(found: Findings, pair: Pair, prepared: Prepared, requests: int, times: int) -> tuple[int, list[float]]:
    """Answer `requests` while the daemons change places; returns how many were lost, and each drain's seconds."""
    clients = Clients(pair.addresses, prepared)
    drains_s: list[float] = []
    with clients.asking():
        for number in range(times):
            clients.wait((number + 1) * requests // (times + 1))
            pair.start_other()
            drains_s.append(pair.take_over())
        clients.wait(requests)
    ends = dict(clients.ends.most_common())
    found.say(f"{CLIENTS} reconnecting clients, {clients.ended} requests, {times} drains: {ends}")
    found.figures["clients"] = {"requests": clients.ended, "ends": ends, "drains_s": drains_s}
    return sum(count for end, count in ends.items() if end not in _FAIR), drains_s


def with_loader(found: Findings, pair: Pair, prepared: Prepared, window_s: float) -> tuple[int, float]:
    """The same under the compiled loader; returns how many calls were lost, and the drain's seconds."""
    shape = Shape(32, 0, window_s, 0.0, 4)
    pair.start_other()
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(harness.run_loader, pair.target, prepared, shape)
        time.sleep(window_s / 2)
        drain_s = pair.take_over()
        load = running.result()
    found.say(f"loader, {shape.concurrency} calls in flight, {load.counted} calls: {load.codes}, {drain_s:.2f} s")
    found.figures["loader"] = {"load": load, "drain_s": drain_s}
    fair = load.ok + load.codes.get("UNAVAILABLE", 0)
    return load.counted - fair + load.mismatched + load.unfinished, drain_s


def program(found: Findings) -> None:
    """Clients first, then the loader, on the same pair of daemons."""
    prepared = models.prepare(models.GEMM, CACHE)
    requests, times, window_s = (2_000, 2, 4.0) if found.quick else (10_000, 5, 8.0)
    with ExitStack() as stack:
        pair = Pair(prepared, stack)
        lost, drains_s = with_clients(found, pair, prepared, requests, times)
        lost_calls, drain_s = with_loader(found, pair, prepared, window_s)
    found.at_most(f"lost of {found.figures['clients']['requests']} requests by reconnecting clients", float(lost), 0)
    found.at_most(f"lost of {found.figures['loader']['load'].counted} calls by the loader", float(lost_calls), 0)
    found.at_most("SIGTERM to the end of the process, s, the longest", max(*drains_s, drain_s), GRACE_S)


if __name__ == "__main__":
    sys.exit(findings.measured("drain", findings.arguments(__doc__).parse_args(), program))
