import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_without_onnxruntime_the_daemon_says_which_extra_to_install() -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; from runtime.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, "serve", "--model-repository", "examples/digits/models"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ended.returncode == 78
    assert "neither onnxruntime nor onnxruntime-gpu is installed" in ended.stderr
    assert "spillway-runtime[cpu]" in ended.stderr
    assert "Traceback" not in ended.stderr
