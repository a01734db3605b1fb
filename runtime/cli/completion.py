"""`spillway completion bash|zsh`: a script that teaches the shell all verbs and flags."""

import argparse

SHELLS = ("bash", "zsh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the flags."""
    parser.add_argument("shell", choices=SHELLS)
    text = "print the script as a JSON string"
    parser.add_argument("--json", action="store_true", help=text)
    parser.epilog = (
        'bash: eval "$(spillway completion bash)"; zsh: spillway completion zsh > a folder of $fpath/_spillway'
    )


def run(args: argparse.Namespace) -> int:
    """Print the script."""
    import shtab  # noqa: PLC0415 - completion only

    from runtime.cli import build_parser, output  # noqa: PLC0415 - it imports this module

    parser = build_parser()
    _complete_paths(parser, shtab.FILE, shtab.DIRECTORY)
    script = shtab.complete(parser, args.shell)
    if args.json:
        output.as_json({"shell": args.shell, "script": script})
    else:
        print(script)
    return 0


def _complete_paths(parser: argparse.ArgumentParser, file: object, folder: object) -> None:
    """Let the shell offer files and folders where a flag's metavar says that it takes one."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no public list of them, and shtab reads this one too
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for sub in action.choices.values():
                _complete_paths(sub, file, folder)
        elif action.metavar in ("FILE", "DIR"):
            action.complete = file if action.metavar == "FILE" else folder  # type: ignore[attr-defined]
