"""`spillway config check|show`: what is wrong with a model repository, and what the daemon's settings are."""

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.cli import output, serve
from runtime.config import DEFAULT_FILE, Loaded, load_config

if TYPE_CHECKING:
    from runtime.repository.check import ModelReport, RepositoryReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the verbs and their flags."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    check = verbs.add_parser("check", help="look for mistakes in a model repository, print the config that would work")
    text = "model repositories (default: those of the daemon's settings)"
    check.add_argument("directories", nargs="*", metavar="DIR", help=text)
    check.add_argument("--config", type=Path, metavar="FILE", help=f"settings of the daemon; default {DEFAULT_FILE}")
    check.add_argument(
        "--corrected", action="store_true", help="print the whole config of every model, also of good ones"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(verb_run=run_check, refuse=check.error)

    show = verbs.add_parser("show", help="print the settings that `spillway serve` with the same flags would have")
    serve.add_arguments(show)
    show.add_argument("--origin", action="store_true", help="say where each value comes from")
    show.add_argument("--json", action="store_true", help="print JSON")
    show.set_defaults(verb_run=run_show)


def run(args: argparse.Namespace) -> int:
    """Run the verb."""
    return int(args.verb_run(args))


def run_check(args: argparse.Namespace) -> int:
    """Print what was found; 1 where a model cannot be served as it is."""
    from runtime.daemon import make_gate  # noqa: PLC0415 - the whole daemon, which `show` does without
    from runtime.repository.check import check_repository  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="spillway-check-") as folder:
        # Every model is tried afresh, and nothing is left in the daemon's state: this may be another user.
        flags: dict[str, Any] = {"repository.state_dir": folder, "repository.probe_s": 0.0}
        if args.directories:
            flags["repository.directories"] = [str(Path(each).absolute()) for each in args.directories]
        config = load_config(args.config, flags).config
        if not config.repository.directories:
            args.refuse("no model repository: give DIR, or repository.directories in the settings")
        gate = make_gate(config)
        try:
            report = check_repository(config.repository, gate)
        finally:
            gate.rest()
    if args.json:
        output.as_json({"good": report.is_good, "ignored": report.ignored, "models": report.models})
    else:
        _print_report(report, whole=args.corrected)
    return 0 if report.is_good else 1


def _print_report(report: "RepositoryReport", *, whole: bool) -> None:
    for finding in report.ignored:
        output.say(f"{finding.place}: {finding.message}")
    for model in report.models:
        errors = sum(finding.severity == "error" for finding in model.findings)
        output.say(f"{model.name}: " + (f"{errors} error{'s' if errors > 1 else ''}" if errors else "ok"))
        for finding in model.findings:
            output.say(f"  {finding.severity}  {finding.place}: {finding.message}")
    for model in report.models:
        if whole or not model.is_good:
            _print_corrected(model)
    if not report.models:
        output.say("there are no models")


def _print_corrected(model: "ModelReport") -> None:
    output.say()
    if not model.corrected:
        output.say(f"# {model.name}: no config can be proposed, because its graph could not be read")
        return
    output.say(f"# {model.name}/config.pbtxt, {'completed' if model.is_good else 'corrected'}")
    print(model.corrected, end="")


def run_show(args: argparse.Namespace) -> int:
    """Print the composed settings."""
    loaded = load_config(args.config, serve.flags_of(args))
    if args.json:
        output.as_json(_tables(loaded, origins=args.origin))
    else:
        for line in _as_toml(loaded, origins=args.origin):
            print(line)
    return 0


def _tables(loaded: Loaded, *, origins: bool) -> dict[str, Any]:
    """Settings by table and key; with `origins` each is `{"value": ..., "origin": ...}`."""
    tables: dict[str, Any] = {}
    for section in loaded.config.__struct_fields__:
        settings = getattr(loaded.config, section)
        values = {key: getattr(settings, key) for key in settings.__struct_fields__}
        if origins:
            values = {
                key: {"value": value, "origin": loaded.origins.get(f"{section}.{key}", "default")}
                for key, value in values.items()
            }
        tables[section] = values
    return tables


def _as_toml(loaded: Loaded, *, origins: bool) -> list[str]:
    """Settings as the TOML file that would give them; what TOML cannot say (nothing) is a comment."""
    lines: list[str] = []
    for section, values in _tables(loaded, origins=True).items():
        lines += ([""] if lines else []) + [f"[{section}]"]
        for key, entry in values.items():
            unset = entry["value"] is None
            line = f"# {key} is not set" if unset else f"{key} = {_toml(entry['value'])}"
            lines.append(line + (f"  # {entry['origin']}" if origins else ""))
    return lines


def _toml(value: Any) -> str:
    """One value. JSON's strings and booleans are TOML's too; its numbers are not all of TOML's (inf)."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(each)}" for key, each in value.items()) + " }"
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return repr(value) if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
