"""The Containerfiles as far as they can be checked where no image can be built."""

import json
import os
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime.cli import build_parser
from runtime.cli.serve import flags_of
from runtime.config import load_config
from runtime.transport.access import HTTP_ROLES

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "containers").glob("Containerfile.*"))
KNOWN = {
    *("FROM", "WORKDIR", "COPY", "RUN", "ENV", "USER", "VOLUME", "EXPOSE"),
    *("STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD"),
}


class Instruction(NamedTuple):
    name: str
    value: str


def instructions(path: Path) -> list[Instruction]:
    """The instructions, continuation lines joined, comments dropped."""
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\s*\\\n\s*", " ", "\n".join(lines))
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines()]


def only(path: Path, name: str) -> str:
    (value,) = (entry.value for entry in instructions(path) if entry.name == name)
    return value


def words(text: str) -> list[str]:
    """The words of an instruction in its JSON form."""
    return [str(word) for word in json.loads(text)]


def environment(path: Path) -> dict[str, str]:
    return dict(pair.split("=", 1) for pair in only(path, "ENV").split())


pytestmark = pytest.mark.parametrize("path", FILES, ids=lambda path: path.suffix[1:])


def test_there_is_one_for_each_kind_of_node(path: Path) -> None:
    assert {file.suffix for file in FILES} == {".cpu", ".gpu"}
    assert {entry.name for entry in instructions(path)} == KNOWN


def test_stages_build_on_one_fixed_base(path: Path) -> None:
    """The environment is copied between the stages, so both have to have the same Python."""
    stages = [entry.value for entry in instructions(path) if entry.name == "FROM"]
    assert [stage.removesuffix(" AS build") for stage in stages] == ["python:3.12-slim"] * 2


def test_what_is_copied_exists_and_is_let_into_the_build(path: Path) -> None:
    copied = [entry.value.split() for entry in instructions(path) if entry.name == "COPY"]
    sources = {source for words in copied if words[0] != "--from=build" for source in words[:-1]}
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert sources == {line[1:] for line in ignored if line.startswith("!")}
    for source in sources:
        assert (ROOT / source).exists(), source


def test_the_extra_is_one_that_the_project_has(path: Path) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    installed = re.findall(r"'\.\[(\w+)\]'", path.read_text())
    assert installed == [path.suffix[1:]]
    assert installed[0] in extras


def test_the_process_is_no_superuser_and_stops_by_draining(path: Path) -> None:
    user, group = only(path, "USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    assert only(path, "STOPSIGNAL") == "SIGTERM"
    assert set(only(path, "EXPOSE").split()) == {"8001", "8000", "8002"}


def test_the_command_is_one_that_the_daemon_knows(path: Path) -> None:
    program, *rest = words(only(path, "ENTRYPOINT")) + words(only(path, "CMD"))
    assert program == "spillway"
    config = load_config(Path(os.devnull), flags_of(build_parser("serve").parse_args(rest)), environment(path)).config
    assert config.repository.directories == ("/models",)
    assert {config.grpc.host, config.http.host, config.http.metrics_host} == {"127.0.0.1"}
    assert not config.access.insecure


def test_the_health_check_is_a_program_of_the_image(path: Path) -> None:
    _, _, command = only(path, "HEALTHCHECK").partition("CMD ")
    *_, program, route = words(command)
    copied = dict(entry.value.split()[-2:] for entry in instructions(path) if entry.name == "COPY")
    assert copied["containers/probe.py"] == program
    assert ("GET", route) in HTTP_ROLES


def test_the_runtime_does_not_report_to_its_maker(path: Path) -> None:
    assert environment(path)["ORT_DISABLE_TELEMETRY"] == "1"
