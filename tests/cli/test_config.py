import shutil
import tomllib
from pathlib import Path

import pytest

from runtime.config import Config, load_config
from tests.cli.conftest import MODELS, Spillway

MISTAKES = """max_batch_size: 8
input { name: "image" data_type: TYPE_FP32 dims: [ -1, 8, 8 ] }
output { name: "probabilities" data_type: TYPE_FP32 dims: [ 10 ] }
output { name: "digit" data_type: TYPE_INT64 dims: [ 1 ] }
dynamic_batching { }
"""


@pytest.fixture(autouse=True)
def own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings but the test's: not this machine's, not those of whoever runs the tests."""
    monkeypatch.setattr("runtime.config.DEFAULT_FILE", tmp_path / "missing.toml")


def test_a_good_repository(spillway: Spillway) -> None:
    said = spillway("config", "check", str(MODELS))
    assert (said.status, said.out) == (0, "digits: ok\n")
    assert "max_batch_size: 64" in spillway("config", "check", "--corrected", str(MODELS)).out


def test_mistakes_and_the_config_that_would_work(spillway: Spillway, tmp_path: Path) -> None:
    shutil.copytree(MODELS, tmp_path / "models")
    (tmp_path / "models" / "README").write_text("")
    (tmp_path / "models" / "empty").mkdir()
    config = tmp_path / "models" / "digits" / "config.pbtxt"
    config.write_text(MISTAKES)
    said = spillway("config", "check", str(tmp_path / "models"))
    assert said.status == 1
    findings, corrected = said.out.split("# digits/config.pbtxt, corrected\n")
    assert "README: ignored: not a folder" in findings
    assert "digits: 2 errors" in findings
    assert "error  digits/config.pbtxt:2: input 'image' has another type in the graph" in findings
    assert "empty: 1 error\n" in findings
    text, _, rest = corrected.partition("\n\n")
    assert rest == "# empty: no config can be proposed, because its graph could not be read\n"
    config.write_text(text)
    shutil.rmtree(tmp_path / "models" / "empty")
    assert spillway("config", "check", str(tmp_path / "models")).status == 0, "what it prints is what it accepts"


def test_check_as_json(spillway: Spillway, tmp_path: Path) -> None:
    (tmp_path / "m" / "1").mkdir(parents=True)
    (tmp_path / "m" / "1" / "model.onnx").write_bytes(b"no model")
    said = spillway("config", "check", "--json", str(tmp_path))
    assert said.status == 1
    assert said.json["good"] is False
    (model,) = said.json["models"]
    assert (model["name"], model["corrected"]) == ("m", "")
    assert model["findings"][0]["severity"] == "error"


def test_check_without_a_repository(spillway: Spillway, tmp_path: Path) -> None:
    assert spillway("config", "check").status == 2
    assert spillway("config", "check", str(tmp_path / "missing")).status == 78
    assert spillway("config", "check", str(tmp_path)).out == "there are no models\n"


def test_check_takes_the_repository_of_the_settings(spillway: Spillway, tmp_path: Path) -> None:
    (tmp_path / "spillway.toml").write_text(f"[repository]\ndirectories = [{str(MODELS)!r}]\n")
    assert spillway("config", "check", "--config", str(tmp_path / "spillway.toml")).out == "digits: ok\n"


def test_shown_settings_are_a_config_file(spillway: Spillway, tmp_path: Path) -> None:
    given = tmp_path / "given.toml"
    given.write_text(
        '[daemon]\nload = ["a", "b\\u00fc\\"\\\\"]\n[serving]\nmax_wait_s = 0.00001\n'
        '[access.identities]\n"camera 7" = ["infer"]\n'
    )
    flags = ("--config", str(given), "--grpc-port", "7", "--insecure")
    shown = spillway("config", "show", *flags)
    assert shown.status == 0, shown.err
    tables = tomllib.loads(shown.out)
    assert set(tables) == set(Config.__struct_fields__)
    written = tmp_path / "written.toml"
    written.write_text(shown.out)
    again = load_config(written, environment={}).config
    assert again == load_config(given, {"grpc.port": 7, "access.insecure": True}, environment={}).config
    with_origins = spillway("config", "show", "--origin", *flags)
    assert tomllib.loads(with_origins.out) == tables


def test_origins(spillway: Spillway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spillway.toml"
    file.write_text("[daemon]\ndrain_s = 5.0\n")
    monkeypatch.setenv("SPILLWAY_HTTP_PORT", "9000")
    flags = ("--config", str(file), "--grpc-port", "7")
    lines = spillway("config", "show", "--origin", *flags).out.splitlines()
    assert f"drain_s = 5.0  # {file}" in lines
    assert "port = 9000  # environment SPILLWAY_HTTP_PORT" in lines
    assert "port = 7  # flag" in lines
    assert 'log_level = "INFO"  # default' in lines
    assert "# identities is not set  # default" in lines
    shown = spillway("config", "show", "--origin", "--json", *flags).json
    assert shown["daemon"]["drain_s"] == {"value": 5.0, "origin": str(file)}
    assert spillway("config", "show", "--json", *flags).json["daemon"]["drain_s"] == 5.0


def test_wrong_settings_are_status_78(spillway: Spillway) -> None:
    said = spillway("config", "show", "--drain", "-1")
    assert (said.status, said.out) == (78, "")
    assert said.err.startswith("spillway: drain_s -1.0 is outside 0..3600")
    assert said.err.count("\n") == 1
