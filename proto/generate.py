"""Makes the Python stubs in `runtime/wire/pb` from the texts beside this file, or checks them.

    python proto/generate.py --write    # after a change of a .proto text
    python proto/generate.py --check    # exit 1, with the names of the files that differ

Runs in any Python that has grpcio-tools in the version named below; other versions write
other bytes. It needs nothing of the runtime, and it never changes the texts.

Rules:
- protobuf allows one definition of a name per process, and tritonclient and kserve bring
  theirs as `inference`: a temporary copy of the texts gets another package first.
- The stubs import each other as `runtime.wire.pb`, which protoc takes from the path that a
  text has on its command line.
- Messages only: the servers and clients of the runtime handle bytes and need no gRPC stubs.
"""

import argparse
import importlib.metadata
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

TOOLS_VERSION = "1.76.0"
TEXTS = Path(__file__).resolve().parent
ROOT = TEXTS.parent
STUBS = "runtime/wire/pb"
NAMES = ("inference", "model_config")
PACKAGE_LINE = "package inference;\n"
STUB_PACKAGE_LINE = "package spillway.inference;\n"
FILE_PATTERN = "*_pb2*.py*"


def stub_text(text: str) -> str:
    """Return the text that stubs are made from: package renamed, imports by their path in the runtime.

    Raises:
        ValueError: the package line does not stand there exactly once.
    """
    if (found := text.count(PACKAGE_LINE)) != 1:
        raise ValueError(f"{PACKAGE_LINE.strip()!r} found {found} times, wanted 1")
    text = text.replace(PACKAGE_LINE, STUB_PACKAGE_LINE)
    for name in NAMES:
        text = text.replace(f'import "{name}.proto";', f'import "{STUBS}/{name}.proto";')
    return text


def generate(root: Path) -> None:
    """Write all stubs to `runtime/wire/pb` under `root`, a folder that exists.

    Raises:
        subprocess.CalledProcessError: protoc refused a text; it has printed where and why.
    """
    with tempfile.TemporaryDirectory() as copies:
        for name in NAMES:
            text = (TEXTS / f"{name}.proto").read_text(encoding="utf-8")
            Path(copies, f"{name}.proto").write_text(stub_text(text), encoding="utf-8")
        options = [f"-I{STUBS}={copies}", f"--python_out={root}", f"--pyi_out={root}"]
        files = [f"{STUBS}/{name}.proto" for name in NAMES]
        subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *options, *files], check=True)


def differing(fresh: Path, kept: Path) -> list[str]:
    """Name the stubs that are missing on either side or differ in a byte, sorted."""
    new, old = ({path.name: path.read_bytes() for path in folder.glob(FILE_PATTERN)} for folder in (fresh, kept))
    return sorted(name for name in new.keys() | old.keys() if new.get(name) != old.get(name))


def replace(fresh: Path, kept: Path, names: Sequence[str]) -> None:
    """Bring the named files of `kept` to the state of `fresh`; a file that is no longer made goes."""
    for name in names:
        if (fresh / name).exists():
            (kept / name).write_bytes((fresh / name).read_bytes())
        else:
            (kept / name).unlink()


def tools_version() -> str:
    """Return the version of grpcio-tools in this interpreter, `none` where it is missing."""
    try:
        return importlib.metadata.version("grpcio-tools")
    except importlib.metadata.PackageNotFoundError:
        return "none"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 1 for a difference, 2 for another grpcio-tools."""
    parser = argparse.ArgumentParser(description="make or check the stubs in runtime/wire/pb")
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--write", action="store_true", help="write the stubs")
    mode.add_argument("--check", action="store_true", help="exit 1 where the committed stubs differ from the texts")
    wanted = parser.parse_args(arguments)
    if (found := tools_version()) != TOOLS_VERSION:
        print(f"grpcio-tools {found}, wanted {TOOLS_VERSION}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as aside:
        generate(Path(aside))
        fresh, kept = Path(aside, STUBS), ROOT / STUBS
        names = differing(fresh, kept)
        if wanted.write:
            replace(fresh, kept, names)
    for name in names:
        print(f"{STUBS}/{name} {'updated' if wanted.write else 'differs from proto/'}")
    return 1 if names and wanted.check else 0


if __name__ == "__main__":
    sys.exit(main())
