"""A model of more than 2 GB, its weights in a file beside it: the form that protobuf cannot carry in one message.

Takes minutes and 5 GB of memory, so only where SPILLWAY_BIG=1 asks for it.
"""

import os
import time
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from runtime.client import Client
from tests.e2e import models
from tests.e2e.daemon import Daemon, running
from tests.serving import hostile

WIDTH = 7168
LAYERS = 11
LAYER_BYTES = 4 * WIDTH * WIDTH
MIB = 1 << 20


def large() -> ModelProto:
    """y = x W1 ... W11, 205 MB each, at their offsets in one file."""
    weights = []
    for index in range(LAYERS):
        weight = hostile.external("weights.bin", (WIDTH, WIDTH), offset=index * LAYER_BYTES, length=LAYER_BYTES)
        weight.name = f"W{index}"
        weights.append(weight)
    names = ["x", *(f"h{index}" for index in range(1, LAYERS)), "y"]
    nodes = [helper.make_node("MatMul", [names[at], f"W{at}"], [names[at + 1]]) for at in range(LAYERS)]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", WIDTH]) for name in "xy")
    return hostile.model(nodes, [x], [y], weights)


def write_weights(path: Path) -> None:
    """Powers of two on the diagonals, whose product is 1: y = x, and no two layers are equal. The rest are holes."""
    path.touch()
    os.truncate(path, LAYERS * LAYER_BYTES)
    exponents = [*range(LAYERS - 1), -sum(range(LAYERS - 1))]
    with path.open("r+b") as stream:
        for layer, exponent in enumerate(exponents):
            for row in range(WIDTH):
                stream.seek(layer * LAYER_BYTES + 4 * row * (WIDTH + 1))
                stream.write(np.float32(2.0**exponent).tobytes())


def peak_mib(daemon: Daemon) -> int:
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) >> 10


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("SPILLWAY_BIG") != "1", reason="SPILLWAY_BIG is not 1: takes minutes and 5 GB")
def test_a_model_of_more_than_two_gigabytes_is_served(tmp_path: Path, folder: Path) -> None:
    models.add(tmp_path, "large", {1: large()})
    weights = tmp_path / "large" / "1" / "weights.bin"
    write_weights(weights)
    size_mib = weights.stat().st_size // MIB
    assert size_mib > 2048
    x = np.arange(2 * WIDTH, dtype=np.float32).reshape(2, WIDTH)
    for sight in ("first", "second"):
        begun = time.monotonic()
        with running(tmp_path, folder / "large") as daemon, Client(daemon.grpc) as client:
            assert daemon.ready, daemon.log
            ready_s = time.monotonic() - begun
            begun = time.monotonic()
            np.testing.assert_array_equal(client.infer("large", {"x": x}, deadline_s=60)["y"], x)
            print(f"{sight} sight: ready {ready_s:.1f} s, run {time.monotonic() - begun:.2f} s, {peak_mib(daemon)} MiB")  # noqa: T201 - asked for
            assert peak_mib(daemon) < 1.25 * size_mib + 512, "the weights are held once"
            assert daemon.stop() == 0
