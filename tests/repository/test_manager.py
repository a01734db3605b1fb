"""The manager: what it serves after loads, reloads, failures, unloads and stops, and what it leaves behind."""

import asyncio
import gc
import logging
import random
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from runtime.core.errors import (
    ConfigError,
    ControlDisabled,
    Draining,
    InvalidRequest,
    LoadFailed,
    ModelNotFound,
    ModelNotReady,
    PollFailed,
    RepositoryError,
    SpillwayError,
)
from runtime.core.inference import Catalogue
from runtime.core.verdict import Verdict
from runtime.repository import memory
from tests.fakes.loader import FakeScheduler
from tests.repository.configs import House

MIB = 1 << 20
LATEST_TWO = "version_policy { latest { num_versions: 2 } }"


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def started(house: House, *names: str) -> House:
    await house.manager.start(names)
    return house


def found(house: House, version: str = "", name: str = "m") -> FakeScheduler:
    scheduler = house.manager.find(name, version)
    assert isinstance(scheduler, FakeScheduler)
    return scheduler


async def test_mode_none_loads_everything(tmp_path: Path) -> None:
    house = House(tmp_path, "none")
    house.write("a")
    house.write("b", {1: b"1", 2: b"2"})
    assert not house.manager.all_ready()
    await house.manager.start()
    assert house.states() == {("a", 1): "READY", ("b", 2): "READY"}
    assert house.manager.all_ready()
    catalogue: Catalogue = house.manager
    assert catalogue.find("b", "").spec.version == 2
    assert house.trial.closed == 1, "the child's memory is given back"


async def test_mode_explicit_loads_what_is_named(house: House) -> None:
    house.write("a")
    house.write("b")
    await started(house, "b")
    assert house.states() == {("a", 0): "UNLOADED", ("b", 1): "READY"}
    assert house.manager.all_ready()
    with pytest.raises(ModelNotFound):
        house.manager.find("a", "")


async def test_mode_explicit_loads_nothing_unasked_and_a_star_is_all(tmp_path: Path) -> None:
    house = House(tmp_path)
    house.write("a")
    await house.manager.start()
    assert house.states() == {("a", 0): "UNLOADED"}
    assert house.manager.all_ready()
    other = House(tmp_path)
    await other.manager.start(["*"])
    assert other.states() == {("a", 1): "READY"}


async def test_a_failing_model_at_start_does_not_stop_the_others(tmp_path: Path) -> None:
    house = House(tmp_path, "none")
    house.write("a", config_text="nonsense: 1")
    house.write("b")
    house.write("c", {3: b"3"})
    house.trial.refusals[3] = Verdict(stage="check", error="broken")
    await house.manager.start()
    assert house.states() == {("a", 0): "FAILED", ("b", 1): "READY", ("c", 3): "FAILED"}
    assert not house.manager.all_ready()
    reasons = {entry.name: entry.reason for entry in house.manager.index()}
    assert "config.pbtxt:1:1" in reasons["a"]
    assert "version 3 was refused at check: broken" in reasons["c"]
    with pytest.raises(ModelNotReady, match="broken"):
        house.manager.find("c", "")
    lenient = House(tmp_path, "none", strict_readiness=False)
    lenient.trial.refusals[3] = Verdict(stage="check", error="broken")
    await lenient.manager.start()
    assert lenient.manager.all_ready()


async def test_an_unknown_model_at_start_is_failed(house: House) -> None:
    await started(house, "nowhere", "../m")
    assert house.states() == {("nowhere", 0): "FAILED", ("../m", 0): "FAILED"}
    assert not house.manager.all_ready()


async def test_a_fault_of_the_server_at_start_is_logged_and_the_rest_goes_on(
    house: House, caplog: pytest.LogCaptureFixture
) -> None:
    house.write("a")
    house.write("b")

    def fail(spec: Any) -> None:
        if spec.name == "a":
            raise ZeroDivisionError

    house.loader.before = fail
    with caplog.at_level(logging.ERROR):
        await started(house, "*")
    assert "load failed by a fault of the server" in caplog.messages
    assert house.states() == {("a", 1): "FAILED", ("b", 1): "READY"}


