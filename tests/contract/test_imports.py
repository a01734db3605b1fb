"""Who may import whom (STYLE.md section 2), held by walking the syntax trees."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RANKS = {
    "core": 0,
    "wire": 1,
    "repository": 2,
    "serving": 3,
    "client": 3,
    "transport": 4,
    "config": 5,
    "daemon": 6,
    "cli": 7,
}
LEAVES = {"logs", "process", "__init__"}
"""Modules that import nothing of ours and that everybody above `config` may use."""

ONLY = {
    "onnxruntime": {"runtime/serving/instance.py"},
    "onnx": {"runtime/serving/structure.py"},
    "grpc": {"runtime/wire/", "runtime/transport/", "runtime/client/"},
    "grpc_health": {"runtime/wire/", "runtime/transport/"},
    "grpc_reflection": {"runtime/wire/", "runtime/transport/"},
    "google": {"runtime/wire/", "runtime/transport/", "runtime/repository/", "runtime/client/"},
    "aiohttp": {"runtime/transport/"},
    "prometheus_client": {"runtime/transport/"},
    "torch": set(),
    "compress": set(),
    "tritonclient": set(),
    "sklearn": set(),
}
"""Packages that only these files or folders may import; core is held to numpy and msgspec below."""

SOURCES = sorted(path for path in (ROOT / "runtime").rglob("*.py") if "pb" not in path.parts)


def room(name: str) -> str:
    """`runtime.serving.batcher` -> `serving`; `runtime.config` -> `config`."""
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def module_name(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_room_imports_only_rooms_below_it(path: Path) -> None:
    mine = room(module_name(path))
    for name in imported(path):
        if name.split(".")[0] != "runtime" or name == "runtime":
            continue
        theirs = room(name)
        if theirs in LEAVES or theirs == mine:
            continue
        assert mine not in LEAVES, f"{path} imports {name}, and must import nothing of ours"
        if mine == "__main__":
            continue
        assert RANKS[theirs] < RANKS[mine], f"{path} imports {name}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_package_is_imported_only_where_it_belongs(path: Path) -> None:
    place = str(path.relative_to(ROOT))
    for name in imported(path):
        package = name.split(".")[0]
        allowed = ONLY.get(package)
        if allowed is not None:
            assert any(place.startswith(prefix) for prefix in allowed), f"{place} imports {name}"
        if place.startswith("runtime/core/") and package not in sys.stdlib_module_names:
            assert package in {"runtime", "numpy", "msgspec"}, f"{place} imports {name}"


def test_modules_have_no_cycles() -> None:
    graph = {module_name(path): {name for name in imported(path) if name.startswith("runtime.")} for path in SOURCES}
    done: set[str] = set()

    def visit(name: str, road: tuple[str, ...]) -> None:
        assert name not in road, " -> ".join((*road, name))
        if name in done or name not in graph:
            return
        for other in graph[name]:
            visit(other, (*road, name))
        done.add(name)

    for name in graph:
        visit(name, ())


def test_the_daemon_never_imports_torch_nor_the_trial_s_packages() -> None:
    code = "import sys, runtime.daemon; print(sorted({'torch', 'onnx', 'compress', 'sklearn'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_files_and_functions_stay_short() -> None:
    long: list[str] = []
    for path in SOURCES:
        text = path.read_text()
        if (lines := text.count("\n")) > 400:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines, limit 400")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines, limit 60")
    assert not long
