"""What the distribution owns, and that its pieces agree with each other."""

import tomllib
from pathlib import Path

import runtime

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_wheel_owns_runtime_only() -> None:
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["runtime"]


def test_one_version_everywhere() -> None:
    assert PROJECT["project"]["version"] == runtime.__version__
    assert (
        f"## {runtime.__version__}" in (ROOT / "CHANGELOG.md").read_text()
        or "## Unreleased" in (ROOT / "CHANGELOG.md").read_text()
    )


def test_a_node_never_needs_torch() -> None:
    wanted = [*PROJECT["project"]["dependencies"], *PROJECT["project"]["optional-dependencies"]["cpu"]]
    wanted += PROJECT["project"]["optional-dependencies"]["gpu"]
    assert not [name for name in wanted if name.startswith(("torch", "tensorflow"))]


def test_constraints_pin_every_direct_dependency() -> None:
    pinned = {
        line.split("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line and not line.startswith("#")
    }
    extras = PROJECT["project"]["optional-dependencies"]
    direct = [*PROJECT["project"]["dependencies"], *extras["cpu"], *extras["demo"], *extras["dev"]]
    names = {name.split("[")[0].split(">")[0].split("=")[0].strip().lower().replace("_", "-") for name in direct}
    assert not names - pinned