async def test_a_repository_that_is_not_there(house: House) -> None:
    house.repository.rmdir()
    with pytest.raises(ConfigError):
        await house.manager.start()


async def test_things_that_are_no_models_are_told_at_start(house: House, caplog: pytest.LogCaptureFixture) -> None:
    (house.repository / "README").write_text("x")
    with caplog.at_level(logging.WARNING):
        await started(house)
    assert [record.reason for record in caplog.records] == ["not a folder"]  # type: ignore[attr-defined] # extra


async def test_mode_none_refuses_control(tmp_path: Path) -> None:
    house = House(tmp_path, "none")
    house.write()
    await house.manager.start()
    with pytest.raises(ControlDisabled, match="explicit model load / unload is not allowed"):
        await house.manager.load("m")
    with pytest.raises(ControlDisabled):
        await house.manager.unload("m")
    assert house.states() == {("m", 1): "READY"}


async def test_a_new_version_takes_over(house: House) -> None:
    house.write("m", {1: b"one"})
    await started(house, "m")
    old = found(house)
    house.write("m", {2: b"two"})
    await house.manager.load("m")
    assert found(house).spec.version == 2
    assert old.events == ["drain", "close"]
    assert house.states() == {("m", 1): "UNLOADED", ("m", 2): "READY"}
    house.write("m", {3: b"three"})
    await house.manager.load("m")
    assert house.states() == {("m", 2): "UNLOADED", ("m", 3): "READY"}, "old entries do not pile up"


async def test_several_versions_are_served_side_by_side(house: House) -> None:
    house.write("m", {1: b"1", 2: b"2", 3: b"3"}, LATEST_TWO)
    await started(house, "m")
    assert house.states() == {("m", 2): "READY", ("m", 3): "READY"}
    assert house.manager.describe("m", "2").versions == (2, 3)
    keeper = found(house, "3")
    house.write("m", {4: b"4"})
    await house.manager.load("m")
    assert found(house, "3") is keeper, "an unchanged version is not touched"
    assert house.states() == {("m", 2): "UNLOADED", ("m", 3): "READY", ("m", 4): "READY"}


async def test_nothing_changed_nothing_loaded(house: House) -> None:
    house.write()
    await started(house, "m")
    before = found(house)
    for verdict in (house.state / "verdicts").iterdir():
        verdict.unlink()
    await house.manager.load("m")
    assert found(house) is before
    assert len(house.loader.loaded) == 1
    assert len(house.trial.jobs) == 1, "not even looked at"


@pytest.mark.parametrize("change", ["bytes", "config", "labels"])
async def test_a_changed_version_is_replaced_in_place(house: House, change: str) -> None:
    config = 'output { name: "y" label_filename: "labels.txt" }'
    folder = house.write("m", {1: b"one"}, config)
    (folder / "labels.txt").write_text("a\n")
    await started(house, "m")
    old = found(house)
    if change == "bytes":
        house.write("m", {1: b"two"})
    elif change == "config":
        house.write("m", {1: b"one"}, f"max_batch_size: 2 {config}")
    else:
        (folder / "labels.txt").write_text("b\n")
    await house.manager.load("m")
    assert found(house) is not old
    assert old.is_closed
    assert house.states() == {("m", 1): "READY"}
    assert len(house.loader.open()) == 1


async def test_the_old_version_answers_until_the_new_one_does(house: House) -> None:
    house.write("m", {1: b"one"})
    await started(house, "m")
    old = found(house)
    house.write("m", {2: b"two"})
    house.loader.gate = asyncio.Event()
    house.loader.begun.clear()
    load = asyncio.create_task(house.manager.load("m"))
    await house.loader.begun.wait()
    assert found(house) is old
    assert house.states() == {("m", 1): "READY", ("m", 2): "LOADING"}
    old.hold = asyncio.Event()
    house.loader.gate.set()
    await old.draining.wait()
    assert found(house).spec.version == 2, "published before the old one is drained"
    assert house.states() == {("m", 1): "UNLOADING", ("m", 2): "READY"}
    assert not old.is_closed
    old.hold.set()
    await load
    assert old.is_closed


