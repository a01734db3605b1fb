"""`spillway doctor`: what would keep the daemon from running, or from running well, on this machine."""

import argparse
import sys
from collections.abc import Iterator

from runtime.cli import output, serve
from runtime.cli.check import Check, fail, ok
from runtime.config import DEFAULT_FILE, load_config
from runtime.core.errors import ConfigError

TRIAL = (sys.executable, "-m", "runtime.serving.trial")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags: those of `serve`, so that what is examined is what would run."""
    parser.description = "Look for what would keep the daemon from running well. Takes the flags of `spillway serve`."
    serve.add_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Print every check; 1 where one failed."""
    checks = list(examine(args))
    if args.json:
        output.as_json(checks)
    else:
        output.table(("", "check", "found"), [[each.status, each.name, each.found] for each in checks])
        for each in checks:
            if each.advice:
                output.say(f"{each.status}  {each.name}: {each.advice}")
    return 1 if any(each.status == "fail" for each in checks) else 0


def examine(args: argparse.Namespace) -> Iterator[Check]:
    """Run all checks."""
    from runtime.cli import machine_checks, node_checks  # noqa: PLC0415 - psutil and protobuf

    try:
        loaded = load_config(args.config, serve.flags_of(args))
    except ConfigError as error:
        yield from machine_checks.look(threads=1, connections=0)
        yield fail("settings", str(error), "mend the value; `spillway config show` prints the settings once they load")
        return
    config = loaded.config
    yield from machine_checks.look(config.serving.thread_budget, config.http.max_connections)
    file = args.config or DEFAULT_FILE
    found = f"{file} is read" if file.exists() else f"defaults, there is no {file}"
    given = sorted(key for key, origin in loaded.origins.items() if not origin.startswith("default"))
    yield ok("settings", f"{found}; given: {', '.join(given) or 'nothing'}")
    yield from node_checks.look(config, TRIAL)
