"""Override files: names, limits, and that nothing stays behind."""

import fcntl
import os
import stat
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runtime.repository.overrides import OverrideStore
from runtime.repository.settings import RepositorySettings

FILE = "file:1/model.onnx"


def store_of(folder: Path, **limits: int) -> OverrideStore:
    return OverrideStore(RepositorySettings(state_dir=str(folder), **limits))  # type: ignore[arg-type] # limits are int


def files_below(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]


def test_files_are_private_and_in_place(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    folder = store.write("m", {FILE: b"one", "file:1/data/w.bin": memoryview(b"two"), "2/model.onnx": b""})
    assert folder.name == "m"
    assert (folder / "1" / "model.onnx").read_bytes() == b"one"
    assert (folder / "1" / "data" / "w.bin").read_bytes() == b"two"
    assert (folder / "2" / "model.onnx").read_bytes() == b""
    assert stat.S_IMODE((folder / "1" / "model.onnx").stat().st_mode) == 0o600
    for above in (tmp_path / "overrides", folder.parent.parent, folder.parent):
        assert stat.S_IMODE(above.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    "name",
    [
        "file:", "file:1", "file:model.onnx", "file:0/model.onnx", "file:01/model.onnx", "file:v1/model.onnx",
        "file:1/", "file:1//x", "file:1/../../x", "file:../1/x", "file:/1/x", "file:/etc/passwd", "file:1/x\0",
        "file:1/..",
        "file:1\\x", f"file:1/{'x' * 256}", "file:file:1/x", "file:1/\ud800", "", "file:config.pbtxt",
    ],
)  # fmt: skip
def test_names_that_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"file|name"):
        store_of(tmp_path).write("m", {FILE: b"", name: b""})
    assert files_below(tmp_path) == [], "names are checked before anything is written"


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ({FILE: b"", "1/model.onnx": b""}, "the same name"),
        ({"file:1/a": b"", "file:1/a/b": b""}, "'file:1/a/b' lies below another file"),
        ({FILE: b"12345"}, "5 bytes, limit 4"),
        ({f"file:1/{index}": b"" for index in range(4)}, "4 override files, limit 3"),
    ],
)
def test_sets_that_are_refused(tmp_path: Path, files: dict[str, bytes], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        store_of(tmp_path, max_override_bytes=4, max_override_files=3).write("m", files)
    assert files_below(tmp_path) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.lists(st.text(alphabet="12ab./\\\0:é", max_size=6), min_size=1, max_size=4).map("/".join))
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    store = store_of(tmp_path)
    try:
        folder = store.write("m", {name: b"x"})
    except ValueError:
        assert files_below(tmp_path) == []
        return
    written = files_below(tmp_path)
    assert len(written) == 1
    assert written[0].resolve().is_relative_to(folder)
    store.close()


def test_only_what_is_in_use_stays(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    first, second = store.write("m", {FILE: b"1"}), store.write("m", {FILE: b"2"})
    other = store.write("n", {FILE: b"3"})
    store.keep_only("m", [second])
    assert not first.exists()
    assert second.exists()
    assert other.exists()
    store.keep_only("unknown", [])
    store.close()
    store.close()
    assert list((tmp_path / "overrides").iterdir()) == []


def test_what_a_crashed_process_left_is_swept(tmp_path: Path) -> None:
    crashed, living = store_of(tmp_path), store_of(tmp_path)
    lost, kept = crashed.write("m", {FILE: b"1"}), living.write("m", {FILE: b"2"})
    assert crashed._lock is not None
    fcntl.flock(crashed._lock, fcntl.LOCK_UN)  # as the kernel does when a process ends
    store_of(tmp_path).sweep()
    assert not lost.exists()
    assert kept.exists()
    os.close(crashed._lock)
    living.close()


def test_sweeping_nothing(tmp_path: Path) -> None:
    store_of(tmp_path / "none").sweep()
    assert not (tmp_path / "none").exists()
