"""Peer: NVIDIA PyTriton (the real Triton server in front of a Python process) with ONNX Runtime over gRPC.

Dynamic batching without added delay, as Triton's default. Its Python backend embeds an interpreter and fails on some
patch releases of CPython 3.11 (3.11.7: `RLock has no attribute _recursion_count`); the bench then prints the reason.
Runs in its own environment (bench/environments.py), knows nothing of ours.
"""

import argparse
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from pytriton.decorators import batch
from pytriton.model_config import DynamicBatcher, ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

_TYPES = {"tensor(float)": np.float32, "tensor(int64)": np.int64}


def tensors(values: list[ort.NodeArg]) -> list[Tensor]:
    """What PyTriton wants to know of the model's inputs or outputs; the batch axis is its own."""
    return [Tensor(name=value.name, dtype=_TYPES[value.type], shape=tuple(value.shape[1:])) for value in values]


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-name", required=True)
    parser.add_argument("--model-file", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--max-batch", type=int, required=True)
    parser.add_argument("--grpc-port", type=int, required=True)
    parser.add_argument("--http-port", type=int, required=True)
    args = parser.parse_args()
    options = ort.SessionOptions()
    options.intra_op_num_threads = args.threads
    session = ort.InferenceSession(args.model_file, options, providers=["CPUExecutionProvider"])
    outputs = [value.name for value in session.get_outputs()]

    @batch  # type: ignore[untyped-decorator]  # pytriton is not installed where mypy runs
    def infer(**inputs: NDArray[np.generic]) -> list[NDArray[np.generic]]:
        arrays: list[NDArray[np.generic]] = session.run(outputs, inputs)
        return arrays

    config = TritonConfig(
        grpc_address="127.0.0.1",
        grpc_port=args.grpc_port,
        http_address="127.0.0.1",
        http_port=args.http_port,
        allow_metrics=False,
    )
    with Triton(config=config) as triton:
        triton.bind(
            model_name=args.model_name,
            infer_func=infer,
            inputs=tensors(session.get_inputs()),
            outputs=tensors(session.get_outputs()),
            config=ModelConfig(batching=True, max_batch_size=args.max_batch, batcher=DynamicBatcher()),
        )
        triton.serve()


if __name__ == "__main__":
    main()
