"""One listening socket for an aiohttp application, with limits on what a stranger can do before a request exists.

Rules
- A connection that has not sent a request head within `head_timeout_s` is closed, also one that sends a byte a second.
- Beyond `max_connections` new ones are closed at once.
- Bodies reach the handlers as they came: decompression has its own limits (`http_body.py`).
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.http import HttpProcessingError

from runtime.core.errors import ConfigError
from runtime.transport.http_settings import HttpSettings
from runtime.transport.http_tls import HttpTls

MAX_HEADERS = 64
MAX_HEADER_BYTES = 8190
_LINGER_S = 2.0
"""How long what a refused client still sends is read, so that it gets to see the answer."""
_READ_BYTES = 1 << 14
"""Body bytes (and a sixteenth as many chunks) that are parsed before the handler has its turn, so that a body of
one-byte chunks holds the event loop for milliseconds only (Triton's CVE-2025-23310 was such a body)."""
_CLOSE_S = 0.25
"""After the grace: how long handlers that were cut have to end."""

RouteHandler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)
protocol_log = logging.getLogger(f"{__name__}.protocol")


class _NoMalformed(logging.Filter):
    """Leaves out malformed requests: they are answered with 400, and anybody could fill the log with them."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError))


protocol_log.addFilter(_NoMalformed())


class _Refusal(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


class Listener:
    """Accepts connections for an application between `start` and `stop`. The application must use `watch`."""

    def __init__(self, host: str, port: int, settings: HttpSettings, tls: HttpTls | None = None) -> None:
        self._address = (host.strip("[]"), port)
        self._settings = settings
        self._tls = tls
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None
        self._silent: dict[web.RequestHandler, float] = {}
        """Connections that have not sent a request yet, and since when (loop time)."""
        self._sweep_timer: asyncio.TimerHandle | None = None
        self._active = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def start(self, application: web.Application) -> int:
        """Bind and accept; return the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        self._runner = web.AppRunner(
            application,
            access_log=None,
            handler_cancellation=True,
            auto_decompress=False,
            logger=protocol_log,
            keepalive_timeout=self._settings.idle_timeout_s,
            lingering_time=_LINGER_S,
            read_bufsize=_READ_BYTES,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
            max_headers=MAX_HEADERS,
            shutdown_timeout=_CLOSE_S,
        )
        await self._runner.setup()
        host, port = self._address
        try:
            self._server = await asyncio.get_running_loop().create_server(
                self._factory(self._runner),
                host,
                port,
                backlog=self._settings.max_connections,
                ssl=self._tls.context if self._tls else None,
                ssl_handshake_timeout=self._settings.head_timeout_s if self._tls else None,
            )
        except OSError as error:
            await self._runner.cleanup()
            reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
            raise ConfigError(f"cannot listen for HTTP on {host}:{port}: {reason}") from error
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def stop(self, grace_s: float) -> None:
        """Close the socket, wait up to `grace_s` for requests in flight, then cut what is left. Idempotent."""
        server, self._server = self._server, None
        runner, self._runner = self._runner, None
        if server is not None:
            server.close()
        if runner is None:
            return
        if self._sweep_timer is not None:
            self._sweep_timer.cancel()
        try:
            async with asyncio.timeout(grace_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("requests cut at stop", extra={"requests": self._active})
        await runner.cleanup()
        await asyncio.sleep(0)  # closed transports give back their sockets in the loop's next turn

    def _factory(self, runner: web.AppRunner) -> Callable[[], asyncio.Protocol]:
        http = runner.server
        assert http is not None  # `setup` made it
        loop = asyncio.get_running_loop()

        def connect() -> asyncio.Protocol:
            if len(http.connections) >= self._settings.max_connections:
                return _Refusal()
            if self._tls is not None:
                self._tls.refresh()
            connection = http()
            self._silent[connection] = loop.time()
            self._schedule_sweep(loop)
            return connection

        return connect

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        """Close connections that are silent for too long, forget those that ended."""
        latest = loop.time() - self._settings.head_timeout_s
        for connection, since in list(self._silent.items()):
            if since <= latest:
                connection.force_close()
            if since <= latest or (not connection.connected and self._tls is None):
                del self._silent[connection]
        self._sweep_timer = None
        if self._silent:
            self._schedule_sweep(loop)

    def _schedule_sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._sweep_timer is None:
            self._sweep_timer = loop.call_later(self._settings.head_timeout_s / 8, self._sweep, loop)

    @web.middleware
    async def watch(self, request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        """Know that the connection spoke, and that a request is in flight."""
        self._silent.pop(request.protocol, None)
        self._active += 1
        self._idle.clear()
        try:
            return await handler(request)
        finally:
            self._active -= 1
            if not self._active:
                self._idle.set()
