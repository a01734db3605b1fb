import subprocess
import sys

import pytest

from runtime.cli import COMMANDS, build_parser
from tests.cli.conftest import Spillway
from tests.e2e.daemon import ROOT

HEAVY = {"numpy", "grpc", "google.protobuf", "msgspec", "rich", "shtab", "matplotlib", "psutil", "aiohttp"}


def test_help_is_light() -> None:
    """Under 0.15 s of CPU, whatever a busy machine makes of the wall clock; the best of three."""
    code = (
        "import sys, time\n"
        "from runtime.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        f"print(time.process_time(), *sorted({HEAVY!r} & set(sys.modules)))"
    )
    answers = [
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for _ in range(3)
    ]
    for name, summary in COMMANDS.items():
        assert name in answers[0]
        assert summary.split()[0] in answers[0]
    figures = [answer.splitlines()[-1].split() for answer in answers]
    assert figures[0][1:] == []
    assert min(float(figure[0]) for figure in figures) < 0.15


def test_only_the_verb_that_is_called_is_imported() -> None:
    code = (
        "import sys\n"
        "from runtime.cli import main\n"
        "try: main(['bench', '--help'])\n"
        "except SystemExit: pass\n"
        f"print(*sorted({HEAVY - {'msgspec'}!r} & set(sys.modules)))\n"
        "print(*sorted(name for name in sys.modules if name.startswith('runtime.cli.')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy, modules = answer.stdout.splitlines()[-2:]
    assert heavy == ""
    assert modules.split() == ["runtime.cli.bench", "runtime.cli.output", "runtime.cli.server"]


def test_every_verb_takes_json() -> None:
    def verbs(parser: object, name: str) -> dict[str, str]:
        subs = [action for action in parser._actions if hasattr(action, "choices") and isinstance(action.choices, dict)]  # type: ignore[attr-defined]
        if not subs:
            return {name: parser.format_help()}  # type: ignore[attr-defined]
        return {k: v for word, sub in subs[0].choices.items() for k, v in verbs(sub, f"{name} {word}").items()}

    found = verbs(build_parser(), "spillway")
    assert [name for name, text in found.items() if "--json" not in text] == ["spillway serve"]


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["model"],
        ["model", "fly"],
        ["infer"],
        ["infer", "digits"],
        ["bench", "digits", "--concurrency", "0"],
        ["bench", "digits", "--rate", "-1"],
        ["bench", "digits", "--shape", "image"],
        ["status", "--timeout", "-1"],
        ["status", "--timeout", "soon"],
        ["completion", "fish"],
        ["model", "list", "--tls-cert", "a.pem"],
    ],
)
def test_wrong_usage_is_status_2(spillway: Spillway, words: list[str]) -> None:
    said = spillway(*words)
    assert said.status == 2
    assert said.out == ""
    assert said.err.startswith("usage: spillway")


def test_python_m_runtime_is_the_command() -> None:
    command = [sys.executable, "-m", "runtime", "model", "list", "--grpc", "127.0.0.1:1"]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert answer.returncode == 1
    assert answer.stdout == ""
    assert answer.stderr.startswith("spillway: failed to connect")
    assert answer.stderr.count("\n") == 1
