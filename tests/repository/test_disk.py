"""Folders, file names and digests: what is read from a disk that others write."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.core.errors import ConfigError
from runtime.repository.files import digest_files, model_files
from runtime.repository.layout import find_model, list_models, list_versions, model_path
from runtime.repository.paths import resolve_below, split_name
from runtime.repository.settings import RepositorySettings
from tests.repository.configs import write_model

SETTINGS = RepositorySettings()


def digest(folder: Path, version: int = 1, named: tuple[str, ...] = ()) -> str:
    return digest_files(model_files(folder, version, named, SETTINGS)).sha256


@pytest.mark.parametrize(
    "name",
    [
        "",
        "/",
        "/a",
        "..",
        ".",
        "a/..",
        "../a",
        "a//b",
        "a/",
        "./a",
        "a\0",
        "a\nb",
        "a\\b",
        "x" * 256,
        "a/" * 600 + "b",
        "\ud800",
    ],
)
def test_names_that_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="file name"):
        split_name(name)


@settings(deadline=None)
@given(st.lists(st.text(alphabet="ab./\\\0é", max_size=5), max_size=4).map("/".join))
def test_a_name_that_is_accepted_stays_below_its_folder(name: str) -> None:
    try:
        parts = split_name(name)
    except ValueError:
        return
    assert parts == tuple(name.split("/"))
    path = os.path.normpath(Path("/models/m", *parts))
    assert Path(path).relative_to("/models/m").parts == parts


def test_files_below_a_folder(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a").write_text("x")
    (tmp_path / "secret").write_text("x")
    (folder / "out").symlink_to(tmp_path / "secret")
    (folder / "up").symlink_to(tmp_path)
    (folder / "in").symlink_to("sub/a")
    assert resolve_below(folder, "sub/a") == folder / "sub" / "a"
    assert resolve_below(folder, "in").read_text() == "x"
    for name in ("out", "up/secret"):
        with pytest.raises(ValueError, match="is a link that leaves the model's folder"):
            resolve_below(folder, name)
    assert resolve_below(folder, "out", follow_links=True).read_text() == "x"
    with pytest.raises(ValueError, match="is a directory"):
        resolve_below(folder, "sub")
    with pytest.raises(ValueError, match="does not exist"):
        resolve_below(folder, "none")


def test_models_of_several_repositories(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    write_model(first, "a")
    write_model(second, "a")
    write_model(second, "b")
    write_model(second, ".hidden")
    (second / "README").write_text("x")
    directories = (str(first), str(second))
    listing = list_models(directories, 10)
    assert dict(listing.folders) == {"a": first / "a", "b": second / "b"}
    assert {each.path.name: each.reason.split(":")[0] for each in listing.ignored} == {
        "a": f"model 'a' is taken from {first}",
        ".hidden": "not a model's name",
        "README": "not a folder",
    }
    assert find_model(directories, "b") == second / "b"
    assert find_model(directories, "c") is None
    assert find_model(directories, "../first/a") is None


def test_repositories_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        list_models((str(tmp_path / "none"),), 10)
    for name in "abc":
        write_model(tmp_path, name)
    with pytest.raises(ConfigError, match="more than max_models 2"):
        list_models((str(tmp_path),), 2)


def test_versions(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", {2: b"", 10: b""})
    for name in ("01", "v3", "0", "warmup"):
        (folder / name).mkdir()
    (folder / "7").write_text("a file is no version")
    versions = list_versions(folder)
    assert versions.numbers == (2, 10)
    assert [each.path.name for each in versions.ignored] == ["0", "01", "v3"]


def test_a_model_without_versions_is_explained(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    with pytest.raises(ValueError, match=r"it has no version: expected a folder 'm/1'$"):
        list_versions(tmp_path / "m")
    (tmp_path / "m" / "model.onnx").write_text("x")
    with pytest.raises(ValueError, match=r"expected a folder 'm/1', move 'model.onnx' there"):
        list_versions(tmp_path / "m")


def test_the_model_file(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m")
    assert model_path(folder, 1, "") == folder / "1" / "model.onnx"
    with pytest.raises(ValueError, match=r"version 1 has no file 'net.onnx', it has \['model.onnx'\]"):
        model_path(folder, 1, "net.onnx")
    with pytest.raises(ValueError, match="not a plain relative path"):
        model_path(folder, 1, "../2/model.onnx")
    (folder / "2" / "model.onnx").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"version 2 has no file 'model.onnx/model.onnx'"):
        model_path(folder, 2, "")
    (folder / "2" / "model.onnx" / "model.onnx").write_text("Triton's form for a model with external data")
    assert model_path(folder, 2, "") == folder / "2" / "model.onnx" / "model.onnx"


def test_the_digest_covers_names_and_bytes(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m", {1: b"one", 2: b"one", 3: b"three"})
    (folder / "labels.txt").write_text("a")
    assert digest(folder, 1) != digest(folder, 3)
    before = digest(folder, 1)
    (folder / "notes.txt").write_text("not the model's business")
    assert digest(folder, 1) == before
    (folder / "1" / "weights.bin").write_bytes(b"w")
    with_weights = digest(folder, 1)
    assert with_weights != before
    (folder / "1" / "weights.bin").rename(folder / "1" / "other.bin")
    assert digest(folder, 1) not in (before, with_weights)
    named = digest(folder, 1, ("labels.txt",))
    (folder / "labels.txt").write_text("b")
    assert digest(folder, 1, ("labels.txt",)) != named


def test_a_changed_file_is_noticed(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m")
    found = digest_files(model_files(folder, 1, (), SETTINGS))
    assert found.is_current()
    (folder / "1" / "model.onnx").write_bytes(b"two")
    assert not found.is_current()
    (folder / "1" / "model.onnx").unlink()
    assert not found.is_current()


def test_links_and_odd_files(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m")
    (tmp_path / "secret").write_text("x")
    (folder / "1" / "inner").symlink_to("model.onnx")
    digest(folder)
    link = folder / "1" / "weights.bin"
    link.symlink_to(tmp_path / "secret")
    with pytest.raises(ValueError, match=r"'1/weights.bin' is a link that leaves the model's folder"):
        digest(folder)
    digest_files(model_files(folder, 1, (), RepositorySettings(follow_links=True)))
    link.unlink()
    link.symlink_to("nothing")
    with pytest.raises(ValueError, match="is a link to nothing"):
        digest(folder)
    link.unlink()
    os.mkfifo(link)
    with pytest.raises(ValueError, match="is not a regular file"):
        digest(folder)


def test_folders_are_limited(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "m")
    with pytest.raises(ValueError, match="version 1 has 3 bytes or more, limit 2"):
        model_files(folder, 1, (), RepositorySettings(max_version_bytes=2))
    (folder / "1" / "a").write_text("")
    with pytest.raises(ValueError, match="version 1 has more than 1 files"):
        model_files(folder, 1, (), RepositorySettings(max_version_files=1))
    (folder / "1" / "loop").symlink_to(".")
    with pytest.raises(ValueError, match="nested deeper than 8"):
        model_files(folder, 1, (), SETTINGS)


@pytest.mark.parametrize(
    "values",
    [
        {"trial_timeout_s": 0},
        {"drain_timeout_s": -1},
        {"probe_s": 61},
        {"default_max_batch_size": -1},
        {"trial_memory_bytes": 1},
        {"max_models": 0},
        {"state_dir": "relative"},
        {"directories": ("a", "a")},
    ],
)
def test_settings_out_of_range(values: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        RepositorySettings(**values)  # type: ignore[arg-type] # that is the point
