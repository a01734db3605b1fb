"""The examples of docs/http.md and docs/metrics.md, run by a shell against a front on ports of its own."""

import asyncio
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import ModelNotFound
from runtime.core.inference import InferRequest, InferResult, OutputTensor
from runtime.core.verdict import Verdict
from runtime.serving.statistics import Statistics
from runtime.transport.http_settings import HttpSettings
from runtime.transport.loop_lag import LoopLag
from runtime.transport.metrics import Metrics
from runtime.wire.pb import inference_pb2 as pb
from tests.transport.http_harness import FakeControl, FakeEngine, FakeRepository, as_array, serving

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="the examples call curl")


def test_one_row_of_the_table_for_each_limit() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", (DOCS / "http.md").read_text(), re.MULTILINE)
    limits = {name for name in HttpSettings.__struct_fields__ if name.startswith("max_") or name.endswith("_s")}
    assert limits <= set(listed)


@pytest.mark.parametrize("page", ["http.md", "metrics.md"])
async def test_examples_print_what_the_page_says(page: str, tmp_path: Path) -> None:
    blocks = re.findall(r"^```console\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)
    assert blocks
    repository = _Repository()
    scrape = Metrics(repository, LoopLag(), {"version": "0"}).scrape  # type: ignore[arg-type]
    async with serving(FakeEngine(answer=twice), _control(), repository, scrape=scrape) as app:
        for block in blocks:
            script, expected = _split(block)
            for standard, chosen in ((8000, app.port), (8002, app.metrics_port)):
                script = script.replace(f"localhost:{standard}", f"127.0.0.1:{chosen}")
            shell = ["bash", "-euo", "pipefail", "-c", script]
            ran = await asyncio.to_thread(subprocess.run, shell, cwd=tmp_path, capture_output=True, timeout=30)
            # JSON ends without a newline; a page does not look like that.
            assert (ran.stdout.decode().replace("\n", ""), ran.returncode) == (expected.replace("\n", ""), 0), script


def _split(block: str) -> tuple[str, str]:
    """Commands (`$ ` and the indented lines after it), and what they print."""
    commands, printed = [], []
    for line in block.splitlines(keepends=True):
        if line.startswith(("$ ", "    ", "  }")):
            commands.append(line.removeprefix("$ "))
        else:
            printed.append(line)
    return "".join(commands), "".join(printed)


def twice(request: InferRequest) -> InferResult | Exception:
    if request.head.model_name != "twice":
        return ModelNotFound(request.head.model_name)
    return InferResult("twice", "1", [OutputTensor("y", "FP32", np.multiply(as_array(request, 0), np.float32(2)))])


def _control() -> FakeControl:
    metadata = pb.ModelMetadataResponse(name="twice", versions=["1"], platform="onnxruntime_onnx")
    metadata.inputs.add(name="x", datatype="FP32", shape=[-1, 2])
    metadata.outputs.add(name="y", datatype="FP32", shape=[-1, 2])
    index = pb.RepositoryIndexResponse()
    index.models.add(name="twice", version="1", state="READY")
    return FakeControl(
        {
            "ServerReady": pb.ServerReadyResponse(ready=True),
            "ModelReady": pb.ModelReadyResponse(ready=True),
            "ModelMetadata": metadata,
            "RepositoryIndex": index,
        }
    )


@dataclass
class _Scheduler:
    statistics: Statistics = field(default_factory=Statistics)


@dataclass
class _Served:
    name: str = "twice"
    version: int = 1
    verdict: Verdict = field(default_factory=Verdict)
    scheduler: _Scheduler = field(default_factory=_Scheduler)


class _Repository(FakeRepository):
    def __init__(self) -> None:
        super().__init__()
        self.one = _Served()
        self.one.scheduler.statistics.inference_count = 4

    def served(self) -> list[_Served]:
        return [self.one]
