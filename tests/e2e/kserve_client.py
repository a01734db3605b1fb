"""KServe's own gRPC client against one daemon; prints what it got as one JSON object.

`kserve_client.py ADDRESS`, run by test_kserve.py with the interpreter of KServe's environment and the repository's root
in PYTHONPATH: our client has to live beside KServe's message classes in one process.
"""

import asyncio
import json
import logging
import sys
from typing import Any

import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

from runtime.client import Client

ARRAYS = {
    "BOOL": np.array([[True, False]]),
    "UINT8": np.array([[0, 255]], np.uint8),
    "INT16": np.array([[-(2**15), 7]], np.int16),
    "INT64": np.array([[-(2**63), 2**63 - 1]]),
    "FP16": np.array([[65504, -0.5]], np.float16),
    "FP32": np.array([[1.5, -0.25]], np.float32),
    "FP64": np.array([[1e308, 5e-324]]),
    "BYTES": np.array([[b"one", "zw\u00f6lf".encode()]], np.object_),
}


def given(name: str, array: Any, datatype: str, *, raw: bool) -> Any:
    """One input, its data as bytes or element by element."""
    tensor = InferInput(name, list(array.shape), datatype)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return tensor


async def echoed(client: Any, datatype: str, *, raw: bool) -> bool:
    """Tell whether an array comes back as it was."""
    array = ARRAYS[datatype]
    request = InferRequest(f"echo_{datatype.lower()}", [given("x", array, datatype, raw=raw)], request_id="echo")
    answer = await client.infer(request)
    got = answer.outputs[0].as_numpy()
    return bool(answer.id == "echo" and got.shape == array.shape and got.tolist() == array.tolist())


async def refused(client: Any, request: Any) -> list[str]:
    """Code and text with which a request fails."""
    try:
        await client.infer(request, timeout=10)
    except grpc.aio.AioRpcError as error:
        return [error.code().name, error.details() or ""]
    return ["OK", ""]


async def main(address: str) -> dict[str, Any]:
    """Use everything that the client offers."""
    ones = given("x", np.ones((1, 2), np.float32), "FP32", raw=True)
    async with InferenceGRPCClient(address, retries=0) as client:
        versions = InferRequest("versions", [ones], model_version="1", request_outputs=[RequestedOutput("z")])
        answer = await client.infer(versions)
        with Client(address) as ours:
            beside = ours.infer("versions", {"x": np.ones((1, 2), np.float32)})["y"].tolist()
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "models": [await client.is_model_ready(name) for name in ("simple", "nobody")],
            "raw": {name: await echoed(client, name, raw=True) for name in ARRAYS},
            "typed": {name: await echoed(client, name, raw=False) for name in ARRAYS if name != "FP16"},
            "chosen": [answer.model_version, [(each.name, each.as_numpy().tolist()) for each in answer.outputs]],
            "unknown": await refused(client, InferRequest("nobody", [ones])),
            "mistaken": await refused(client, InferRequest("simple", [ones])),
            "ours beside it": beside,
        }


if __name__ == "__main__":
    logging.disable()  # it logs the errors that it raises
    print(json.dumps(asyncio.run(main(sys.argv[1]))))  # noqa: T201
