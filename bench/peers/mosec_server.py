"""Peer: mosec (Rust front, Python worker, dynamic batching) with ONNX Runtime over HTTP.

The request body is the raw bytes of the model's inputs for one row, in the model's order; the answer is the raw bytes
of its first output. mosec parses and batches in Rust; this worker sees whole batches. It waits at least 1 ms for a
batch to fill. Runs in its own environment (bench/environments.py), knows nothing of ours; --address and --port are
mosec's own flags, the rest comes by environment because mosec owns the command line.
"""

import math
import os

import numpy as np
import onnxruntime as ort
from mosec import Server, Worker
from numpy.typing import NDArray

Row = list[NDArray[np.generic]]

_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


class OnnxWorker(Worker):  # type: ignore[misc]  # mosec is not installed where mypy runs
    """One session; a batch is stacked, run and cut into rows."""

    def __init__(self) -> None:
        super().__init__()
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        path = os.environ["BENCH_MODEL_FILE"]
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._inputs = self._session.get_inputs()
        self._output = self._session.get_outputs()[0].name

    def deserialize(self, data: bytes) -> Row:
        """Cut a body into the model's inputs, without copies."""
        arrays: Row = []
        offset = 0
        for tensor in self._inputs:
            shape, dtype = tensor.shape[1:], np.dtype(_TYPES[tensor.type])
            arrays.append(np.frombuffer(data, dtype, math.prod(shape), offset).reshape(1, *shape))
            offset += arrays[-1].nbytes
        return arrays

    def serialize(self, data: NDArray[np.generic]) -> bytes:
        """The bytes of one row's output."""
        return data.tobytes()

    def forward(self, data: list[Row]) -> list[NDArray[np.generic]]:
        """Run one batch."""
        feed = {tensor.name: np.concatenate([row[i] for row in data]) for i, tensor in enumerate(self._inputs)}
        rows: NDArray[np.generic] = self._session.run([self._output], feed)[0]
        return list(rows)


def main() -> None:
    """Serve; mosec reads --address and --port itself."""
    server = Server()
    server.append_worker(OnnxWorker, max_batch_size=int(os.environ["BENCH_MAX_BATCH"]), max_wait_time=1)
    server.run()


if __name__ == "__main__":
    main()
