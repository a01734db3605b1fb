import asyncio
import gzip
import io
import json
import math
import time
import zlib
from typing import Any

import grpc
import msgspec
import numpy as np
import pytest

from runtime.core import errors
from runtime.core.inference import InferRequest, InferResult, OutputTensor
from runtime.repository.index import ServingIndex
from runtime.serving.engine import Engine
from runtime.transport.http_reply import HTTP_STATUS
from tests.transport.http_harness import App, FakeEngine, as_array, request_json, serving

INFER = "/v2/models/m/infer"
HEADER = "Inference-Header-Content-Length"


def binary_request(array: np.ndarray[Any, Any], **more: Any) -> tuple[bytes, dict[str, str]]:
    """Body and headers of a request whose input `x` and all outputs are binary."""
    head = msgspec.json.encode(
        {
            "inputs": [
                {
                    "name": "x",
                    "shape": list(array.shape),
                    "datatype": "FP32",
                    "parameters": {"binary_data_size": array.nbytes},
                }
            ],
            "parameters": {"binary_data_output": True},
            **more,
        }
    )
    return head + array.tobytes(), {HEADER: str(len(head))}


async def test_json_in_json_out() -> None:
    async with serving() as app:
        status, said = await app.post(INFER, request_json([[1, 2], [3, 4]], [2, 2], id="seven"))
    assert status == 200
    assert said == {
        "id": "seven",
        "model_name": "m",
        "model_version": "1",
        "outputs": [{"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1.0, 2.0, 3.0, 4.0]}],
    }


async def test_version_in_the_path() -> None:
    async with serving() as app:
        _, said = await app.post("/v2/models/m/versions/3/infer", request_json([1], [1]))
    assert said["model_version"] == "3"


@pytest.mark.parametrize("count", [3, 300_000])
async def test_binary_in_binary_out(count: int) -> None:
    array = np.arange(count, dtype="<f4")
    body, headers = binary_request(array)
    async with serving() as app, app.session.post(app.url + INFER, data=io.BytesIO(body), headers=headers) as reply:
        answer = await reply.read()
        split = int(reply.headers[HEADER])
        assert reply.headers["Content-Type"] == "application/octet-stream"
        assert int(reply.headers["Content-Length"]) == len(answer)
    said = json.loads(answer[:split])
    assert said["outputs"][0]["parameters"] == {"binary_data_size": array.nbytes}
    assert answer[split:] == array.tobytes()


async def test_body_may_come_in_pieces() -> None:
    array = np.arange(1000, dtype="<f4")
    body, headers = binary_request(array)

    async def pieces() -> Any:
        for start in range(0, len(body), 700):
            yield body[start : start + 700]
            await asyncio.sleep(0)

    async with serving() as app, app.session.post(app.url + INFER, data=pieces(), headers=headers) as reply:
        assert (await reply.read()).endswith(array.tobytes())


async def test_two_requests_on_one_connection() -> None:
    async with serving() as app:
        for value in (1.0, 2.0):
            _, said = await app.post(INFER, request_json([value], [1]))
            assert said["outputs"][0]["data"] == [value]
        assert app.session.connector is not None
        assert len(app.session.connector._conns) == 1


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidTensor("rows 65 exceeds max_rows 64"), 400),
        (errors.ModelNotFound("m"), 404),
        (errors.VersionNotFound("m", "9"), 404),
        (errors.Unsupported("not here"), 501),
        (errors.DeadlineExpired("in the queue"), 504),
        (errors.Cancelled(), 499),
        (errors.QueueFull("m", 4), 503),
        (errors.QueueTimeout("m"), 503),
        (errors.ModelNotReady("m is loading"), 503),
        (errors.Draining(), 503),
        (errors.ExecutionError("node 7 failed"), 500),
        (errors.AccessDenied("no"), 403),
        (errors.Unauthenticated("who"), 401),
    ],
)
async def test_status_of_an_error_and_its_text(error: errors.SpillwayError, status: int) -> None:
    async with serving(FakeEngine(answer=lambda _: error)) as app:
        assert await app.post(INFER, request_json([1], [1])) == (status, {"error": str(error)})


async def test_the_engine_itself() -> None:
    engine = Engine(ServingIndex())
    async with serving(engine) as app:  # type: ignore[arg-type]
        status, said = await app.post(INFER, request_json([1], [1]))
        assert (status, said) == (404, {"error": "Request for unknown model: 'm' is not found"})
        engine.refuse_new()
        assert (await app.post(INFER, request_json([1], [1])))[0] == 503


@pytest.mark.parametrize(("hint_s", "told"), [(0.0, "1"), (0.2, "1"), (2.5, "3"), (math.inf, "3600")])
async def test_overload_says_when_to_come_back(hint_s: float, told: str) -> None:
    busy = errors.Overloaded("busy", retry_after_s=hint_s)
    async with (
        serving(FakeEngine(answer=lambda _: busy)) as app,
        app.session.post(app.url + INFER, json=request_json([1], [1])) as reply,
    ):
        assert (reply.status, reply.headers["Retry-After"]) == (429, told)


