"""Models are loaded, replaced and unloaded while clients ask them: nothing fails, and no answer is a mixture."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from runtime.client import AsyncClient, Client
from runtime.core.errors import CapacityError, ExecutionError, InvalidRequest, ModelNotFound
from tests.e2e import models
from tests.e2e.daemon import Daemon, running
from tests.e2e.traffic import Traffic

ROUNDS = 3
ONES = np.ones((1, 2), np.float32)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that these tests change."""
    return tmp_path_factory.mktemp("changing")


@pytest.fixture(scope="module")
def changing(place: Path, folder: Path) -> Iterator[Daemon]:
    """Serves what is in `place`, once it is asked to."""
    with running(place, folder / "changing", "--model-control-mode", "explicit") as daemon:
        yield daemon
        assert daemon.stop() == 0, daemon.log


def put(place: Path, model: str, version: int, factor: float) -> None:
    """Publish a version as a careful operator does: complete before it has its name."""
    path = place / model / str(version) / "model.onnx"
    half = path.with_suffix(".half")
    path.parent.mkdir(parents=True, exist_ok=True)
    half.write_bytes(models.times(factor).SerializeToString())
    half.replace(path)


async def test_a_version_is_replaced_under_traffic(place: Path, changing: Daemon) -> None:
    put(place, "replaced", 1, 1)
    async with AsyncClient(changing.grpc) as operator:
        await operator.load("replaced")
        async with Traffic([changing.grpc], "replaced") as traffic:
            for factor in range(2, 2 + ROUNDS):
                await traffic.more(30)
                put(place, "replaced", 1, factor)
                await operator.load("replaced")
                traffic.least = factor
            await traffic.more(30)
    assert (traffic.failures, traffic.refusals) == ([], 0)
    assert set(traffic.factors) == set(range(1, 2 + ROUNDS))


async def test_a_higher_version_takes_over_under_traffic(place: Path, changing: Daemon) -> None:
    async with AsyncClient(changing.grpc) as operator:
        put(place, "rising", 1, 1)
        await operator.load("rising")
        async with Traffic([changing.grpc], "rising") as traffic:
            for version in range(2, 2 + ROUNDS):
                await traffic.more(30)
                put(place, "rising", version, version)
                await operator.load("rising")
                traffic.least = version
            await traffic.more(30)
        served = [entry.version for entry in await operator.index(ready_only=True) if entry.name == "rising"]
    assert (traffic.failures, traffic.refusals) == ([], 0)
    assert served == [str(1 + ROUNDS)]


async def test_overrides_replace_files_under_traffic(place: Path, changing: Daemon) -> None:
    put(place, "overridden", 1, 1)
    async with AsyncClient(changing.grpc) as operator:
        await operator.load("overridden")
        async with Traffic([changing.grpc], "overridden") as traffic:
            for factor in (2, 3):
                await traffic.more(30)
                content = models.times(factor).SerializeToString()
                await operator.load("overridden", config='{"max_batch_size": "16"}', files={"7/model.onnx": content})
                traffic.least = factor
            await traffic.more(30)
            config = await operator.model_config("overridden")
            answer = await operator.infer("overridden", {"x": ONES})
        assert (config.max_batch_size, answer.model_version, answer["y"].tolist()) == (16, "7", [[3, 3]])
        await operator.load("overridden")  # back to what is on disk
        answer = await operator.infer("overridden", {"x": ONES})
    assert (answer.model_version, answer["y"].tolist()) == ("1", [[1, 1]])
    assert (traffic.failures, traffic.refusals) == ([], 0)


async def test_loads_that_fail_change_nothing(place: Path, changing: Daemon) -> None:
    put(place, "steady", 1, 5)
    async with AsyncClient(changing.grpc) as operator:
        await operator.load("steady")
        async with Traffic([changing.grpc], "steady") as traffic:
            await traffic.more(30)
            (place / "steady" / "1" / "model.onnx").write_bytes(b"half a mod")
            with pytest.raises(InvalidRequest, match="load failed for model 'steady'"):
                await operator.load("steady")
            (place / "steady" / "config.pbtxt").write_text("max_batch_size: many")
            with pytest.raises(ExecutionError, match="failed to load 'steady'"):
                await operator.load("steady")
            with pytest.raises(InvalidRequest, match="load failed"):
                await operator.load("steady", config="{}", files={"1/model.onnx": b"no model either"})
            await traffic.more(30)
        (entry,) = [entry for entry in await operator.index() if entry.name == "steady"]
        assert await operator.ready()
    assert (traffic.failures, traffic.refusals, set(traffic.factors)) == ([], 0, {5})
    assert (entry.state, "last load failed" in entry.reason) == ("READY", True)


async def test_unloading_answers_what_was_asked_before(place: Path, changing: Daemon) -> None:
    put(place, "leaving", 1, 2)
    async with AsyncClient(changing.grpc) as operator:
        await operator.load("leaving")
        async with Traffic([changing.grpc], "leaving") as traffic:
            await traffic.more(100)
            await operator.unload("leaving")
            with pytest.raises((ModelNotFound, CapacityError)):
                await operator.infer("leaving", {"x": ONES})
            assert not await operator.model_ready("leaving")
    assert set(traffic.factors) == {2}
    assert all("unknown model" in failure or "not ready" in failure for failure in traffic.failures)


def test_what_failed_can_be_mended(place: Path, changing: Daemon) -> None:
    models.add(place, "mended", {1: b"no model"})
    with Client(changing.grpc) as operator:
        with pytest.raises(InvalidRequest):
            operator.load("mended")
        (entry,) = [entry for entry in operator.index() if entry.name == "mended"]
        assert (entry.state, "load failed" in entry.reason or "refused" in entry.reason) == ("UNAVAILABLE", True)
        put(place, "mended", 1, 4)
        operator.load("mended")
        assert operator.infer("mended", {"x": ONES})["y"].tolist() == [[4, 4]]


def test_nothing_of_an_override_stays_on_disk(place: Path, changing: Daemon, folder: Path) -> None:
    put(place, "tidy", 1, 1)
    overrides = folder / "changing" / "state" / "overrides"
    before = {path for path in overrides.rglob("*") if path.is_file()}
    with Client(changing.grpc) as operator:
        operator.load("tidy", config="{}", files={"1/model.onnx": models.times(2).SerializeToString()})
        held = {path for path in overrides.rglob("*") if path.is_file()} - before
        operator.unload("tidy")
        after = {path for path in overrides.rglob("*") if path.is_file()} - before
    assert {path.name for path in held if path.suffix == ".onnx"} == {"model.onnx"}
    assert not {path for path in after if path.suffix == ".onnx"}


async def test_load_calls_at_once_do_not_disturb_each_other(place: Path, changing: Daemon) -> None:
    for number in range(4):
        put(place, f"many{number}", 1, number + 1)
    async with AsyncClient(changing.grpc) as operator:
        await asyncio.gather(*(operator.load(f"many{number % 4}") for number in range(12)))
        answers = await asyncio.gather(*(operator.infer(f"many{number}", {"x": ONES}) for number in range(4)))
        await asyncio.gather(*(operator.unload(f"many{number % 4}") for number in range(8)))
    assert [answer["y"][0, 0] for answer in answers] == [1, 2, 3, 4]