@pytest.mark.parametrize("fault", ["no folder", "config", "refused", "crash", "loader", "contradiction", "range"])
async def test_a_failed_load_leaves_what_was_served(house: House, fault: str) -> None:
    folder = house.write("m", {1: b"1"}, LATEST_TWO)
    await started(house, "m")
    old = found(house)
    house.write("m", {2: b"2", 3: b"3"})
    error: type[RepositoryError] = LoadFailed
    match fault:
        case "no folder":
            folder.rename(folder.with_name("gone"))
            error = PollFailed
        case "config":
            house.write("m", {2: b"2"}, "sequence_batching { }")
            error = PollFailed
        case "refused":
            house.trial.refusals[2] = Verdict(stage="check", error="no")
        case "crash":
            house.trial.refusals[3] = Verdict(stage="crash", error="no")
        case "loader":
            house.loader.failing.add(2)  # after 3 was staged
        case "contradiction":
            house.write("m", {2: b"2"}, f'{LATEST_TWO} input {{ name: "z" }}')
        case "range":
            house.write("m", {2: b"2"}, f"{LATEST_TWO} instance_group {{ count: -1 }}")
    with pytest.raises(error, match="failed"):
        await house.manager.load("m")
    assert found(house) is old
    assert old.events == []
    assert house.loader.open() == [old], "what was staged is closed"
    assert house.manager.is_ready("m", "1")
    assert not house.manager.is_ready("m", "3")
    if error is LoadFailed:
        assert house.states() == {("m", 1): "READY", ("m", 2): "FAILED", ("m", 3): "FAILED"}


async def test_a_failed_reload_of_the_same_version_is_told_beside_it(house: House) -> None:
    house.write("m", {1: b"one"})
    await started(house, "m")
    house.write("m", {1: b"broken"})
    house.trial.refusals[1] = Verdict(stage="load", error="unreadable")
    with pytest.raises(LoadFailed, match="load failed for model 'm'"):
        await house.manager.load("m")
    (entry,) = house.manager.index()
    assert entry.state == "READY"
    assert "last load failed: load failed for model 'm': version 1 was refused at load: unreadable" in entry.reason
    house.trial.refusals.clear()
    await house.manager.load("m")
    assert house.manager.index()[0].reason == ""


async def test_loading_what_is_unknown(house: House) -> None:
    await started(house)
    for name in ("nowhere", "../m", "", "a\0b", "x" * 1000):
        for files in ({}, OVERRIDE if name != "nowhere" else {}):
            with pytest.raises(PollFailed, match="failed to load"):
                await house.manager.load(name, "{}", files)
        await house.manager.unload(name)
    assert house.states() == {}, "names that nobody has leave no trace"
    gc.collect()  # the last error still holds the frames it came through
    assert len(house.manager._locks) == 0


async def test_a_failed_load_is_listed_though_the_model_is_newer_than_the_last_look(house: House) -> None:
    await started(house)
    house.write("late", config_text="nonsense: 1")
    with pytest.raises(PollFailed):
        await house.manager.load("late")
    assert house.states() == {("late", 0): "FAILED"}


async def test_an_explicit_load_that_fails_is_listed_and_does_not_make_the_server_unready(house: House) -> None:
    house.write("good")
    house.write("bad", config_text="nonsense: 1")
    await started(house, "good")
    with pytest.raises(PollFailed):
        await house.manager.load("bad")
    assert house.states() == {("bad", 0): "FAILED", ("good", 1): "READY"}
    assert house.manager.all_ready()
    house.write("bad", config_text="")
    await house.manager.load("bad")
    assert house.states() == {("bad", 1): "READY", ("good", 1): "READY"}


