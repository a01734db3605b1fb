"""The bench's model files: a repository that Triton would read, a request that means what the arrays say."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
from tritonclient.grpc import service_pb2

from bench.models import GEMM_NOBATCH, MLP, prepare


def test_files_agree_with_each_other(tmp_path: Path) -> None:
    made = prepare(MLP, tmp_path)
    request = service_pb2.ModelInferRequest.FromString(made.request.read_bytes())
    reply = service_pb2.ModelInferResponse.FromString(made.reply.read_bytes())
    row = np.frombuffer(request.raw_input_contents[0], np.float32).reshape(request.inputs[0].shape)
    answer = ort.InferenceSession(made.model_file).run(None, {request.inputs[0].name: row})[0]
    np.testing.assert_allclose(np.frombuffer(made.expected.read_bytes(), np.float32), answer[0], rtol=1e-5)
    assert made.input_bytes == 256
    assert made.body.read_bytes() == request.raw_input_contents[0]
    assert reply.raw_output_contents[0] == made.expected.read_bytes()
    assert reply.SerializeToString().endswith(made.expected.read_bytes())  # what the loader compares


def test_repository_states_the_batch_limit_and_no_more(tmp_path: Path) -> None:
    config = (prepare(MLP, tmp_path).repository / "mlp" / "config.pbtxt").read_text()
    assert config == 'name: "mlp"\nbackend: "onnxruntime"\nmax_batch_size: 32\ndynamic_batching { }\n'


def test_older_files_are_removed_and_current_ones_kept(tmp_path: Path) -> None:
    (tmp_path / "models-0123456789ab").mkdir()
    first = prepare(MLP, tmp_path)
    written = first.model_file.stat().st_mtime_ns
    assert prepare(MLP, tmp_path).model_file.stat().st_mtime_ns == written
    assert len(list(tmp_path.glob("models-*"))) == 1
    assert GEMM_NOBATCH.max_batch == 1
