"""The daemon: builds every object from Config, in plain sight; start order, stop order, signals.

Start: listeners open, then models load; ready when every model that was asked for answers.
Stop (SIGTERM, SIGINT): readiness off, new calls refused, what is in flight finishes within `drain_s`, models unload.
A second signal stops at once.
"""

import asyncio
import json
import logging
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

from runtime import __version__, process
from runtime.config import Config
from runtime.core.errors import ConfigError
from runtime.repository.gate import Gate
from runtime.repository.manager import ModelManager
from runtime.repository.trial_process import TrialProcess
from runtime.repository.verdicts import VerdictCache
from runtime.serving.engine import Engine
from runtime.serving.loader import SessionLoader
from runtime.transport.access import Gatekeeper
from runtime.transport.control import ControlHandlers
from runtime.transport.grpc_front import GrpcFront
from runtime.transport.health import HealthHandlers
from runtime.transport.http_front import HttpFront
from runtime.transport.http_tls import HttpTls
from runtime.transport.inference import InferenceHandlers
from runtime.transport.loop_lag import LoopLag
from runtime.transport.metrics import Metrics
from runtime.transport.services import grpc_routes
from runtime.transport.status import status_document
from runtime.transport.status_document import StatusDocument
from runtime.wire.convert import RequestDecoder, ResponseEncoder

log = logging.getLogger(__name__)

TRIAL = (sys.executable, "-m", "runtime.serving.trial")


class Daemon:
    """All parts of one node. `start` once, `stop` once; event loop only."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._begun = time.monotonic()
        self._stopping = False
        self.manager = ModelManager(config.repository, make_gate(config), SessionLoader(config.serving))
        self.engine = Engine(self.manager)
        self._lag = LoopLag()
        control = ControlHandlers(self.manager, self.is_ready, __version__)
        inference = InferenceHandlers(
            self.engine,
            RequestDecoder(),
            ResponseEncoder(),
            max_in_flight_per_stream=config.grpc.max_in_flight_per_stream,
        )
        routes = grpc_routes(inference, control, HealthHandlers(self.manager, self.is_ready), config.grpc)
        gatekeeper = Gatekeeper(config.access)
        self._grpc = GrpcFront(routes, gatekeeper, config.grpc)
        self._http = HttpFront(
            engine=self.engine,
            rpcs=control.routes(),
            repository=self.manager,
            gatekeeper=gatekeeper,
            status=self.status,
            metrics=Metrics(self.manager, self._lag, {"version": __version__}).scrape,
            settings=config.http,
            tls=HttpTls(config.grpc) if config.http.tls else None,
        )

    def is_ready(self) -> bool:
        """True while requests are welcome and every model that was asked for answers."""
        return not self._stopping and self.manager.all_ready()

    def status(self) -> StatusDocument:
        """Everything that an operator asks about this node, as of now."""
        return status_document(
            self.manager,
            version=__version__,
            uptime_s=time.monotonic() - self._begun,
            ready=self.is_ready(),
            draining=self._stopping,
            thread_budget=self._config.serving.thread_budget,
        )

    async def start(self) -> dict[str, str]:
        """Open the listeners, load the models; returns the bound addresses by listener.

        Raises:
            ConfigError: an address, a certificate or a repository cannot be used.
        """
        config = self._config
        if not config.repository.directories:
            raise ConfigError("no model repository: give --model-repository DIR or repository.directories")
        _make_private(Path(config.repository.state_dir))
        self._lag.start()
        grpc_port = await self._grpc.start()
        ports = await self._http.start()
        await self.manager.start(config.daemon.load or None)
        return {
            "grpc": f"{config.grpc.host}:{grpc_port}",
            "http": f"{config.http.host}:{ports.http}",
            "metrics": f"{config.http.metrics_host}:{ports.metrics}",
            "uds": config.grpc.uds,
        }

    async def stop(self) -> None:
        """Drain and close, within the configured time."""
        self._stopping = True
        grace_s = self._config.daemon.drain_s
        await asyncio.gather(self._grpc.stop(grace_s), self._http.stop(grace_s))
        self.engine.refuse_new()
        await self.manager.stop()
        self._lag.stop()


def make_gate(config: Config) -> Gate:
    """The gate for model bytes, with its trial child and its cache of verdicts."""
    settings = config.repository
    trial = TrialProcess(TRIAL, settings.trial_memory_bytes, settings.trial_timeout_s)
    cache = VerdictCache(Path(settings.state_dir) / "verdicts", settings.max_cached_verdicts)
    return Gate(trial, cache, settings, config.serving.providers, config.serving.thread_budget)


def _make_private(folder: Path) -> None:
    """Make the state folder, for its owner only. Where it cannot be made, those who need it say so."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        log.warning("no state folder", extra={"path": str(folder), "reason": error.strerror})


async def serve(config: Config) -> int:
    """Run a daemon until a signal ends it; returns the exit status."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _stop_or_exit, stop, number)
    begun = time.perf_counter()
    daemon = Daemon(config)
    starting = asyncio.ensure_future(daemon.start())
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if starting.done():
            _announce(config, starting.result(), daemon, time.perf_counter() - begun)
            watchdog = asyncio.ensure_future(_feed_watchdog())
            await stopped
            watchdog.cancel()
    finally:
        stopped.cancel()
        process.notify("STOPPING=1")
        log.info("draining", extra={"limit_s": config.daemon.drain_s})
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
        await daemon.stop()
        log.info("stopped")
    return 0


def _stop_or_exit(stop: asyncio.Event, number: signal.Signals) -> None:
    if stop.is_set():
        log.warning("second signal, stopping at once", extra={"signal": number.name})
        os._exit(1)
    stop.set()


def _announce(config: Config, addresses: dict[str, str], daemon: Daemon, start_s: float) -> None:
    """Say that the start is over: to the log, to systemd, and in the file that a program waits for."""
    ready = daemon.is_ready()
    log.info("ready" if ready else "started, not ready", extra={**addresses, "start_s": round(start_s, 3)})
    process.notify("READY=1", f"STATUS={len(daemon.manager.served())} model versions served on {addresses['grpc']}")
    if config.daemon.announce:
        path = Path(config.daemon.announce)
        half = path.with_name(path.name + ".tmp")
        half.write_text(json.dumps({**addresses, "pid": os.getpid(), "ready": ready}))
        half.replace(path)


async def _feed_watchdog() -> None:
    """Tell systemd that the event loop turns, as often as it asks."""
    interval_s = process.watchdog_interval_s()
    while interval_s:
        process.notify("WATCHDOG=1")
        await asyncio.sleep(interval_s)