async def test_unload(house: House) -> None:
    house.write("m", {1: b"1", 2: b"2"}, LATEST_TWO)
    await started(house, "m")
    one, two = found(house, "1"), found(house, "2")
    one.hold = asyncio.Event()
    unload = asyncio.create_task(house.manager.unload("m"))
    await one.draining.wait()
    assert house.states() == {("m", 1): "UNLOADING", ("m", 2): "UNLOADING"}
    assert not house.manager.is_ready("m", "")
    with pytest.raises(ModelNotReady, match="UNLOADING"):
        house.manager.find("m", "")
    one.hold.set()
    await unload
    assert one.is_closed
    assert two.is_closed
    assert house.states() == {("m", 1): "UNLOADED", ("m", 2): "UNLOADED"}
    assert house.manager.all_ready(), "the operator wanted it gone"
    await house.manager.unload("m")
    await house.manager.load("m")
    assert house.states() == {("m", 1): "READY", ("m", 2): "READY"}


async def test_a_drain_has_a_limit(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    house = House(tmp_path, drain_timeout_s=0.01)
    house.write()
    await started(house, "m")
    stuck = found(house)
    stuck.hold = asyncio.Event()
    with caplog.at_level(logging.WARNING):
        await house.manager.unload("m")
    assert stuck.is_closed
    assert "drain cut short" in caplog.messages


async def test_memory_is_given_back_after_an_unload(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    # a C call without a result: what can be seen is that it comes after the last close
    house.write()
    await started(house, "m")
    scheduler, order = found(house), list[str]()
    monkeypatch.setattr(memory, "give_back", lambda: order.append(scheduler.events[-1]))
    await house.manager.unload("m")
    assert order == ["close"]


@pytest.mark.parametrize(
    ("available", "events"),
    [
        (100, ["load 2", "drain", "close"]),
        (40, ["drain", "close", "load 2"]),
    ],
)
async def test_memory_decides_what_goes_first(
    house: House, monkeypatch: pytest.MonkeyPatch, available: int, events: list[str]
) -> None:
    house.trial.needed_bytes = 50 * MIB
    house.write("m", {1: b"1"})
    await started(house, "m")
    old = found(house)
    # the machine's memory is not the test's to set
    monkeypatch.setattr(memory, "available_bytes", lambda: available * MIB)
    house.loader.before = lambda spec: old.events.append(f"load {spec.version}")
    house.write("m", {2: b"2"})
    await house.manager.load("m")
    assert old.events == events
    assert house.states() == {("m", 1): "UNLOADED", ("m", 2): "READY"}


async def test_a_failure_after_the_old_version_went_leaves_nothing_behind(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.trial.needed_bytes = 50 * MIB
    house.write("m", {1: b"1"})
    await started(house, "m")
    monkeypatch.setattr(memory, "available_bytes", lambda: 40 * MIB)
    house.loader.failing.add(2)
    house.write("m", {2: b"2"})
    with pytest.raises(LoadFailed):
        await house.manager.load("m")
    assert house.states() == {("m", 1): "UNLOADED", ("m", 2): "FAILED"}
    assert house.loader.open() == []
    assert not house.manager.all_ready()


async def test_what_does_not_fit_is_refused_with_the_figures(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.trial.needed_bytes = 50 * MIB
    house.write("m", {1: b"1"})
    await started(house, "m")
    old = found(house)
    house.trial.needed_bytes = 70 * MIB
    monkeypatch.setattr(memory, "available_bytes", lambda: 10 * MIB)
    house.write("m", {2: b"2"})
    with pytest.raises(LoadFailed, match=r"needs 70 MiB of memory, 10 MiB are available .* free 50 MiB"):
        await house.manager.load("m")
    assert found(house) is old


async def test_files_that_change_while_they_are_loaded(house: House) -> None:
    folder = house.write()
    await started(house)
    house.loader.before = lambda _: (folder / "1" / "model.onnx").write_bytes(b"half")
    with pytest.raises(LoadFailed, match="the files changed while they were loaded"):
        await house.manager.load("m")
    assert house.loader.open() == []


OVERRIDE = {"file:7/model.onnx": b"new"}


async def test_an_override_config_replaces_the_file(house: House) -> None:
    house.write("m", {1: b"1"}, "max_batch_size: 2")
    await started(house, "m")
    await house.manager.load("m", '{"backend": "onnxruntime", "max_batch_size": "16"}')
    assert house.manager.describe("m", "").spec.max_batch_size == 16
    await house.manager.load("m")
    assert house.manager.describe("m", "").spec.max_batch_size == 2, "a plain load goes back to the repository"


async def test_override_files_replace_the_versions(house: House) -> None:
    house.write("m", {1: b"1"})
    await started(house, "m")
    await house.manager.load("m", "{}", OVERRIDE)
    assert house.states() == {("m", 1): "UNLOADED", ("m", 7): "READY"}
    path = house.manager.describe("m", "7").spec.path
    assert path.read_bytes() == b"new"
    assert house.state in path.parents
    await house.manager.load("m")
    assert house.states() == {("m", 1): "READY", ("m", 7): "UNLOADED"}
    assert house.overrides() == [], "removed with what was served from them"


async def test_a_model_may_come_with_the_call_alone(house: House) -> None:
    await started(house)
    await house.manager.load("new", "{}", OVERRIDE)
    assert house.states() == {("new", 7): "READY"}
    await house.manager.unload("new")
    assert house.states() == {("new", 7): "UNLOADED"}
    assert house.overrides() == []


@pytest.mark.parametrize(
    ("config", "files", "error"),
    [
        (None, OVERRIDE, InvalidRequest),
        ("{", OVERRIDE, PollFailed),
        ('{"nope": 1}', {}, PollFailed),
        ("{}", {"file:../x": b""}, PollFailed),
        ("{}", {f"file:1/{'x' * 256}": b""}, PollFailed),
        ("{}", {"file:1/other.onnx": b""}, PollFailed),
        ("{}", {"file:config.pbtxt": b""}, PollFailed),
        ('{"name": "other"}', OVERRIDE, PollFailed),
        ('{"input": [{"name": "z"}]}', OVERRIDE, LoadFailed),
    ],
)
async def test_overrides_that_fail_leave_nothing(
    house: House, config: str | None, files: dict[str, bytes], error: type[SpillwayError]
) -> None:
    house.write()
    await started(house, "m")
    old = found(house)
    with pytest.raises(error, match="failed"):
        await house.manager.load("m", config, files)
    assert found(house) is old
    assert house.overrides() == []


async def test_an_override_that_fails_keeps_the_files_of_the_one_that_serves(house: House) -> None:
    await started(house)
    await house.manager.load("m", "{}", OVERRIDE)
    served_from = house.manager.describe("m", "").spec.path
    with pytest.raises(LoadFailed):
        await house.manager.load("m", '{"input": [{"name": "z"}]}', OVERRIDE)
    assert house.overrides() == [served_from]


async def test_a_load_goes_on_when_its_caller_goes(house: House) -> None:
    house.write()
    await started(house)
    house.loader.gate = asyncio.Event()
    call = asyncio.create_task(house.manager.load("m"))
    await house.loader.begun.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert house.states() == {("m", 1): "LOADING"}
    house.loader.gate.set()
    await house.manager.unload("m")  # waits its turn
    assert house.states() == {("m", 1): "UNLOADED"}
    assert house.loader.open() == []


async def test_a_load_that_fails_after_its_caller_went_is_in_the_index(house: House) -> None:
    house.write()
    await started(house)
    house.loader.gate = asyncio.Event()
    house.loader.failing.add(1)
    call = asyncio.create_task(house.manager.load("m"))
    await house.loader.begun.wait()
    call.cancel()
    house.loader.gate.set()
    await asyncio.wait(house.manager._work)
    assert house.states() == {("m", 1): "FAILED"}


async def test_stop_drains_and_closes_everything(house: House) -> None:
    house.write("a")
    house.write("b")
    await started(house, "*")
    await house.manager.load("c", "{}", OVERRIDE)
    a = found(house, name="a")
    a.hold = asyncio.Event()
    stop = asyncio.create_task(house.manager.stop())
    await a.draining.wait()
    with pytest.raises(Draining):
        await house.manager.load("b")
    with pytest.raises(Draining):
        await house.manager.unload("b")
    assert not house.manager.all_ready()
    a.hold.set()
    await stop
    await house.manager.stop()
    assert house.loader.open() == []
    assert set(house.states().values()) == {"UNLOADED"}
    assert house.overrides() == []


async def test_stop_ends_loads_under_way(house: House) -> None:
    house.write("a")
    house.write("b")
    await started(house)
    house.loader.gate = asyncio.Event()
    loads = [asyncio.create_task(house.manager.load(name)) for name in ("a", "b")]
    await house.loader.begun.wait()
    stop = asyncio.create_task(house.manager.stop())
    await asyncio.sleep(0)
    house.loader.gate.set()
    await stop
    await asyncio.wait(loads)
    assert all(isinstance(load.exception(), LoadFailed | Draining | None) for load in loads)
    assert house.loader.open() == []


async def test_a_load_that_waited_for_its_turn_is_refused_after_a_stop(house: House) -> None:
    house.write()
    await started(house)
    house.loader.gate = asyncio.Event()
    first, second = (asyncio.create_task(house.manager.load("m")) for _ in range(2))
    await house.loader.begun.wait()
    stop = asyncio.create_task(house.manager.stop())
    await asyncio.sleep(0)
    house.loader.gate.set()
    await stop
    await first
    with pytest.raises(Draining):
        await second


async def test_one_trial_at_a_time(house: House) -> None:
    house.write("a", {1: b"a"})
    house.write("b", {1: b"b"})
    await started(house)
    meeting = threading.Barrier(2)

    def wait_for_another(_: object) -> None:
        with suppress(threading.BrokenBarrierError):  # as it should be: nobody came
            meeting.wait(0.05)

    house.trial.before = wait_for_another
    await asyncio.gather(house.manager.load("a"), house.manager.load("b"))  # the fake refuses two at once
    assert len(house.trial.jobs) == 2


async def test_is_ready_never_fails_for_what_is_unknown(house: House) -> None:
    house.write()
    await started(house, "m")
    assert house.manager.is_ready("m", "")
    assert house.manager.is_ready("m", "1")
    assert not house.manager.is_ready("m", "2")
    assert not house.manager.is_ready("nowhere", "")
    assert not house.manager.is_ready("", "")
    with pytest.raises(InvalidRequest):
        house.manager.is_ready("m", "x")


async def test_new_folders_show_after_a_rescan(house: House) -> None:
    await started(house)
    house.write("late")
    await house.manager.rescan()
    assert house.states() == {("late", 0): "UNLOADED"}


async def call_at_random(house: House, chance: random.Random, step: int) -> None:
    name = chance.choice("mn")
    match chance.randrange(5):
        case 0:
            await house.manager.unload(name)
        case 1:
            await house.manager.load(name, "{}", {f"file:{step % 3 + 1}/model.onnx": b"%d" % step})
        case 2:
            house.write(name, {step % 4 + 1: b"%d" % step})
            await house.manager.load(name)
        case _:
            await house.manager.load(name)


async def look_for_ever(house: House) -> None:
    while True:
        for name in "mn":
            with suppress(ModelNotFound, ModelNotReady):
                assert not found(house, name=name).is_draining, "what is found takes requests"
        await asyncio.sleep(0)


@pytest.mark.slow
async def test_any_interleaving_of_calls_leaves_one_consistent_state(house: House) -> None:
    """Loads, overrides, unloads and look-ups of two models at random; in the end nothing is open but what is found."""
    chance = random.Random(7)
    house.write("m", {1: b"1"}, LATEST_TWO)
    house.write("n", {1: b"1"})
    await started(house, "*")
    looker = asyncio.create_task(look_for_ever(house))
    for batch in range(8):
        calls = [asyncio.create_task(call_at_random(house, chance, batch * 5 + index)) for index in range(5)]
        await asyncio.sleep(0)
        chance.choice(calls).cancel()
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(each, LoadFailed | asyncio.CancelledError | None) for each in results), results
    if house.manager._work:
        await asyncio.wait(house.manager._work)
    assert not looker.done()
    looker.cancel()
    assert {id(each) for each in house.loader.open()} == {id(each.scheduler) for each in house.manager.served()}
    assert set(house.overrides()) <= {each.spec.path for each in house.manager.served()}
    await house.manager.stop()
    assert house.loader.open() == []
