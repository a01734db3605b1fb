"""Requests for the models of models.py, as tritonclient's stubs make them, and what becomes of their bytes."""

from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2 as triton

SERVICE = "/inference.GRPCInferenceService/"
LIMIT_S = 10.0


def good(model: str, **parameters: Any) -> Any:
    """A request that `model` answers."""
    request = triton.ModelInferRequest(model_name=model, id="good")
    if model == "simple":
        add_raw(request, "INPUT0", "INT32", np.arange(16, dtype="<i4").reshape(1, 16))
        add_raw(request, "INPUT1", "INT32", np.ones((1, 16), "<i4"))
    elif model == "echo_bytes":
        add_raw(request, "x", "BYTES", LEFT_RIGHT, shape=[1, 2])
    elif model == "classes":
        add_raw(request, "x", "FP32", np.array([[1, 4, 3, 2]], "<f4"))
        request.outputs.add(name="y")
    elif model == "picky":
        add_raw(request, "x", "INT64", np.array([[1]], "<i8"))
    elif model in ("spin", "narrow", "hasty"):
        add_raw(request, "turns", "INT64", np.array([[parameters.pop("turns", 1)]], "<i8"))
    else:  # echo_*: two zeros
        datatype = model.removeprefix("echo_").upper()
        request.inputs.add(name="x", datatype=datatype, shape=[1, 2])
        request.raw_input_contents.append(bytes(2 * _SIZES[datatype]))
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


LEFT_RIGHT = b"\x05\0\0\0left \x05\0\0\0right"
_SIZES = {"BOOL": 1, "INT8": 1, "FP16": 2, "BF16": 2, "FP32": 4}


def add_raw(request: Any, name: str, datatype: str, data: Any, shape: Any = None) -> None:
    request.inputs.add(name=name, datatype=datatype, shape=data.shape if shape is None else shape)
    request.raw_input_contents.append(data if isinstance(data, bytes) else data.tobytes())


def to_typed(request: Any) -> None:
    """Move the data of `simple` from raw to typed contents."""
    for tensor, raw in zip(request.inputs, request.raw_input_contents, strict=True):
        tensor.contents.int_contents.extend(np.frombuffer(raw, "<i4").tolist())
    del request.raw_input_contents[:]


def infer(channel: grpc.Channel, message: bytes, timeout: float = LIMIT_S) -> Any:
    """Send bytes, read the answer with tritonclient's stub."""
    return rpc(channel, "ModelInfer", triton.ModelInferResponse.FromString)(message, timeout=timeout)


def rpc(channel: grpc.Channel, method: str, read: Callable[[bytes], Any] | None = None) -> Any:
    """A unary method of the service: bytes in, and out what `read` makes of the bytes."""
    return channel.unary_unary(SERVICE + method, None, read)


def refusal(call: Callable[[], Any]) -> tuple[str, str]:
    """Code and text with which `call` fails."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert isinstance(caught.value, grpc.Call)
    return caught.value.code().name, caught.value.details() or ""
