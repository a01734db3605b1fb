"""What one program of the bench found: figures, targets beside them, a JSON file, an exit status.

The frame of all programs that test the daemon alone (overload, idle, soak, drain, start). A program prints a figure as
soon as it has it; targets come last, all together. Exit status 1 when one is missed, 2 when nothing could be measured.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console

from bench import harness, report, servers
from bench.environments import Unavailable
from bench.targets import AT_LEAST, AT_MOST, Verdict, missed

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "bench"
MISSED, UNMEASURED = 1, 2


class Findings:
    """Collects what a program finds. `figures` go to the JSON file as they are, by name."""

    def __init__(self, bench: str, *, quick: bool) -> None:
        self.quick = quick
        self.figures: dict[str, Any] = {}
        self._bench = bench
        self._machine = machine()
        self._verdicts: list[Verdict] = []
        self._console = Console() if sys.stdout.isatty() else Console(width=160)  # a pipe would get 80 columns

    def say(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, highlight=False, markup=False)

    def at_most(self, what: str, figure: float | None, bound: float) -> None:
        """State a target; None, not measured, is a miss."""
        self._verdicts.append(Verdict(what, figure, AT_MOST, bound, figure is not None and figure <= bound))

    def at_least(self, what: str, figure: float | None, bound: float) -> None:
        """State a target; None, not measured, is a miss."""
        self._verdicts.append(Verdict(what, figure, AT_LEAST, bound, figure is not None and figure >= bound))

    def close(self, file: Path | None) -> int:
        """Print the targets, write the file, return the exit status."""
        report.show_targets(self._console, self._verdicts)
        if file is not None:
            content = {
                "bench": self._bench,
                "quick": self.quick,
                "machine": self._machine,
                "figures": self.figures,
                "targets": self._verdicts,
            }
            file.write_bytes(msgspec.json.format(msgspec.json.encode(content)) + b"\n")
        return MISSED if missed(self._verdicts) else 0


def arguments(description: str | None) -> argparse.ArgumentParser:
    """The flags that every program has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="shorter and fewer; the targets are the same")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure to FILE")
    return parser


def measured(bench: str, args: argparse.Namespace, program: Callable[[Findings], None]) -> int:
    """Run `program` with the loader built, and return the exit status of the whole."""
    findings = Findings(bench, quick=args.quick)
    try:
        harness.build_loader()
        program(findings)
    except Unavailable as reason:
        findings.say(f"{bench}: {reason}")
        return UNMEASURED
    return findings.close(args.json)


def machine() -> dict[str, str]:
    """What a reader of the figures must know of this machine."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "onnxruntime": version("onnxruntime"),
        "grpcio": version("grpcio"),
        "cores": str(servers.cores()),
        "load_at_start": " ".join(f"{load:.2f}" for load in os.getloadavg()),
    }
