"""Microseconds per message of our wire code beside stock protobuf, at three sizes. No network, one thread.

Both sides do what the engine wants of a transport: bytes -> `InferRequest` and the numpy array it holds; `InferResult`
-> bytes. Ours checks what it decodes, the stock side trusts it; ours includes the join that the transport does. Like in
a server, every message and every output is memory allocated for it and freed after it, one message in flight; heads
repeat, only ids change. Times are medians over calls; ours and stock take turns in blocks, so that other load on the
machine hits both.

What stock protobuf costs beyond its copies is memory that glibc gives back and faults in again. So all is measured
twice, each time in a process of its own: with malloc as it comes, and with the settings of our systemd unit.

Exit status 1 where a target is missed, with malloc as it comes: at 602 KB both directions together 20 times cheaper
than stock; at 256 B no dearer than stock.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import cast

import numpy as np

from runtime.core.inference import InferRequest, InferResult, OutputTensor, RequestedOutput, RequestHead, TensorHead
from runtime.core.tensor import DATA_TYPES, Array, Buffer
from runtime.wire.convert import RequestDecoder, ResponseEncoder
from runtime.wire.pb import inference_pb2 as pb

ROOT = Path(__file__).resolve().parent.parent
SHAPES = {"256 B": (1, 64), "64 KB": (1, 16384), "602 KB": (1, 3, 224, 224)}
TARGETS = {"256 B": 1.0, "602 KB": 20.0}  # at least this many times cheaper than stock, both directions together
CALLS_PER_BLOCK, UNCOUNTED = 60, 10
HEAPS = {
    "malloc as it comes": {},
    "malloc of our unit": {
        "MALLOC_MMAP_THRESHOLD_": str(2**28),
        "MALLOC_TRIM_THRESHOLD_": str(2**30),
        "MALLOC_TOP_PAD_": str(2**26),
    },
}


@dataclass(frozen=True)
class Row:
    """One message size; microseconds."""

    heap: str
    size: str
    decode_us: float
    stock_decode_us: float
    encode_us: float
    stock_encode_us: float

    @property
    def ratio(self) -> float:
        """How many times cheaper ours is, both directions together."""
        return (self.stock_decode_us + self.stock_encode_us) / (self.decode_us + self.encode_us)

    @property
    def target(self) -> float:
        """The ratio to reach; 0 where there is none."""
        return TARGETS.get(self.size, 0.0) if not HEAPS[self.heap] else 0.0


def request_of(array: Array, request_id: str) -> bytes:
    """Encode the request as any client would."""
    message = pb.ModelInferRequest(model_name="model", id=request_id, raw_input_contents=[array.tobytes()])
    message.inputs.add(name="input", datatype="FP32", shape=array.shape)
    return message.SerializeToString()


def stock_decode(encoded: bytes) -> tuple[InferRequest, list[Array]]:
    """Decode a request by protobuf alone."""
    message = pb.ModelInferRequest.FromString(encoded)
    head = RequestHead(
        message.model_name,
        message.model_version,
        tuple([TensorHead(tensor.name, tensor.datatype, tuple(tensor.shape)) for tensor in message.inputs]),
        tuple([RequestedOutput(output.name) for output in message.outputs]),
        {name: getattr(value, value.WhichOneof("parameter_choice")) for name, value in message.parameters.items()},
    )
    request = InferRequest(head, message.raw_input_contents, message.id)
    return request, arrays_of(request)


def arrays_of(request: InferRequest) -> list[Array]:
    """What the engine does first."""
    return [
        np.frombuffer(cast("Buffer", raw), DATA_TYPES[tensor.datatype].dtype).reshape(tensor.shape)
        for tensor, raw in zip(request.head.inputs, request.buffers, strict=True)
    ]


def stock_encode(result: InferResult, request_id: str) -> bytes:
    """Encode an answer by protobuf alone."""
    message = pb.ModelInferResponse(model_name=result.model_name, model_version=result.model_version, id=request_id)
    for output in result.outputs:
        message.outputs.add(name=output.name, datatype=output.datatype, shape=output.array.shape)
        message.raw_output_contents.append(output.array.tobytes())
    return message.SerializeToString()


@dataclass(frozen=True)
class Side:
    """One of the two that are compared, and the seconds its calls took."""

    decode: Callable[[bytes], tuple[InferRequest, list[Array]]]
    encode: Callable[[InferResult, str], bytes]
    decode_s: list[float] = field(default_factory=list)
    encode_s: list[float] = field(default_factory=list)

    def run_block(self, template: bytearray, array: Array, request_id: str) -> None:
        """Serve some messages, one after the other, and note the times of all but the first few."""
        clock = time.perf_counter
        for number in range(CALLS_PER_BLOCK):
            message = bytes(template)  # what a transport hands in
            started = clock()
            decoded = self.decode(message)
            decode_s = clock() - started
            result = InferResult("model", "1", [OutputTensor("output", "FP32", array.copy())])
            started = clock()
            encoded = self.encode(result, request_id)
            encode_s = clock() - started
            del message, decoded, result, encoded
            if number >= UNCOUNTED:
                self.decode_s.append(decode_s)
                self.encode_s.append(encode_s)


def our_side() -> Side:
    """Our wire code, up to the arrays and down to the joined bytes."""
    decoder, encoder = RequestDecoder(), ResponseEncoder()

    def decode(message: bytes) -> tuple[InferRequest, list[Array]]:
        request = decoder.decode(message)
        return request, arrays_of(request)

    def encode(result: InferResult, request_id: str) -> bytes:
        return b"".join(encoder.encode(result, request_id))

    return Side(decode, encode)


def check(ours: Side, stock: Side, array: Array) -> None:
    """Make sure that both give the same answers: what is timed must be right."""
    result = InferResult("model", "1", [OutputTensor("output", "FP32", array)])
    assert pb.ModelInferResponse.FromString(ours.encode(result, "1")) == pb.ModelInferResponse.FromString(
        stock.encode(result, "1")
    )
    for side in (ours, stock):
        request, arrays = side.decode(request_of(array, "1"))
        assert (request.request_id, request.head.model_name) == ("1", "model")
        assert np.array_equal(arrays[0], array)


def measure(heap: str, size: str, blocks: int) -> Row:
    """Measure one message size in this process."""
    shape = SHAPES[size]
    array = np.arange(np.prod(shape), dtype="<f4").reshape(shape)
    ours, stock = our_side(), Side(stock_decode, stock_encode)
    check(ours, stock, array)
    for number in range(blocks):
        request_id = str(100_000 + number)
        template = bytearray(request_of(array, request_id))
        for side in (ours, stock):
            side.run_block(template, array, request_id)
    sides = (ours.decode_s, stock.decode_s, ours.encode_s, stock.encode_s)
    return Row(heap, size, *(statistics.median(each) * 1e6 for each in sides))


def measure_apart(heap: str, blocks: int) -> list[Row]:
    """Measure all sizes in a process whose malloc has the settings of `heap`."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_TUN"))}
    child = subprocess.run(
        [sys.executable, __file__, "--blocks", str(blocks), "--heap", heap],
        env={**environment, **HEAPS[heap], "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return [Row(**row) for row in json.loads(child.stdout)]


def report(rows: list[Row]) -> int:
    """Print the table; return how many targets were missed."""
    missed = 0
    for heap in HEAPS:
        print(f"{heap + ', us':24}{'decode':>9}{'stock':>9}{'encode':>9}{'stock':>9}{'ratio':>8}{'target':>8}")
        for row in (each for each in rows if each.heap == heap):
            verdict = "" if row.ratio >= row.target else "  missed"
            missed += bool(verdict)
            times = (row.decode_us, row.stock_decode_us, row.encode_us, row.stock_encode_us)
            target = f">= {row.target:g}" if row.target else "-"
            print(
                f"{row.size:24}" + "".join(f"{each:9.2f}" for each in times) + f"{row.ratio:8.1f}{target:>8}{verdict}"
            )
    return missed


def main() -> int:
    """Run the bench; return its exit status."""
    parser = argparse.ArgumentParser(description="Wire code beside stock protobuf, microseconds per message.")
    parser.add_argument("--quick", action="store_true", help="fewer calls")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--blocks", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--heap", choices=HEAPS, help=argparse.SUPPRESS)  # set in the child only
    arguments = parser.parse_args()
    blocks = arguments.blocks or (10 if arguments.quick else 50)
    if arguments.heap:
        json.dump([asdict(measure(arguments.heap, size, blocks)) for size in SHAPES], sys.stdout)
        return 0
    rows = [row for heap in HEAPS for row in measure_apart(heap, blocks)]
    missed = report(rows)
    if arguments.json:
        figures = [{**asdict(row), "ratio": row.ratio, "target": row.target} for row in rows]
        arguments.json.write_text(json.dumps({"bench": "wire", "rows": figures, "missed": missed}, indent=2) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
