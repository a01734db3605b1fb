"""Peer: KServe's Python model server with ONNX Runtime over the Open Inference Protocol's gRPC.

As its documentation shows it: a `Model` with a synchronous `predict`. One session on all cores; request logging off.
KServe's Python server does not batch. Runs in its own environment (bench/environments.py), knows nothing of ours.
"""

import argparse
from pathlib import Path

import kserve
import onnxruntime as ort
from kserve.protocol.infer_type import InferOutput, InferRequest, InferResponse
from kserve.utils.numpy_codec import from_np_dtype


class OnnxModel(kserve.Model):  # type: ignore[misc]  # kserve is not installed where mypy runs
    """One ONNX file behind the name that requests ask for."""

    def __init__(self, name: str, path: Path, threads: int) -> None:
        super().__init__(name)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._outputs = [output.name for output in self._session.get_outputs()]
        self.ready = True

    def predict(self, payload: InferRequest, *_headers: object) -> InferResponse:
        """Run one request."""
        arrays = self._session.run(self._outputs, {tensor.name: tensor.as_numpy() for tensor in payload.inputs})
        outputs = []
        for name, array in zip(self._outputs, arrays, strict=True):
            output = InferOutput(name=name, shape=list(array.shape), datatype=from_np_dtype(array.dtype))
            output.set_data_from_numpy(array, binary_data=True)
            outputs.append(output)
        return InferResponse(response_id=payload.id, model_name=self.name, infer_outputs=outputs)


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(parents=[kserve.model_server.parser], description=__doc__)
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    model = OnnxModel(args.model_name, args.model_file, args.threads)
    kserve.ModelServer(enable_latency_logging=False).start([model])


if __name__ == "__main__":
    main()
