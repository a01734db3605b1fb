"""Models that mean harm, against the real daemon: refused with a reason, while what was served goes on being served.

What a request may still do to a model that was accepted is an error answer, and the process lives.
"""

import os
import resource
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from runtime.client import Client
from runtime.core.errors import ExecutionError, SpillwayError
from tests.e2e import models
from tests.e2e.daemon import Daemon, running
from tests.serving import hostile
from tests.serving.hostile import HOSTILE, Hostile

MIB = 1 << 20
ONES = np.ones((1, 2), np.float32)
CHOSEN = (
    "up",
    "soft link",
    "hard link",
    "missing",
    "sparse up",
    "sparse hard link",
    "function default up",
    "negative offset",
    "length 2^50",
    "truncated",
    "random bytes",
    "unknown domain",
)
AT_RUN_TIME = {
    "expand": hostile.expand(),
    "constant_of_shape": hostile.constant_of_shape(),
    "gather": hostile.gather(),
    "divide": hostile.divide(),
}
LIMITS = {"SPILLWAY_REPOSITORY_TRIAL_MEMORY_BYTES": str(400 * MIB), "SPILLWAY_REPOSITORY_TRIAL_TIMEOUT_S": "6"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository that these tests change."""
    directory = tmp_path_factory.mktemp("hostile")
    models.add(directory, "steady", {1: models.times(5)})
    for name, content in AT_RUN_TIME.items():
        models.add(directory, name, {1: content})
    return directory


@pytest.fixture(scope="module")
def besieged(place: Path, folder: Path) -> Iterator[Daemon]:
    """Serves `steady` and what breaks at run time. It may not take as much memory as there is, wherever this runs."""
    loads = [word for name in ("steady", *AT_RUN_TIME) for word in ("--load-model", name)]
    with running(place, folder / "hostile", "--model-control-mode", "explicit", *loads, settings=LIMITS) as daemon:
        assert daemon.ready, daemon.log
        resource.prlimit(daemon.process.pid, resource.RLIMIT_DATA, (2048 * MIB, 2048 * MIB))
        yield daemon
        assert daemon.stop() == 0, daemon.log


@pytest.fixture
def operator(besieged: Daemon) -> Iterator[Client]:
    with Client(besieged.grpc) as client:
        yield client
        assert client.infer("steady", {"x": ONES})["y"].tolist() == [[5, 5]], "the good model is served as before"
        assert besieged.process.poll() is None


def refusal(operator: Client, model: str, config: str | None = None, files: Mapping[str, bytes] | None = None) -> str:
    """The words with which a load is refused."""
    with pytest.raises(SpillwayError) as refused:
        operator.load(model, config=config, files=files or {}, deadline_s=60)
    text = str(refused.value)
    assert f"'{model}'" in text
    assert "pytest" not in text, "no path of this machine"
    return text


@pytest.mark.parametrize("case", [case for case in HOSTILE if case.name in CHOSEN], ids=str)
def test_an_explicit_load_is_refused_with_its_reason(case: Hostile, operator: Client, place: Path) -> None:
    model = "evil_" + case.name.replace(" ", "_").replace("^", "")
    case.write(place / model / "1")
    text = refusal(operator, model)
    assert case.words in text
    (entry,) = [entry for entry in operator.index() if entry.name == model]
    assert entry.state == "UNAVAILABLE"
    assert entry.reason


@pytest.mark.parametrize("name", ["hard link", "truncated", "function default up"])
def test_the_previous_version_keeps_serving(name: str, operator: Client, place: Path) -> None:
    model = "guarded_" + name.replace(" ", "_")
    models.add(place, model, {1: models.times(3)})
    operator.load(model)
    case = next(case for case in HOSTILE if case.name == name)
    case.write(place / model / "2")
    assert case.words in refusal(operator, model)
    answer = operator.infer(model, {"x": ONES})
    assert (answer.model_version, answer["y"].tolist()) == ("1", [[3, 3]])
    states = {entry.version: (entry.state, bool(entry.reason)) for entry in operator.index() if entry.name == model}
    assert states == {"1": ("READY", False), "2": ("UNAVAILABLE", True)}


# --- load overrides


def test_an_override_may_bring_its_external_data(operator: Client) -> None:
    files = {"1/model.onnx": hostile.with_external("w.bin").SerializeToString(), "1/w.bin": hostile.SECRET.tobytes()}
    operator.load("brought", config="{}", files=files)
    answer = operator.infer("brought", {"x": np.zeros((1, 4), np.float32)})
    assert answer["y"].tolist() == [hostile.SECRET.tolist()]
    operator.unload("brought")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (hostile.with_external("w.bin"), "external data 'w.bin' cannot be read: No such file"),
        (hostile.with_external("../../../../steady/1/model.onnx"), hostile.LEAVES),
        (hostile.with_external("/etc/hostname"), hostile.LEAVES),
        (hostile.model([hostile.constant("../secret.bin"), hostile.ADD]), hostile.LEAVES),
    ],
    ids=["not brought", "of another model", "absolute", "sparse"],
)
def test_an_override_reaches_nothing_but_what_it_brought(
    content: ModelProto, words: str, operator: Client, place: Path, folder: Path
) -> None:
    """Also not what lies in the model's own folder, which it replaces."""
    (place / "steady" / "1" / "w.bin").write_bytes(hostile.SECRET.tobytes())
    try:
        files = {"1/model.onnx": content.SerializeToString()}
        assert words in refusal(operator, "steady", "{}", files)
    finally:
        (place / "steady" / "1" / "w.bin").unlink()
    left = [path for path in (folder / "hostile" / "state" / "overrides").rglob("*") if path.suffix == ".onnx"]
    assert left == [], "what was refused is not kept"


# --- the trial's limits


@pytest.mark.parametrize(
    ("name", "content", "stage", "words"),
    [
        ("glutton", hostile.glutton(600), "memory", "MiB of memory, limit 400 MiB"),
        ("endless", hostile.endless(), "crash", "the trial did not end within 6 s"),
    ],
)
def test_what_the_trial_ends(
    name: str, content: ModelProto, stage: str, words: str, operator: Client, place: Path
) -> None:
    models.add(place, name, {1: content})
    text = refusal(operator, name)
    assert f"version 1 was refused at {stage}: " in text
    assert words in text


# --- at run time


@pytest.mark.parametrize("model", ["expand", "constant_of_shape"])
@pytest.mark.parametrize("elements", [2**40, 2**30])
def test_an_answer_larger_than_memory_is_an_error(
    model: str, elements: int, operator: Client, besieged: Daemon
) -> None:
    """4 TiB no system gives; 4 GiB this one does not, by its limit on data (RLIMIT_DATA)."""
    with pytest.raises(ExecutionError, match="onnx runtime error"):
        operator.infer(model, {"shape": np.array([elements])}, deadline_s=60)
    assert operator.infer(model, {"shape": np.array([3])})["y"].shape == (3,)
    assert _resident_bytes(besieged) < 1024 * MIB


def test_an_index_out_of_range_is_an_error(operator: Client) -> None:
    with pytest.raises(ExecutionError, match="out of data bounds"):
        operator.infer("gather", {"x": np.array([[99]])})
    assert operator.infer("gather", {"x": np.array([[3]])})["y"].tolist() == [[3.0]]


def test_a_division_by_zero_is_an_error(operator: Client) -> None:
    seven, zero = np.array([[7]], np.int32), np.array([[0]], np.int32)
    with pytest.raises(ExecutionError, match="division by zero"):
        operator.infer("divide", {"a": seven, "b": zero})
    assert operator.infer("divide", {"a": seven, "b": seven})["y"].tolist() == [[1]]


def test_errors_do_not_fill_the_log(operator: Client, besieged: Daemon) -> None:
    """A caller must not be able to write to it at will."""
    before = len(besieged.log)
    for _ in range(20):
        with pytest.raises(ExecutionError):
            operator.infer("gather", {"x": np.array([[99]])})
    assert len(besieged.log) - before < 200, besieged.log[before:]


def _resident_bytes(daemon: Daemon) -> int:
    return int(Path(f"/proc/{daemon.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
