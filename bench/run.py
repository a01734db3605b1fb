"""All programs of the bench, one after the other, and what became of them.

    python -m bench.run [--quick] [--json FILE] [--only soak,drain]

Each is a process of its own, says what it has to say, and is judged by its exit status: 0 all targets reached, 1 one
was missed; without a report, or with another status, it measured nothing. A program that fails does not keep the next
one from running. The JSON file holds what each wrote into its own. Exit status 1 where one did not end with 0.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

HOME = Path(__file__).parent
PROGRAMS = ("serve", "wire", "engine", "overload", "idle", "soak", "drain", "start")


@dataclass(frozen=True)
class Ran:
    """One program: how it ended, and what it wrote (None: nothing)."""

    program: str
    status: int
    took_s: float
    report: Any = None

    @property
    def missed(self) -> list[str]:
        """The targets that do not hold, where its report tells."""
        targets = self.report.get("targets", []) if isinstance(self.report, dict) else []
        return [f"{each['what']}: {_figure(each)}" for each in targets if each["holds"] is False]


def run(program: Path, flags: list[str], scratch: Path) -> Ran:
    """Run one program to its end; its output goes where ours goes."""
    report = scratch / f"{program.stem}.json"
    begun = time.monotonic()
    status = subprocess.run([sys.executable, str(program), *flags, "--json", str(report)], check=False).returncode
    content = msgspec.json.decode(report.read_bytes()) if report.exists() else None
    return Ran(program.stem, status, time.monotonic() - begun, content)


def summary(results: list[Ran]) -> Table:
    """A line for each program, and below it each target that it missed."""
    table = Table(title="bench", title_justify="left")
    for name in ("program", "minutes", "targets"):
        table.add_column(name, justify="right" if name == "minutes" else "left")
    for each in results:
        table.add_row(each.program, f"{each.took_s / 60:.1f}", "\n".join([_word(each), *each.missed]))
    return table


def _word(ran: Ran) -> str:
    if ran.status == 0:
        return "[green]all reached[/]"
    if ran.status == 1 and ran.report is not None:
        return "[red]missed[/]"
    return f"[red]not measured, exit status {ran.status}[/]"


def _figure(target: dict[str, Any]) -> str:
    figure = target["figure"]
    reached = "not measured" if figure is None else f"{figure:.3g}"
    return f"{reached}, wanted {target['relation']} {target['bound']:g}"


def main() -> int:
    """Run what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="hand --quick to every program")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every program's report to FILE")
    parser.add_argument("--only", metavar="NAMES", help=f"comma-separated, of {','.join(PROGRAMS)}")
    args = parser.parse_args()
    names = args.only.split(",") if args.only else list(PROGRAMS)
    if unknown := set(names) - set(PROGRAMS):
        parser.error(f"no such program: {', '.join(sorted(unknown))}")
    console = Console() if sys.stdout.isatty() else Console(width=160)  # a pipe would get 80 columns
    results: list[Ran] = []
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            console.rule(name)
            results.append(run(HOME / f"{name}.py", ["--quick"] if args.quick else [], Path(scratch)))
    console.print(summary(results))
    if args.json is not None:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(list(map(asdict, results)))) + b"\n")
    return 1 if any(each.status for each in results) else 0


if __name__ == "__main__":
    sys.exit(main())
