"""The client for asyncio over the network."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest

from runtime.client import AsyncClient, Request
from runtime.core import errors
from runtime.core.errors import SpillwayError
from runtime.core.tensor import Array
from tests.client.server import ERRORS, Server, serving

X = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.fixture
async def client(server: Server) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(server.address) as opened:
        yield opened


async def test_arrays_there_and_back(client: AsyncClient) -> None:
    answer = await client.infer(
        "echo",
        {"x": X, "y": X},
        ["y"],
        version="1",
        request_id="seven",
        priority=2,
        timeout_us=500,
        parameters={"n": -1},
        classification={"x": 3},
    )
    assert list(answer.outputs) == ["y", "x"]
    np.testing.assert_array_equal(answer["y"], X)
    assert answer.parameters == {"n": -1, "id": "seven", "priority": 2, "timeout": 500, "top x": 3}


async def test_many_at_once(client: AsyncClient) -> None:
    answers = await asyncio.gather(*(client.infer("echo", {"x": X + n}) for n in range(50)))
    for n, answer in enumerate(answers):
        np.testing.assert_array_equal(answer["x"], X + n)


@pytest.mark.parametrize("model", ERRORS)
async def test_errors_are_ours(client: AsyncClient, model: str) -> None:
    expected = ERRORS[model]
    with pytest.raises(SpillwayError) as caught:
        await client.infer(model, {"x": X})
    assert str(caught.value) == (str(expected) if isinstance(expected, SpillwayError) else "internal error")


async def test_deadline(client: AsyncClient, server: Server) -> None:
    with pytest.raises(errors.DeadlineExpired):
        await client.infer("stuck", {"x": X}, deadline_s=0.05)
    assert await asyncio.to_thread(server.gone.wait, 5)


async def test_cancelling_a_task_reaches_the_server(client: AsyncClient, server: Server) -> None:
    asking = asyncio.create_task(client.infer("stuck", {"x": X}))
    assert await asyncio.to_thread(server.stuck.wait, 5)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert await asyncio.to_thread(server.gone.wait, 5)


async def test_nobody_there(tmp_path: Path) -> None:
    async with AsyncClient(f"unix:{tmp_path}/none") as client:
        with pytest.raises(errors.CapacityError):
            await client.infer("echo", {"x": X})


async def test_unix_socket(tmp_path: Path) -> None:
    with serving(f"unix:{tmp_path}/s") as server:
        async with AsyncClient(server.address) as client:
            np.testing.assert_array_equal((await client.infer("echo", {"x": X}))["x"], X)


async def test_stream(client: AsyncClient) -> None:
    models = ["echo", "invalid", "echo", "nowhere"]

    async def requests() -> AsyncIterator[Request]:
        for n, model in enumerate(models):
            yield Request(model, {"x": X + n}, request_id=str(n))

    replies = [reply async for reply in client.stream(requests())]
    assert [reply.request_id for reply in replies] == ["0", "1", "2", "3"]
    np.testing.assert_array_equal(replies[2].result()["x"], X + 2)
    for reply, kind in ((replies[1], errors.InvalidRequest), (replies[3], errors.ModelNotFound)):
        with pytest.raises(kind):
            reply.result()


async def test_a_stream_as_a_conversation(client: AsyncClient) -> None:
    """Each request is sent only when the answer before it is there."""
    ahead: asyncio.Queue[Request | None] = asyncio.Queue()

    async def requests() -> AsyncIterator[Request]:
        while (request := await ahead.get()) is not None:
            yield request

    value: Array = X
    ahead.put_nowait(Request("echo", {"x": value}))
    async for reply in client.stream(requests()):
        value = reply.result()["x"].astype(np.float32) + 1
        ahead.put_nowait(Request("echo", {"x": value}) if value[0, 0] < 3 else None)
    np.testing.assert_array_equal(value, X + 3)


async def test_leaving_a_stream_ends_it(client: AsyncClient) -> None:
    sent = 0

    def requests() -> Iterator[Request]:
        nonlocal sent
        while True:
            sent += 1
            yield Request("echo", {"x": X}, request_id=str(sent))

    async with aclosing(client.stream(requests())) as stream:
        async for reply in stream:
            assert reply.request_id == "1"
            break
    before = sent
    await client.infer("echo", {"x": X})  # the loop has turned meanwhile
    assert sent <= before + 1


async def test_a_stream_that_breaks(client: AsyncClient) -> None:
    with pytest.raises(errors.CapacityError, match="is stopping"):
        _ = [reply async for reply in client.stream([Request("broken stream", {"x": X})])]


async def test_what_the_requests_raise_is_raised(client: AsyncClient) -> None:
    async def requests() -> AsyncIterator[Request]:
        yield Request("echo", {"x": X}, request_id="0")
        raise ValueError("the source is empty")

    stream = client.stream(requests())
    assert (await anext(stream)).request_id == "0"
    with pytest.raises(ValueError, match="the source is empty"):
        await anext(stream)


async def test_control_calls(client: AsyncClient, server: Server) -> None:
    assert await client.live()
    assert await client.ready()
    assert await client.model_ready("digits")
    assert not await client.model_ready("digits", "2")
    assert (await client.server_metadata()).name == "spillway"
    assert (await client.model_metadata("digits")).inputs[0].name == "image"
    assert (await client.model_config("digits", "1")).max_batch_size == 8
    assert (await client.statistics("digits"))[0].inference_count == 7
    assert [(each.name, each.state) for each in await client.index()] == [("digits", "READY")]
    await client.load("digits", config="{}", files={"1/model.onnx": b"bytes"})
    await client.unload("digits")
    load, unload = server.asked[-2:]
    assert load.parameters["config"].string_param == "{}"
    assert load.parameters["file:1/model.onnx"].bytes_param == b"bytes"
    assert unload.model_name == "digits"
    with pytest.raises(errors.ModelNotFound):
        await client.model_metadata("nowhere")


async def test_close_ends_calls_under_way(server: Server) -> None:
    client = AsyncClient(server.address)
    asking = asyncio.create_task(client.infer("stuck", {"x": X}))
    assert await asyncio.to_thread(server.stuck.wait, 5)
    await client.close()
    await client.close()
    with pytest.raises(asyncio.CancelledError):
        await asking