def test_every_code_has_a_status() -> None:
    assert set(HTTP_STATUS) == set(grpc.StatusCode)


async def test_the_text_of_a_bug_stays_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(FakeEngine(answer=lambda _: KeyError("secret path"))) as app:
        assert await app.post(INFER, request_json([1], [1])) == (500, {"error": "internal error"})
    assert "secret path" in caplog.text


@pytest.mark.parametrize("name", ["..", ".hidden", "a%2fb", "a%00b", "a%20b", "%c3%a4", "a" * 129])
async def test_names_that_no_model_can_have(name: str) -> None:
    async with serving() as app:
        status, said = await app.post(f"/v2/models/{name}/infer", request_json([1], [1]))
    assert status in (400, 404)  # 404: the path did not even stay on the route
    assert "error" in said
    assert app.engine.seen == []


@pytest.mark.parametrize("version", ["x", "0", "-1", "1.0", "9" * 40])
async def test_versions_that_are_no_number(version: str) -> None:
    async with serving() as app:
        status, said = await app.post(f"/v2/models/m/versions/{version}/infer", request_json([1], [1]))
    assert (status, app.engine.seen) == (400, [])
    assert "version" in said["error"]


async def test_deadline_counts_from_the_head() -> None:
    before = time.monotonic()
    async with serving() as app:
        await app.post(INFER, request_json([1], [1]), headers={"X-Request-Timeout-Ms": "1500"})
        await app.post(INFER, request_json([1], [1]))
    after = time.monotonic()
    assert before + 1.5 <= app.engine.seen[0].deadline <= after + 1.5
    assert app.engine.seen[1].deadline == math.inf


@pytest.mark.parametrize("text", ["0", "-5", "soon", "1.5", "86400001", "\u0663", "9" * 30])
async def test_timeouts_that_are_none(text: str) -> None:
    async with serving() as app:
        status, said = await app.post(INFER, request_json([1], [1]), headers={"X-Request-Timeout-Ms": text})
    assert status == 400
    assert "X-Request-Timeout-Ms" in said["error"]


async def test_client_that_goes_away_cancels_its_request() -> None:
    engine = FakeEngine(hold=asyncio.Event())
    async with serving(engine) as app:
        asking = asyncio.create_task(app.post(INFER, request_json([1], [1])))
        await engine.arrived.wait()
        asking.cancel()
        await asyncio.wait_for(engine.cancelled.wait(), 5)
    assert engine.seen[0].cancelled


# --- limits


@pytest.mark.parametrize("chunked", [False, True])
async def test_json_limit(chunked: bool) -> None:
    body = msgspec.json.encode(request_json([0] * 500, [500]))

    async def pieces() -> Any:
        yield body

    async with serving(max_json_bytes=len(body) - 1) as app:
        status, said = await app.ask("POST", INFER, data=pieces() if chunked else body)
        assert status == 413
        assert f"exceeds the limit of {len(body) - 1}" in said["error"]
    async with serving(max_json_bytes=len(body)) as app:
        assert (await app.ask("POST", INFER, data=pieces() if chunked else body))[0] == 200


async def test_binary_limit_and_the_limit_of_its_json() -> None:
    body, headers = binary_request(np.zeros(1000, "<f4"))
    async with serving(max_body_bytes=len(body) - 1, max_json_bytes=1000) as app:
        assert (await app.post(INFER, body, headers=headers))[0] == 413
    async with serving(max_body_bytes=len(body), max_json_bytes=1000) as app:
        assert (await app.ask("POST", INFER, data=body, headers=headers))[0] == 200
    async with serving(max_json_bytes=int(headers[HEADER]) - 1) as app:
        status, said = await app.post(INFER, body, headers=headers)
        assert status == 413
        assert said["error"].startswith("JSON of")


async def test_bodies_together_have_a_limit() -> None:
    body, headers = binary_request(np.zeros(1000, "<f4"))
    engine = FakeEngine(hold=asyncio.Event())
    async with serving(engine, max_body_bytes=5000, max_held_bytes=6000) as app:
        first = asyncio.create_task(app.ask("POST", INFER, data=body, headers=headers))
        await engine.arrived.wait()
        status, said = await app.post(INFER, body, headers=headers)
        assert status == 429
        assert "of 6000 bytes" in said["error"]
        assert engine.hold is not None
        engine.hold.set()
        assert (await first)[0] == 200
        assert (await app.ask("POST", INFER, data=body, headers=headers))[0] == 200  # the first one gave its bytes back


@pytest.mark.parametrize("length", ["-1", "x", "1e3", "99999", "9" * 40, ""])
async def test_header_lengths_that_are_none(length: str) -> None:
    body, _ = binary_request(np.zeros(4, "<f4"))
    async with serving() as app:
        status, said = await app.post(INFER, body, headers={HEADER: length})
    assert status == 400
    assert HEADER in said["error"]


async def test_header_length_that_cuts_the_json() -> None:
    body, headers = binary_request(np.zeros(4, "<f4"))
    async with serving() as app:
        status, said = await app.post(INFER, body, headers={HEADER: str(int(headers[HEADER]) - 1)})
    assert status == 400
    assert "failed to parse" in said["error"]


