"""Models on disk and the jobs of their trial."""

from pathlib import Path
from typing import Any

from onnx import ModelProto

from runtime.core.verdict import TrialJob
from tests.repository.configs import config


def job_of(folder: Path, text: str = "", **fields: Any) -> TrialJob:
    """The job of version 1 of the model in `folder`, whose config.pbtxt says `text`."""
    settled: dict[str, Any] = {
        "path": str(folder / "1" / "model.onnx"),
        "folder": str(folder),
        "config": config(text, "m").SerializeToString(),
        "providers": ("cuda", "cpu"),
        "thread_budget": 2,
        "default_max_batch_size": 4,
        "probe_s": 0.02,
        **fields,
    }
    return TrialJob(model="m", version=1, **settled)


def write(folder: Path, content: ModelProto) -> Path:
    """Write version 1 of a model; returns its folder."""
    (folder / "1").mkdir(parents=True)
    (folder / "1" / "model.onnx").write_bytes(content.SerializeToString())
    return folder
