"""A server for the client's tests: grpcio over the wire code, and models that are a few lines of numpy.

- `echo` answers its inputs as outputs, and its parameters, id, priority and timeout as parameters.
- `digits` answers `probabilities` for images; asked for classes, their names.
- `stuck` never answers; it notes when the caller has gone.
- any name in ERRORS answers with that error; others are not found.
"""

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from google.protobuf.message import Message

from runtime.core import errors
from runtime.core.errors import SpillwayError
from runtime.core.inference import InferRequest, InferResult, OutputTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array, decode_bytes, element_count
from runtime.wire.convert import RequestDecoder, ResponseEncoder, encode_stream_error
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pool import METHODS
from runtime.wire.status import status_of

ERRORS: Mapping[str, Exception] = {
    "invalid": errors.InvalidTensor("input 'x' has 4 bytes, expected 8"),
    "late": errors.DeadlineExpired("in the queue"),
    "overloaded": errors.Overloaded("predicted wait 2 s exceeds the deadline"),
    "full": errors.QueueFull("full", 3),
    "draining": errors.Draining(),
    "unsupported": errors.Unsupported("decoupled models are not offered"),
    "broken": errors.ExecutionError("node 'Add' failed"),
    "denied": errors.AccessDenied("role infer is wanted"),
    "bug": KeyError("secret"),
}


@dataclass
class Server:
    """What a test may look at."""

    address: str = ""
    asked: list[Any] = field(default_factory=list)  # control requests
    stuck: threading.Event = field(default_factory=threading.Event)  # a call has reached the model `stuck`
    gone: threading.Event = field(default_factory=threading.Event)  # and was given up by its caller


def arrays_of(request: InferRequest) -> dict[str, tuple[str, Array]]:
    """Inputs by name: data type and array."""
    arrays: dict[str, tuple[str, Array]] = {}
    for tensor, buffer in zip(request.head.inputs, request.buffers, strict=True):
        array: Array
        if isinstance(buffer, np.ndarray):
            array = buffer
        elif tensor.datatype == BYTES:
            elements = decode_bytes(buffer, element_count(tensor.shape), tensor.name)
            array = np.fromiter(elements, object, len(elements)).reshape(tensor.shape)
        else:
            array = np.frombuffer(buffer, DATA_TYPES[tensor.datatype].dtype).reshape(tensor.shape)
        arrays[tensor.name] = tensor.datatype, array
    return arrays


def answer(request: InferRequest) -> InferResult:
    """Be the models.

    Raises:
        SpillwayError: as the model's name says.
    """
    head = request.head
    if head.model_name in ERRORS:
        raise ERRORS[head.model_name]
    if head.model_version not in ("", "1"):
        raise errors.VersionNotFound(head.model_name, head.model_version)
    models = {"echo": echo, "digits": digits}
    if head.model_name not in models:
        raise errors.ModelNotFound(head.model_name)
    return models[head.model_name](request)


def echo(request: InferRequest) -> InferResult:
    head = request.head
    arrays = arrays_of(request)
    names = [output.name for output in head.outputs] or list(arrays)
    said = {**head.parameters, "id": request.request_id, "priority": head.priority, "timeout": head.timeout_us}
    said |= {f"top {output.name}": output.classification for output in head.outputs if output.classification}
    return InferResult("echo", "1", [OutputTensor(name, *arrays[name]) for name in names], said)


def digits(request: InferRequest) -> InferResult:
    """Take the mean brightness for the digit."""
    _, images = arrays_of(request)["image"]
    scores = np.zeros((len(images), 10), "<f4")
    scores[np.arange(len(images)), np.asarray(images).mean(axis=(1, 2)).astype(int) % 10] = 1
    (output,) = request.head.outputs or (None,)
    if output is None or not output.classification:
        return InferResult("digits", "1", [OutputTensor("probabilities", "FP32", scores)])
    order = np.argsort(-scores, axis=1, kind="stable")[:, : output.classification]
    named = [[f"{row[k]:f}:{k}".encode() for k in top] for row, top in zip(scores, order, strict=True)]
    return InferResult("digits", "1", [OutputTensor("probabilities", BYTES, np.array(named, object))])


def of_digits(response: Message) -> Callable[[Any], Message]:
    """Answer what is asked about the model `digits`."""

    def about(request: Any) -> Message:
        if request.name != "digits":
            raise errors.ModelNotFound(request.name)
        return response

    return about


