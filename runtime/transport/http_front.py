"""The HTTP side: one application for the protocol, one listener more for metrics, one gate in front of every route.

Rules
- A route that has no role in `access.HTTP_ROLES` is refused; a path without a route is 404 and touches nothing.
- Requests from web pages are refused: a browser would carry them past the loopback listener for any site it shows.
- What is no error of ours is logged here, once, and answered with a fixed text.
- Limits on heads, silence and connections are the listener's (`http_listener.py`), on bodies `http_body.py`'s.
"""

import asyncio
import logging
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass

from aiohttp import web

from runtime.core.errors import AccessDenied, SpillwayError
from runtime.transport.access import Gatekeeper, require_safe_listener
from runtime.transport.http_body import BodyReader
from runtime.transport.http_call import identity_of
from runtime.transport.http_control import HttpControl, Repository
from runtime.transport.http_infer import Engine, HttpInfer
from runtime.transport.http_listener import Listener, RouteHandler
from runtime.transport.http_reply import HttpRefusal, error_reply, json_reply
from runtime.transport.http_settings import HttpSettings
from runtime.transport.http_tls import HttpTls
from runtime.transport.routes import CoroutineHandler
from runtime.transport.status_document import StatusDocument

log = logging.getLogger(__name__)

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SCRAPED = {("GET", "/metrics"), ("GET", "/healthz")}
"""What the metrics listener answers."""


@dataclass(frozen=True, slots=True)
class HttpPorts:
    """Where the two listeners ended up."""

    http: int
    metrics: int


class HttpFront:
    """Serves HTTP from `start` to `stop`. Event loop only; construction opens nothing."""

    def __init__(
        self,
        *,
        engine: Engine,
        rpcs: Mapping[str, CoroutineHandler],
        repository: Repository,
        gatekeeper: Gatekeeper,
        metrics: Callable[[], bytes],
        status: Callable[[], StatusDocument],
        settings: HttpSettings,
        tls: HttpTls | None = None,
    ) -> None:
        """Put the parts together.

        `rpcs` are the handlers of the control plane by full method path; `metrics` makes one scrape, `status` the
        document for `/status`.
        """
        self._settings = settings
        self._mutual_tls = tls is not None and tls.mutual
        self._gatekeeper = gatekeeper
        self._metrics = metrics
        self._status = status
        self._stopping = False
        bodies = BodyReader(settings)
        control = HttpControl(rpcs, repository, bodies, settings)
        infer = HttpInfer(engine, bodies, settings)
        self._http = Listener(settings.host, settings.port, settings, tls)
        self._scraped = Listener(settings.metrics_host, settings.metrics_port, settings)
        self._routes: dict[tuple[str, str], RouteHandler] = {
            **_routes(control, infer),
            ("GET", "/metrics"): self._scrape,
            ("GET", "/status"): self._say_status,
        }

    async def start(self) -> HttpPorts:
        """Open both listeners.

        Raises:
            ConfigError: a host or port cannot be bound, or would be open to strangers; nothing is left open.
        """
        insecure = self._gatekeeper.insecure
        require_safe_listener(self._settings.host, mutual_tls=self._mutual_tls, insecure=insecure)
        require_safe_listener(self._settings.metrics_host, mutual_tls=False, insecure=insecure)
        http = await self._http.start(self.application(self._http))
        try:
            metrics = await self._scraped.start(self.application(self._scraped, only=_SCRAPED))
        except SpillwayError:
            await self._http.stop(0)
            raise
        log.info("http listening", extra={"host": self._settings.host, "port": http, "metrics_port": metrics})
        return HttpPorts(http, metrics)

    async def stop(self, grace_s: float) -> None:
        """Accept no more connections, let requests in flight end within `grace_s`, cut the rest. Idempotent."""
        self._stopping = True
        await asyncio.gather(self._http.stop(grace_s), self._scraped.stop(grace_s))

    def application(self, listener: Listener, only: Container[tuple[str, str]] | None = None) -> web.Application:
        """The application of one listener: all routes, or `only` some, behind the gate."""
        application = web.Application(middlewares=[listener.watch, self._gate])
        for (verb, template), handler in self._routes.items():
            if only is None or (verb, template) in only:
                application.router.add_route(verb, template, handler)
        return application

    @web.middleware
    async def _gate(self, request: web.Request, handler: RouteHandler) -> web.StreamResponse:
        try:
            resource = request.match_info.route.resource
            if resource is not None:  # None: no such route, the handler raises 404 or 405
                _refuse_web_pages(request)
                self._gatekeeper.check((request.method, resource.canonical), identity_of(request))
            response = await handler(request)
        except web.HTTPException as error:
            response = error_reply(HttpRefusal(error.status, f"{error.reason}: {request.method} {request.path[:128]}"))
        except (SpillwayError, HttpRefusal) as error:
            response = error_reply(error)
        except Exception as error:
            log.exception("request failed", extra={"route": str(request.match_info.route.resource)})
            response = error_reply(error)
        if self._stopping and not response.prepared:
            response.force_close()
        return response

    async def _scrape(self, _: web.Request) -> web.StreamResponse:
        return web.Response(body=self._metrics(), headers={"Content-Type": METRICS_TYPE})

    async def _say_status(self, _: web.Request) -> web.StreamResponse:
        return json_reply(self._status())


def _refuse_web_pages(request: web.Request) -> None:
    """Browsers say where a request comes from; no other client sends these headers."""
    if "Origin" in request.headers or request.headers.get("Sec-Fetch-Site", "none") != "none":
        raise AccessDenied("requests from web pages are not accepted")


def _routes(control: HttpControl, infer: HttpInfer) -> dict[tuple[str, str], RouteHandler]:
    """Every route but metrics and status; fixed paths before those with a name in the same place."""
    routes: dict[tuple[str, str], RouteHandler] = {
        ("GET", "/healthz"): control.healthz,
        ("GET", "/readyz"): control.readyz,
        ("GET", "/v2"): control.server_metadata,
        ("GET", "/v2/health/live"): control.live,
        ("GET", "/v2/health/ready"): control.ready,
        ("GET", "/v2/models/stats"): control.all_statistics,
        ("POST", "/v2/repository/index"): control.index,
        ("POST", "/v2/repository/models/{model}/load"): control.load,
        ("POST", "/v2/repository/models/{model}/unload"): control.unload,
    }
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        routes |= {
            ("GET", model): control.model_metadata,
            ("GET", model + "/ready"): control.model_ready,
            ("GET", model + "/config"): control.model_config,
            ("GET", model + "/stats"): control.model_statistics,
            ("POST", model + "/infer"): infer.infer,
        }
    return routes
