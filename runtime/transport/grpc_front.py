"""The gRPC front: grpc.aio on TCP and on a unix socket, with handlers that see bytes.

One table of method paths serves everything, ours, health and reflection alike, and every call passes the gate before
its handler sees it. Takes no decision about models.

Rules
- The hot path makes per RPC the coroutine that grpc.aio awaits and one future, nothing else.
- Nothing is parsed or copied here but the join of an answer's parts.
- Stopping loses nothing: see `GrpcFront.stop`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeAlias

import grpc

from runtime.core.errors import Draining
from runtime.transport.access import Gatekeeper, require_safe_listener
from runtime.transport.call import Identity
from runtime.transport.grpc_call import Context, GrpcCall, GrpcStreamCall, GrpcUnaryCall, Identify, check_size
from runtime.transport.listener import UnixSocket, bind_tcp
from runtime.transport.routes import CallbackHandler, CoroutineHandler, Routes, StreamHandler
from runtime.transport.settings import GrpcSettings
from runtime.transport.tls import identity_of, server_credentials

log = logging.getLogger(__name__)

_UnaryMethod = Callable[[bytes, Context], Coroutine[Any, Any, bytes]]
_StreamMethod = Callable[[object, Context], Coroutine[Any, Any, None]]

_Method: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic for type checkers only

_NOBODY = Identity()
_PAUSES_TO_LEAVE = 4  # in a stop: for callers that have another server
_PAUSES_TO_WAIT = 10  # and at most so many until all have fallen silent; some never do


class GrpcFront:
    """Serves `routes` until stopped. Construct cheap, then `start`; `stop` is idempotent. Event loop only."""

    def __init__(self, routes: Routes, gatekeeper: Gatekeeper, settings: GrpcSettings) -> None:
        self._routes = routes
        self._gate = gatekeeper
        self._settings = settings
        self._identify: Identify = _by_certificate if settings.mutual_tls else _anyone
        self._server: grpc.aio.Server | None = None
        self._socket: UnixSocket | None = None
        self._draining = False
        self._refused = 0
        self._cork: asyncio.Event | None = None
        self._streams: set[GrpcStreamCall] = set()

    async def start(self) -> int:
        """Listen and serve; returns the bound TCP port.

        Raises:
            ConfigError: an address cannot be bound, a certificate cannot be used, or the listener would not be safe.
        """
        settings = self._settings
        require_safe_listener(settings.host, mutual_tls=settings.mutual_tls, insecure=self._gate.insecure)
        credentials = server_credentials(settings)
        server = grpc.aio.server(
            handlers=(_Router(self._methods()),),
            options=_options(settings),
            maximum_concurrent_rpcs=settings.max_concurrent_calls,
        )
        port = bind_tcp(server, settings.host, settings.port, credentials)
        if settings.uds:
            self._socket = UnixSocket(settings.uds)
            self._socket.bind(server)
        await server.start()
        self._server = server
        log.info("grpc listening", extra={"host": settings.host, "port": port, "uds": settings.uds})
        return port

    async def stop(self, grace_s: float) -> None:
        """Refuse new calls with UNAVAILABLE, finish those in flight within `grace_s`, close.

        gRPC resets calls that it has not handed out when it begins to shut down, and their callers see CANCELLED. So
        first callers who have another server are given time to go there when they are refused. Then answers (refusals
        too) are held back until no call has come for a moment: a caller that waits for one sends nothing meanwhile,
        hears of the shutdown first (GOAWAY), and then gets its answer. Only a call that is on its way at that moment,
        from somebody who waits for no answer, can still be reset.
        """
        server, self._server = self._server, None
        if server is None:
            return
        self._draining = True
        pause_s = min(self._settings.drain_settle_s, grace_s)
        await self._silence(pause_s, _PAUSES_TO_LEAVE)
        self._cork = asyncio.Event()
        await self._silence(pause_s, _PAUSES_TO_WAIT)
        stopping = asyncio.ensure_future(server.stop(grace_s))
        # gRPC writes its GOAWAYs in threads of its own, milliseconds later if they are busy. An answer that overtakes
        # one has its caller send the next call to where it is reset (bench/drain.py, C++ client).
        await asyncio.sleep(pause_s)
        self._cork.set()
        for stream in tuple(self._streams):
            stream.stop()
        await stopping
        if self._socket is not None:
            self._socket.remove()

    async def _silence(self, pause_s: float, most: int) -> None:
        """Wait until no call has come for `pause_s`, or `most` times that."""
        for _ in range(most):
            before = self._refused
            await asyncio.sleep(pause_s)
            if self._refused == before:
                return

    def _methods(self) -> dict[str, _Method]:
        routes, unary, stream = self._routes, grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        return {
            **{path: unary(self._callback(path, handler)) for path, handler in routes.callbacks.items()},
            **{path: unary(self._coroutine(path, handler)) for path, handler in routes.coroutines.items()},
            **{path: stream(self._stream(path, handler, endless=False)) for path, handler in routes.streams.items()},
            **{path: stream(self._stream(path, handler, endless=True)) for path, handler in routes.watches.items()},
        }

    def _admit(self, path: str, call: GrpcCall) -> None:
        if self._draining:
            self._refused += 1
            raise Draining
        self._gate.check(path, call.identity)

    def _limit(self, path: str) -> int:
        return self._routes.limits.get(path, self._settings.max_control_bytes)

    def _callback(self, path: str, handler: CallbackHandler) -> _UnaryMethod:
        """The hot path."""
        identify, admit, limit = self._identify, self._admit, self._limit(path)
        new_future = asyncio.get_running_loop().create_future

        async def method(message: bytes, context: Context) -> bytes:
            call = GrpcUnaryCall(context, identify)
            try:
                check_size(message, limit)
                admit(path, call)
                handler(message, call)
            except Exception as error:  # noqa: BLE001 - the top of an RPC; fail() logs what is a bug
                call.fail(error)
            if call.answer is None:
                call.waiter = new_future()
                try:
                    await call.waiter
                except asyncio.CancelledError:
                    call.abandon()
                    raise
            if self._cork is not None:
                await self._cork.wait()
            assert call.answer is not None
            return call.answer

        return method

    def _coroutine(self, path: str, handler: CoroutineHandler) -> _UnaryMethod:
        identify, limit = self._identify, self._limit(path)

        async def method(message: bytes, context: Context) -> bytes:
            call = GrpcCall(context, identify)
            answer = b""
            try:
                check_size(message, limit)
                self._admit(path, call)
                answer = await handler(message, call)
            except Exception as error:  # noqa: BLE001 - the top of an RPC; set_status() logs what is a bug
                call.set_status(error)
            if self._cork is not None:
                await self._cork.wait()
            return answer

        return method

    def _stream(self, path: str, handler: StreamHandler, *, endless: bool) -> _StreamMethod:
        identify, limit = self._identify, self._limit(path)

        async def method(_: object, context: Context) -> None:
            call = GrpcStreamCall(context, identify, limit, endless=endless)
            self._streams.add(call)
            try:
                self._admit(path, call)
                await handler(call)
            except asyncio.CancelledError:
                if not call.cut_by_stop():
                    raise
            except Exception as error:  # noqa: BLE001 - the top of an RPC; set_status() logs what is a bug
                call.set_status(error)
            finally:
                self._streams.discard(call)
            if call.cut:
                call.set_status(Draining())
            if self._cork is not None:
                await self._cork.wait()

        return method


class _Router(grpc.GenericRpcHandler):
    """The one look-up: a path that is not in the table does not exist (UNIMPLEMENTED)."""

    def __init__(self, methods: dict[str, _Method]) -> None:
        self._methods = methods

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "_Method | None":
        return self._methods.get(handler_call_details.method)


def _anyone(_: Context) -> Identity:
    return _NOBODY


def _by_certificate(context: Context) -> Identity:
    # On the unix socket nobody shows certificates, on TCP everybody does. The peer's address is not the caller's word.
    if context.peer().startswith("unix:"):
        return _NOBODY
    return identity_of(context.auth_context())


def _options(settings: GrpcSettings) -> list[tuple[str, int]]:
    """The settings as arguments of gRPC's core."""
    grace_s = settings.connection_age_grace_s
    milliseconds = {
        "grpc.server_handshake_timeout_ms": settings.handshake_timeout_s,
        "grpc.max_connection_age_ms": settings.connection_age_s,
        "grpc.max_connection_idle_ms": settings.connection_idle_s,
        "grpc.keepalive_time_ms": settings.keepalive_s,
        "grpc.keepalive_timeout_ms": settings.keepalive_timeout_s,
        "grpc.http2.min_ping_interval_without_data_ms": settings.min_ping_interval_s,
    }
    return [
        *((key, max(1, round(seconds * 1000))) for key, seconds in milliseconds.items()),
        ("grpc.max_connection_age_grace_ms", round(grace_s * 1000) if grace_s else _FOREVER),
        ("grpc.max_receive_message_length", max(settings.max_message_bytes, settings.max_load_bytes)),
        ("grpc.max_send_message_length", -1),
        # Between the two limits gRPC refuses at random; equal, it refuses what is above.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams_per_connection),
        # Calls that wait to be handed to Python. By default gRPC resets them (CANCELLED, without a word) at random from
        # 1000 on and all from 3000 on; `maximum_concurrent_rpcs` refuses with a status instead.
        ("grpc.server.max_pending_requests", settings.max_concurrent_calls),
        ("grpc.server.max_pending_requests_hard_limit", settings.max_concurrent_calls),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_ping_strikes", settings.max_ping_strikes),
        ("grpc.so_reuseport", 0),  # else a second daemon would share the port without a word
    ]


_FOREVER = 2**31 - 1  # gRPC reads its largest integer as no limit
