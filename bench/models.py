"""The bench's models and what a load needs of each: a repository in Triton's layout, request files, expected answers.

`prepare` writes, under a directory that is named after the code which made it (so a change makes new files):

    repositories/NAME/NAME/1/model.onnx and config.pbtxt   one repository per model: a server serves one at a time
    NAME.request     a serialised ModelInferRequest of one row, tensors in raw_input_contents
    NAME.body        the same tensors' bytes alone, for servers that take raw bodies
    NAME.expected    the bytes of the model's output for that row, computed by ONNX Runtime in this process
    NAME.reply       a serialised ModelInferResponse with that output, for servers that answer with a constant
    NAME.npz         the same tensors for numpy

The configuration states the batch limit and asks for dynamic batching; nothing in it favours any server.
"""

import hashlib
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import ModelProto
from tritonclient.grpc import service_pb2

from bench import graphs

Arrays = dict[str, NDArray[np.generic]]

_DATATYPES: Mapping[str, str] = {"float32": "FP32", "int64": "INT64", "uint8": "UINT8"}


@dataclass(frozen=True)
class Model:
    """What is served, and how its answers are judged."""

    name: str
    title: str
    build: Callable[[], ModelProto]
    sample: Callable[[np.random.Generator], Arrays]  # one row
    max_batch: int
    tolerance: float = 1e-3  # |got - want| <= tolerance * (1 + |want|); 0: the same bytes
    slow: bool = False  # tens of milliseconds a row: needs a longer window
    config: str = ""  # what config.pbtxt says beyond the batch limit


@dataclass(frozen=True)
class Prepared:
    """A model's files on disk."""

    model: Model
    repository: Path
    model_file: Path
    request: Path
    body: Path
    expected: Path
    reply: Path
    arrays: Path

    @property
    def input_bytes(self) -> int:
        """Size of one row's input tensors."""
        return self.body.stat().st_size


def _floats(*shape: int) -> Callable[[np.random.Generator], Arrays]:
    return lambda random: {"x": random.standard_normal((1, *shape)).astype(np.float32)}


def _image(random: np.random.Generator) -> Arrays:
    return {"image": random.standard_normal((1, 3, 224, 224)).astype(np.float32)}


def _pixels(random: np.random.Generator) -> Arrays:
    return {"image": random.integers(0, 256, (1, 224, 224, 3)).astype(np.uint8)}


def _tokens(random: np.random.Generator) -> Arrays:
    mask = np.ones((1, 128), np.int64)
    mask[0, 100:] = 0
    return {"input_ids": random.integers(0, 30522, (1, 128)), "attention_mask": mask}


MLP = Model("mlp", "MLP, 256 B in", graphs.mlp, _floats(64), max_batch=32)
RESNET18 = Model("resnet18", "ResNet-18 size, 602 KB in", graphs.resnet18, _image, max_batch=8, slow=True)
ENCODER = Model("encoder", "MiniLM size, 128 tokens", graphs.encoder, _tokens, max_batch=8, slow=True)
ECHO = Model("echo", "echo, 602 KB in and out", graphs.echo, _floats(3, 224, 224), max_batch=8, tolerance=0)
GEMM = Model("gemm", "GEMM, 12 KB in", graphs.gemm, _floats(3072), max_batch=32)
GEMM_NOBATCH = Model("gemm_nobatch", "GEMM, max_batch_size 1", graphs.gemm, _floats(3072), max_batch=1)
CPU_MODELS = (MLP, RESNET18, ENCODER, ECHO, GEMM, GEMM_NOBATCH)

# Half precision: a GPU's answers differ from the CPU's reference in the third digit.
RESNET50_FP16 = Model("resnet50_fp16", "ResNet-50, fp16, uint8 in", graphs.resnet50, _pixels, 64, tolerance=0.1)
ENCODER_FP16 = Model(
    "encoder_fp16", "MiniLM size, fp16", lambda: graphs.encoder(dtype="float16"), _tokens, 64, tolerance=0.1
)
GPU_MODELS = (RESNET50_FP16, ENCODER_FP16)


def prepare(model: Model, cache: Path) -> Prepared:
    """The model's files under `cache`, written now if they are not there yet."""
    root = _home(cache)
    repository = root / "repositories" / model.name
    home = repository / model.name
    prepared = Prepared(
        model=model,
        repository=repository,
        model_file=home / "1" / "model.onnx",
        request=root / f"{model.name}.request",
        body=root / f"{model.name}.body",
        expected=root / f"{model.name}.expected",
        reply=root / f"{model.name}.reply",
        arrays=root / f"{model.name}.npz",
    )
    if not prepared.arrays.exists():  # the last one written
        prepared.model_file.parent.mkdir(parents=True, exist_ok=True)
        prepared.model_file.write_bytes(model.build().SerializeToString())
        _write_samples(prepared)
    (home / "config.pbtxt").write_text(_config(model))
    return prepared


def _home(cache: Path) -> Path:
    """The directory for files made by this code; those of older code are removed."""
    sources = [Path(__file__), Path(graphs.__file__)]
    digest = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:12]
    home = cache / f"models-{digest}"
    for old in cache.glob("models-*"):
        if old != home:
            shutil.rmtree(old)
    return home


def _config(model: Model) -> str:
    lines = [f'name: "{model.name}"', 'backend: "onnxruntime"', f"max_batch_size: {model.max_batch}"]
    if model.max_batch > 1:
        lines.append("dynamic_batching { }")
    return "\n".join([*lines, model.config]).rstrip() + "\n"


def _write_samples(prepared: Prepared) -> None:
    arrays = prepared.model.sample(np.random.default_rng(7))
    session = ort.InferenceSession(prepared.model_file, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    answer = session.run([output], arrays)[0]
    prepared.request.write_bytes(_request(prepared.model.name, arrays).SerializeToString())
    prepared.body.write_bytes(b"".join(arrays[tensor.name].tobytes() for tensor in session.get_inputs()))
    prepared.expected.write_bytes(answer.tobytes())
    prepared.reply.write_bytes(_reply(prepared.model.name, output, answer).SerializeToString())
    partial = prepared.arrays.with_suffix(".partial.npz")
    np.savez(partial, **arrays)  # type: ignore[arg-type]  # numpy's stub takes names for its own flags
    partial.rename(prepared.arrays)


def _request(name: str, arrays: Arrays) -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=name)
    for tensor, array in arrays.items():
        request.inputs.add(name=tensor, datatype=_DATATYPES[str(array.dtype)], shape=array.shape)
        request.raw_input_contents.append(array.tobytes())
    return request


def _reply(name: str, output: str, array: NDArray[np.generic]) -> service_pb2.ModelInferResponse:
    reply = service_pb2.ModelInferResponse(model_name=name, model_version="1")
    reply.outputs.add(name=output, datatype=_DATATYPES[str(array.dtype)], shape=array.shape)
    reply.raw_output_contents.append(array.tobytes())
    return reply
