"""The `spillway` command: one module per noun, imported only when it is called; no logic of its own.

Each module offers `add_arguments(parser)` and `run(args) -> int`. Exit status: 0 done, 1 failed, 2 usage,
3 a gate was not met, 78 bad configuration.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from runtime import __version__
from runtime.core.errors import ConfigError, SpillwayError

EXIT_FAILED = 1
EXIT_CONFIG = 78

COMMANDS = {
    "serve": "run the daemon",
    "status": "what the server does, and why",
    "model": "what is in the repository: list, show, load, unload",
    "infer": "send one request",
    "bench": "measure a served model",
    "doctor": "look for what would keep the daemon from running well",
    "config": "the configuration: check a model repository, show the daemon's settings",
    "completion": "print a completion script for a shell",
}
"""Command -> what it does, in the order that people see. The module is `runtime.cli.<command>`."""


def build_parser(wanted: str | None = None) -> argparse.ArgumentParser:
    """The whole parser, or with the arguments of `wanted` only, which spares importing the other modules."""
    parser = argparse.ArgumentParser(prog="spillway", description="Edge-plus-cloud inference runtime.")
    parser.add_argument("--version", action="version", version=f"spillway {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, summary in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary)
        if wanted is None or wanted == name:
            module = importlib.import_module(f"runtime.cli.{name}")
            module.add_arguments(command)
            command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; never raises for what a person can mend."""
    words = list(sys.argv[1:] if argv is None else argv)
    wanted = next((word for word in words if word in COMMANDS), "")
    args = build_parser(wanted).parse_args(words)
    try:
        return int(args.run(args))
    except ConfigError as error:
        print(f"spillway: {error}", file=sys.stderr)
        return EXIT_CONFIG
    except SpillwayError as error:
        print(f"spillway: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BrokenPipeError:  # whoever read our output has seen enough
        sys.stderr.close()
        return EXIT_FAILED
    except KeyboardInterrupt:
        return 130
