import pytest

from runtime.core.errors import AccessDenied
from runtime.transport.access import HTTP_ROLES, Gatekeeper
from runtime.transport.call import Identity
from runtime.transport.http_front import HttpFront
from runtime.transport.http_settings import HttpSettings
from runtime.transport.settings import AccessSettings
from tests.transport.http_harness import NO_STATUS, FakeControl, FakeEngine, FakeRepository, request_json, serving


def routes_of(front: HttpFront) -> set[tuple[str, str]]:
    """Every (verb, template) that the router of the application answers."""
    application = front.application(front._http)
    return {
        (route.method, route.resource.canonical) for route in application.router.routes() if route.resource is not None
    }


def front() -> HttpFront:
    return HttpFront(
        engine=FakeEngine(),
        rpcs=FakeControl().rpcs(),
        repository=FakeRepository(),
        gatekeeper=Gatekeeper(AccessSettings()),
        metrics=lambda: b"",
        status=lambda: NO_STATUS,
        settings=HttpSettings(),
    )


async def test_every_route_has_a_role_and_every_role_a_route() -> None:
    assert routes_of(front()) == set(HTTP_ROLES)


async def test_metrics_listener_answers_metrics_and_nothing_that_changes() -> None:
    served = front()
    application = served.application(served._scraped, only={("GET", "/metrics"), ("GET", "/healthz")})
    assert {(r.method, r.resource.canonical) for r in application.router.routes() if r.resource} == {
        ("GET", "/metrics"),
        ("GET", "/healthz"),
    }


def test_a_route_without_role_is_denied() -> None:
    with pytest.raises(AccessDenied):
        Gatekeeper(AccessSettings()).check(("GET", "/v2/new"), Identity())


async def test_the_gate_stands_before_every_handler() -> None:
    nobody = AccessSettings(local_roles=())
    async with serving(access=nobody) as app:
        for (verb, template), role in HTTP_ROLES.items():
            path = template.format(model="m", version="1")
            status, _ = await app.ask(verb, path, data=b"{}" if verb == "POST" else None)
            assert (status == 401) == (role != "public"), template
        assert app.engine.seen == []
        assert len(app.control.asked) == 4  # readyz, /v2 and its two health paths


async def test_infer_does_not_operate() -> None:
    async with serving(access=AccessSettings(local_roles=("infer",))) as app:
        assert (await app.post("/v2/models/m/infer", request_json([1], [1])))[0] == 200
        assert (await app.post("/v2/repository/models/m/load"))[0] == 401


@pytest.mark.parametrize(
    ("verb", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v2/", 404),
        ("GET", "/v1/models", 404),
        ("GET", "/V2", 404),
        ("POST", "/v2/models/m/infer/", 404),
        ("POST", "//v2/models/m/infer", 404),
        ("POST", "/v2/models/m%2f..%2fx/infer", 400),
        ("POST", "/v2/repository/models/%2e%2e/load", 404),
        ("GET", "/v2/models/m/infer", 405),
        ("POST", "/v2", 405),
        ("PUT", "/v2/models/m/infer", 405),
        ("HEAD", "/v2", 405),
        ("OPTIONS", "/v2/models/m/infer", 405),
        ("DELETE", "/v2/repository/models/m/load", 405),
    ],
)
async def test_paths_without_a_route_touch_nothing(verb: str, path: str, status: int) -> None:
    async with serving() as app:
        got, said = await app.ask(verb, path, data=b"{}" if verb == "POST" else None)
        assert got == status
        assert said is None if verb == "HEAD" else "error" in said
        assert (app.engine.seen, app.control.asked) == ([], [])


@pytest.mark.parametrize(
    "headers",
    [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}],
)
async def test_web_pages_are_refused(headers: dict[str, str]) -> None:
    async with serving() as app:
        status, said = await app.post("/v2/repository/models/m/load", headers=headers)
        assert (status, app.control.asked) == (403, [])
        assert "web pages" in said["error"]
        assert (await app.get("/healthz", headers=headers))[0] == 403


async def test_a_person_may_look_with_a_browser() -> None:
    async with serving() as app:
        assert (await app.get("/healthz", headers={"Sec-Fetch-Site": "none"}))[0] == 200


async def test_errors_of_unknown_routes_do_not_echo_without_end() -> None:
    async with serving() as app:
        _, said = await app.get("/" + "a" * 5000)
    assert len(said["error"]) < 200