async def test_json_answers_have_a_limit() -> None:
    async with serving(max_json_elements=4) as app:
        assert (await app.post(INFER, request_json([1] * 4, [4])))[0] == 200
        status, said = await app.post(INFER, request_json([1] * 5, [5]))
    assert status == 400
    assert "ask for it with the parameter 'binary_data' true" in said["error"]


# --- compression


def deflated(data: bytes, coding: str) -> bytes:
    return gzip.compress(data) if coding == "gzip" else zlib.compress(data)


def inflated(data: bytes, coding: str) -> bytes:
    return gzip.decompress(data) if coding == "gzip" else zlib.decompress(data)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_compressed_both_ways(coding: str) -> None:
    array = np.zeros(100_000, "<f4")
    body, headers = binary_request(array)
    headers |= {"Content-Encoding": coding, "Accept-Encoding": coding}
    async with serving() as app:
        async with app.session.post(app.url + INFER, data=deflated(body, coding), headers=headers) as reply:
            packed = await reply.read()
            assert reply.headers["Content-Encoding"] == coding
            assert len(packed) < 4000
        assert inflated(packed, coding)[int(reply.headers[HEADER]) :] == array.tobytes()


@pytest.mark.parametrize("accepted", ["gzip, deflate", "br", "identity", "gzip;q=0"])
async def test_a_list_of_codings_is_no_wish(accepted: str) -> None:
    body, headers = binary_request(np.zeros(1000, "<f4"))
    headers |= {"Accept-Encoding": accepted}
    async with serving() as app, app.session.post(app.url + INFER, data=body, headers=headers) as reply:
        assert "Content-Encoding" not in reply.headers


@pytest.mark.parametrize(
    ("body", "coding", "status", "phrase"),
    [
        (gzip.compress(bytes(5001), mtime=0), "gzip", 413, "after decompression"),
        (zlib.compress(bytes(4_000_000)), "deflate", 413, "after decompression"),
        (gzip.compress(b"{}", mtime=0)[:-4], "gzip", 400, "ends inside"),
        (gzip.compress(b"{}", mtime=0) + b"more", "gzip", 400, "4 bytes follow"),
        (b"plain", "gzip", 400, "not valid gzip"),
        (b"", "gzip", 400, "ends inside"),
        (b"{}", "br", 415, "'br' is not supported"),
        (b"{}", "gzip, gzip", 415, "not supported"),
    ],
)
async def test_compressed_bodies_that_are_refused(body: bytes, coding: str, status: int, phrase: str) -> None:
    async with serving(max_json_bytes=5000, max_body_bytes=20_000) as app:
        got, said = await app.ask("POST", INFER, data=body, headers={"Content-Encoding": coding})
    assert got == status
    assert phrase in said["error"]
    assert app.engine.seen == []


async def test_nothing_stays_held() -> None:
    good, headers = binary_request(np.zeros(1000, "<f4"))
    async with serving(max_body_bytes=10_000) as app:
        for body, more in ((good, {}), (good[:-1], {}), (gzip.compress(good), {"Content-Encoding": "gzip"})):
            await app.ask("POST", INFER, data=body, headers=headers | more)
        await app.post(INFER, b"{", headers={"Content-Encoding": "gzip"})
        assert held_bytes(app) == 0


def held_bytes(app: App) -> int:
    infer: Any = app.front._routes[("POST", "/v2/models/{model}/infer")]
    return int(infer.__self__._bodies.held_bytes)


# --- what comes back


async def test_nan_has_no_json() -> None:
    def nan(request: InferRequest) -> InferResult:
        array = np.full(1, np.nan, "<f4")
        return InferResult(request.head.model_name, "1", [OutputTensor("y", "FP32", array)])

    async with serving(FakeEngine(answer=nan)) as app:
        status, said = await app.post(INFER, request_json([1], [1]))
    assert status == 400
    assert "NaN or Infinity" in said["error"]


async def test_strings_both_ways() -> None:
    async with serving() as app:
        _, said = await app.post(INFER, request_json(["a", "\u00e4\u0000"], [2], "BYTES"))
        assert said["outputs"][0]["data"] == ["a", "\u00e4\u0000"]
        assert as_array(app.engine.seen[0], 0).tolist() == ["a", "\u00e4\u0000"]


async def test_a_large_answer_that_nobody_takes_ends_the_connection() -> None:
    body, headers = binary_request(np.zeros(4_000_000, "<f4"))
    async with serving(write_timeout_s=0.05) as app:
        reader, writer = await asyncio.open_connection("127.0.0.1", app.port, limit=1)
        try:
            head = f"POST {INFER} HTTP/1.1\r\nHost: x\r\n{HEADER}: {headers[HEADER]}\r\n"
            writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
            await writer.drain()
            await asyncio.wait_for(app.engine.arrived.wait(), 5)
            await asyncio.wait_for(app.front._http._idle.wait(), 5)  # the handler gave up
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await reader.readexactly(16_000_000)
        finally:
            writer.close()
