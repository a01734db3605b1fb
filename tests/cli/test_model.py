from pathlib import Path

import pytest

from tests.cli.conftest import MODELS, Spillway
from tests.e2e.daemon import Daemon

Flags = tuple[str, str]


def test_list(spillway: Spillway, grpc: Flags) -> None:
    lines = spillway("model", "list", *grpc).out.splitlines()
    assert lines[0].split() == ["model", "version", "state", "reason"]
    assert lines[1].split() == ["digits", "1", "READY"], "other tests leave unloaded versions below it"
    first = spillway("model", "list", "--json", *grpc).json[0]
    assert first == {"model": "digits", "version": "1", "state": "READY", "reason": ""}


def test_show(spillway: Spillway, http: Flags) -> None:
    said = spillway("model", "show", "digits", "--version", "1", *http)
    assert said.status == 0, said.err
    lines = said.out.splitlines()
    assert lines[0] == "digits version 1: READY"
    assert "  input     image UINT8 [-1, 8, 8]" in lines
    assert "            digit INT64 [-1, 1]" in lines
    assert any(line.startswith("  runs on   cpu, ") for line in lines)
    assert any(line.startswith("            openvino: not in the installed build") for line in lines)
    assert any(line.startswith("run time for image [8, 8]: ") for line in lines)
    assert spillway("model", "show", "digits", "--version", "1", "--json", *http).json[0]["model"] == "digits"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("digitz",), "Request for unknown model: 'digitz' is not found"),
        (("digits", "--version", "2"), "model 'digits' has no version 2, it has [1"),
    ],
)
def test_show_what_is_not_there(spillway: Spillway, http: Flags, words: tuple[str, ...], message: str) -> None:
    said = spillway("model", "show", *words, *http)
    assert said.status == 1
    assert said.err.startswith(f"spillway: {message}")


def test_unload_and_load(spillway: Spillway, grpc: Flags, http: Flags) -> None:
    try:
        assert spillway("model", "unload", "digits", *grpc).out == "digits is unloaded\n"
        assert "UNLOADED" in spillway("model", "show", "digits", *http).out
        assert spillway("model", "list", *grpc).out.splitlines()[1].split()[:1] == ["digits"]
        page = spillway("status", *http).out.splitlines()
        assert page[3].split() == ["digits", "1", "UNLOADED"]
        assert not any("is UNLOADED" in line for line in page), "the state says it all"
    finally:
        said = spillway("model", "load", "digits", *grpc)
    assert said.out == "digits is loaded, ready: version 1\n"


def test_load_with_a_config_and_a_file(spillway: Spillway, grpc: Flags, http: Flags, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text('{"name": "digits", "max_batch_size": 16, "dynamic_batching": {}}')
    file = f"7/model.onnx={MODELS}/digits/1/model.onnx"
    try:
        said = spillway("model", "load", "digits", "--config", str(config), "--file", file, "--json", *grpc)
        assert said.status == 0, said.err
        assert said.json == {"model": "digits", "ready": [7]}
        (shown,) = spillway("model", "show", "digits", "--version", "7", "--json", *http).json
        assert shown["serving"]["max_batch_size"] == 16
    finally:
        assert spillway("model", "load", "digits", *grpc).status == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("missing",), "failed to load 'missing', failed to poll from model repository"),
        (("digits", "--config", "nowhere.json"), "nowhere.json: No such file or directory"),
        (("digits", "--file", "1/model.onnx"), "is not PATH=LOCAL"),
        (("digits", "--file", f"1/model.onnx={MODELS}/digits/1/model.onnx"), "need the parameter 'config' too"),
        (("digits", "--config", f"{MODELS}/digits/config.pbtxt"), "failed to load 'digits'"),
    ],
)
def test_loads_that_fail(spillway: Spillway, grpc: Flags, words: tuple[str, ...], message: str) -> None:
    said = spillway("model", "load", *words, *grpc)
    assert said.status == 1
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_server_that_is_not_there(spillway: Spillway, daemon: Daemon) -> None:
    said = spillway("model", "list", "--grpc", f"unix:{daemon.process.pid}.sock")
    assert said.status == 1
    assert "failed to connect" in said.err
