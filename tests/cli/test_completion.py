import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.conftest import Spillway

ASK = """
source {script}
COMP_WORDS=({words} '{last}')
COMP_CWORD={index}
COMP_LINE="${{COMP_WORDS[*]}}"
_shtab_spillway
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("words", "last", "offered"),
    [
        (["spillway"], "sta", {"status"}),
        (["spillway", "model"], "", {"list", "show", "load", "unload"}),
        (["spillway", "completion"], "", {"bash", "zsh"}),
        (["spillway", "bench"], "--con", {"--concurrency"}),
        (["spillway", "bench", "digits", "--plot"], "pl", {"plot.png", "plots"}),
        (["spillway", "serve", "--model-repository"], "pl", {"plots"}),
    ],
)
def test_bash_completes(spillway: Spillway, tmp_path: Path, words: list[str], last: str, offered: set[str]) -> None:
    script = tmp_path / "completion.sh"
    script.write_text(spillway("completion", "bash").out)
    (tmp_path / "plots").mkdir()
    (tmp_path / "plot.png").write_text("")
    ask = ASK.format(script=script, words=" ".join(words), last=last, index=len(words))
    answer = subprocess.run(["bash", "-c", ask], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert {word.rstrip("/") for word in answer.stdout.split()} >= offered, answer.stderr
    if last:
        assert all(word.startswith(last) for word in answer.stdout.split())


def test_zsh_script(spillway: Spillway, tmp_path: Path) -> None:
    script = spillway("completion", "zsh").out
    assert script.startswith("#compdef spillway")
    assert "--concurrency" in script
    if zsh := shutil.which("zsh"):
        (tmp_path / "_spillway").write_text(script)
        subprocess.run([zsh, "-n", tmp_path / "_spillway"], check=True)


def test_json(spillway: Spillway) -> None:
    said = json.loads(spillway("completion", "bash", "--json").out)
    assert said["shell"] == "bash"
    assert "complete" in said["script"]
