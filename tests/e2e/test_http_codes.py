"""The status that HTTP gives to what goes wrong, and its text: the same sentences as over gRPC."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from tests.e2e.daemon import Daemon, until
from tests.e2e.messages import LIMIT_S, good, rpc
from tests.e2e.models import FOREVER
from tests.e2e.web import Page, fetch

Change = Callable[[Any], None]


def body_for(model: str, turns: int = 1) -> dict[str, Any]:
    """A good request, in JSON."""
    if model == "simple":
        given = {"datatype": "INT32", "shape": [1, 16], "data": list(range(16))}
        return {"id": "good", "inputs": [{"name": name, **given} for name in ("INPUT0", "INPUT1")]}
    return {"inputs": [{"name": "turns", "datatype": "INT64", "shape": [1, 1], "data": [turns]}]}


def ask(daemon: Daemon, model: str, body: Any, **headers: str) -> Page:
    """POST an inference request."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return fetch(daemon.http, f"/v2/models/{model}/infer", body, headers=named)


def test_a_good_request(daemon: Daemon) -> None:
    page = ask(daemon, "simple", body_for("simple"))
    assert (page.status, page.json["id"], page.json["model_version"]) == (200, "good", "1")
    assert page.json["outputs"][0] == {
        "name": "OUTPUT0",
        "datatype": "INT32",
        "shape": [1, 16],
        "data": list(range(0, 32, 2)),
    }


@pytest.mark.parametrize(
    ("change", "phrase"),
    [
        (lambda body: body["inputs"].pop(), "missing required input(s) ['INPUT1']"),
        (lambda body: body["inputs"][0].update(name="INPUT1"), "'INPUT1' of model 'simple' is given twice"),
        (lambda body: body["inputs"][0].update(datatype="FP32"), "data-type is 'FP32', but model 'simple' expects"),
        (lambda body: body["inputs"][0].update(shape=[1, 8], data=[0] * 8), "Expected [-1, 16], got [1, 8]"),
        (lambda body: body["inputs"][0].update(data=[0] * 15), "'INPUT0'"),
        (lambda body: body["inputs"][0].update(data=[0.5] * 16), "'INPUT0'"),
        (lambda body: body["inputs"][0].update(data=[2**31] * 16), "'INPUT0'"),
        (lambda body: body["inputs"][0].update(shape=[2, 16], data=[0] * 32), "does not match"),
        (lambda body: body.update(outputs=[{"name": "OUTPUT2"}]), "unexpected inference output 'OUTPUT2'"),
        (lambda body: body.update(parameters={"priority": "high"}), "parameter 'priority' is 'high'"),
    ],
)
def test_400_for_a_wrong_request(daemon: Daemon, change: Change, phrase: str) -> None:
    body = body_for("simple")
    change(body)
    page = ask(daemon, "simple", body)
    assert (page.status, phrase in page.json["error"]) == (400, True), page.text


@pytest.mark.parametrize("body", ["{", "[]", "null", '{"inputs": 1}', b"\xff", '{"inputs": [{}]}'])
def test_400_for_what_is_no_request(daemon: Daemon, body: str | bytes) -> None:
    page = ask(daemon, "simple", body)
    assert (page.status, set(page.json)) == (400, {"error"})


def test_404(daemon: Daemon) -> None:
    page = ask(daemon, "nobody", body_for("simple"))
    assert (page.status, page.json["error"]) == (404, "Request for unknown model: 'nobody' is not found")
    assert ask(daemon, "simple/versions/7", body_for("simple")).status == 404
    assert fetch(daemon.http, "/v2/models/nobody").status == 404
    assert fetch(daemon.http, "/v3").status == 404


def test_405_for_another_verb(daemon: Daemon) -> None:
    assert fetch(daemon.http, "/v2/models/simple/infer").status == 405
    assert fetch(daemon.http, "/v2", "{}").status == 405


def test_413_for_json_beyond_the_limit(daemon: Daemon) -> None:
    assert ask(daemon, "simple", " " * (2**20 + 1)).status == 413


def test_501_for_shared_memory(daemon: Daemon) -> None:
    body = body_for("simple")
    body["inputs"][0]["parameters"] = {"shared_memory_region": "region"}
    page = ask(daemon, "simple", body)
    assert (page.status, "shared memory is not offered" in page.json["error"]) == (501, True)


def test_503_for_a_full_queue(daemon: Daemon, channel: grpc.Channel) -> None:
    message = good("narrow", turns=FOREVER).SerializeToString()
    calls = [rpc(channel, "ModelInfer").future(message, timeout=LIMIT_S) for _ in range(2)]
    until(lambda: daemon.occupancy("narrow") == (1, 1), LIMIT_S, "the queue is not full")
    page = ask(daemon, "narrow", body_for("narrow"))
    for call in calls:
        call.cancel()
    assert (page.status, "Exceeds maximum queue size" in page.json["error"]) == (503, True), page.text


def test_504_for_a_deadline(daemon: Daemon) -> None:
    page = ask(daemon, "spin", body_for("spin", FOREVER), X_Request_Timeout_Ms="100")
    assert (page.status, "deadline exceeded" in page.json["error"]) == (504, True), page.text
    assert ask(daemon, "spin", body_for("spin", 3)).json["outputs"][0]["data"] == [3]


def test_400_for_a_model_that_is_not_ready(daemon: Daemon) -> None:
    assert fetch(daemon.http, "/v2/models/simple/ready").status == 200
    assert fetch(daemon.http, "/v2/models/broken/ready").status == 400


def test_400_and_500_for_loads_that_fail(daemon: Daemon) -> None:
    refused = fetch(daemon.http, "/v2/repository/models/broken/load", "{}")
    assert (refused.status, "load failed for model 'broken'" in refused.text) == (400, True)
    missing = fetch(daemon.http, "/v2/repository/models/nobody/load", "{}")
    assert (missing.status, "failed to load 'nobody'" in missing.text) == (500, True)


def test_403_for_a_page_on_the_web(daemon: Daemon) -> None:
    page = fetch(daemon.http, "/v2", headers={"Origin": "http://example.com"})
    assert page.status == 403


def test_health_and_metrics(daemon: Daemon) -> None:
    assert fetch(daemon.http, "/healthz").status == 200
    assert fetch(daemon.http, "/readyz").json["ready"] is True
    assert fetch(daemon.metrics, "/healthz").status == 200
    assert "nv_inference_count" in fetch(daemon.metrics, "/metrics").text
    assert fetch(daemon.metrics, "/v2").status == 404