def load(request: pb.RepositoryModelLoadRequest) -> Message:
    if request.model_name == "missing":
        raise errors.PollFailed("missing", "no such folder")
    return pb.RepositoryModelLoadResponse()


IMAGE = {"name": "image", "datatype": "UINT8", "shape": [-1, 8, 8]}
COUNTERS = {"name": "digits", "version": "1", "inference_count": 7, "execution_count": 2}
CONTROL: Mapping[str, Callable[[Any], Message]] = {
    "ServerLive": lambda _: pb.ServerLiveResponse(live=True),
    "ServerReady": lambda _: pb.ServerReadyResponse(ready=True),
    "ModelReady": lambda asked: pb.ModelReadyResponse(ready=asked.name == "digits" and asked.version in ("", "1")),
    "ServerMetadata": lambda _: pb.ServerMetadataResponse(name="spillway", version="0", extensions=["statistics"]),
    "ModelMetadata": of_digits(pb.ModelMetadataResponse(name="digits", versions=["1"], inputs=[IMAGE])),
    "ModelConfig": of_digits(pb.ModelConfigResponse(config={"name": "digits", "max_batch_size": 8})),
    "ModelStatistics": of_digits(pb.ModelStatisticsResponse(model_stats=[COUNTERS])),
    "RepositoryIndex": lambda _: pb.RepositoryIndexResponse(
        models=[{"name": "digits", "version": "1", "state": "READY"}]
    ),
    "RepositoryModelLoad": load,
    "RepositoryModelUnload": lambda _: pb.RepositoryModelUnloadResponse(),
}
"""Answers to control calls by method."""


class Handlers(grpc.GenericRpcHandler):
    """All RPCs as functions of bytes."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._decoder, self._encoder = RequestDecoder(), ResponseEncoder()
        self._one_at_a_time = threading.Lock()  # the wire code belongs to one thread

    def service(self, details: grpc.HandlerCallDetails) -> Any:
        method = METHODS[details.method]
        if method.name == "ModelInfer":
            return grpc.unary_unary_rpc_method_handler(self._guarded(self._infer))
        if method.name == "ModelStreamInfer":
            return grpc.stream_stream_rpc_method_handler(self._stream)

        def ask(message: bytes, context: grpc.ServicerContext) -> bytes:
            request = method.request.FromString(message)
            self._server.asked.append(request)
            return CONTROL[method.name](request).SerializeToString()

        return grpc.unary_unary_rpc_method_handler(self._guarded(ask))

    @staticmethod
    def _guarded(handler: Callable[[bytes, Any], bytes]) -> Callable[[bytes, Any], bytes]:
        def guarded(message: bytes, context: Any) -> bytes:
            try:
                return handler(message, context)
            except (SpillwayError, KeyError) as error:
                return context.abort(*status_of(error))  # type: ignore[no-any-return]  # raises

        return guarded

    def _infer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        with self._one_at_a_time:
            request = self._decoder.decode(message)
        if request.head.model_name == "stuck":
            context.add_callback(self._server.gone.set)
            self._server.stuck.set()
            self._server.gone.wait(30)
        with self._one_at_a_time:
            return b"".join(self._encoder.encode(answer(request), request.request_id))

    def _stream(self, messages: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        for message in messages:
            with self._one_at_a_time:
                request = self._decoder.decode(message)
                if request.head.model_name == "broken stream":
                    context.abort(*status_of(errors.Draining()))
                try:
                    parts = self._encoder.encode_stream_result(answer(request), request.request_id)
                except (SpillwayError, KeyError) as error:
                    parts = [encode_stream_error(error, request.request_id)]
            yield b"".join(parts)


@contextmanager
def serving(address: str = "127.0.0.1:0", tls: grpc.ServerCredentials | None = None) -> Iterator[Server]:
    """Run a server; a port of 0 is chosen by the system."""
    state = Server()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1), ("grpc.so_reuseport", 0)]
    server = grpc.server(ThreadPoolExecutor(8), [Handlers(state)], options=options)
    port = server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    state.address = address if address.startswith("unix:") else f"127.0.0.1:{port}"
    server.start()
    try:
        yield state
    finally:
        state.gone.set()
        server.stop(grace=None).wait()
