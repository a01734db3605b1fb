"""ONNX graphs of well-known sizes, built by code with deterministic random weights.

They have the operators, shapes and arithmetic of the models they are named after and none of their knowledge: a bench
measures time, so weights only have to keep activations in range (He scaling). Batch norms are folded into their
convolutions, as exporters for inference do. The first axis of every input and output is the batch, `N`, left dynamic.
Outputs are float32 also where the arithmetic is float16, so that one comparison fits all.

Never imports torch, never downloads. Same arguments, same bytes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, checker, helper, numpy_helper

OPSET = 17
IR_VERSION = 8  # what every ONNX Runtime of the last years reads

_ONNX_TYPES: Mapping[str, int] = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "int64": TensorProto.INT64,
    "uint8": TensorProto.UINT8,
}


class _Graph:
    """Collects nodes and weights; every method returns the name of the tensor it made."""

    def __init__(self, *, seed: int, dtype: str = "float32") -> None:
        self._rng = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self.dtype = dtype

    def node(self, operator: str, *inputs: str, out: str = "", **attributes: Any) -> str:
        name = out or f"t{len(self._nodes)}"
        self._nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def constant(self, value: NDArray[np.generic]) -> str:
        name = f"w{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        return self.constant(np.array(values, np.int64))

    def floats(self, *values: float) -> str:
        return self.constant(np.array(values, self.dtype))

    def random(self, *shape: int, scale: float) -> str:
        return self.constant((self._rng.standard_normal(shape) * scale).astype(self.dtype))

    def ones(self, size: int) -> str:
        return self.constant(np.ones(size, self.dtype))

    def zeros(self, size: int) -> str:
        return self.constant(np.zeros(size, self.dtype))

    def dense(self, x: str, rows: int, columns: int, *, scale: float | None = None, out: str = "") -> str:
        weights = self.random(rows, columns, scale=scale if scale is not None else (2 / rows) ** 0.5)
        return self.node("Add", self.node("MatMul", x, weights), self.zeros(columns), out=out)

    def conv(self, x: str, channels: tuple[int, int], size: int, stride: int = 1) -> str:
        into, outof = channels
        weights = self.random(outof, into, size, size, scale=(1 / (into * size * size)) ** 0.5)
        pads, strides = [size // 2] * 4, [stride, stride]
        return self.node("Conv", x, weights, self.zeros(outof), kernel_shape=[size, size], pads=pads, strides=strides)

    def model(
        self, inputs: Mapping[str, tuple[str, Sequence[int]]], outputs: Mapping[str, tuple[str, Sequence[int]]]
    ) -> ModelProto:
        def values(of: Mapping[str, tuple[str, Sequence[int]]]) -> list[ValueInfoProto]:
            return [helper.make_tensor_value_info(n, _ONNX_TYPES[t], ["N", *dims]) for n, (t, dims) in of.items()]

        graph = helper.make_graph(self._nodes, "bench", values(inputs), values(outputs), self._weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
        checker.check_model(model)
        return model


def mlp(*, width: int = 64, hidden: int = 64, classes: int = 16) -> ModelProto:
    """Two small layers: 256 bytes in, 64 out. What is measured with it is the server, not the model."""
    g = _Graph(seed=1)
    hidden_layer = g.node("Relu", g.dense("x", width, hidden))
    g.dense(hidden_layer, hidden, classes, out="y")
    return g.model({"x": ("float32", [width])}, {"y": ("float32", [classes])})


def gemm(*, width: int = 3072, layers: int = 4) -> ModelProto:
    """Layers of `width` squared: the weights are read once a batch, so a batch costs little more than one row.

    The default holds 151 MB, far more than a cache: about 10 ms a row alone on two cores, as research/arch.md had it.
    """
    g = _Graph(seed=2)
    x = "x"
    for layer in range(layers):
        last = layer == layers - 1
        x = g.dense(x, width, width, out="y" if last else "")
        x = x if last else g.node("Relu", x)
    return g.model({"x": ("float32", [width])}, {"y": ("float32", [width])})


def echo(*, shape: Sequence[int] = (3, 224, 224)) -> ModelProto:
    """Identity over one image: 602 112 bytes in and out, no arithmetic."""
    g = _Graph(seed=3)
    g.node("Identity", "x", out="y")
    return g.model({"x": ("float32", shape)}, {"y": ("float32", shape)})


def convolutions(*, layers: int, channels: int = 64, size: int = 32) -> ModelProto:
    """Convolutions with skips on a small image, 12 288 bytes: much arithmetic on little data, batching never pays."""
    g = _Graph(seed=7)
    x = g.node("Relu", g.conv("x", (3, channels), 3))
    for _ in range(layers):
        x = g.node("Add", x, g.node("Relu", g.conv(x, (channels, channels), 3)))
    pooled = g.node("Flatten", g.node("GlobalAveragePool", x), axis=1)
    g.dense(pooled, channels, 10, scale=0.01, out="y")
    return g.model({"x": ("float32", [3, size, size])}, {"y": ("float32", [10])})


def resnet18(*, classes: int = 1000) -> ModelProto:
    """ResNet-18: 3x224x224 float32 in, 1.8 G multiply-adds, 11.7 M weights."""
    g = _Graph(seed=4)
    x = _stem(g, "image")
    channels = 64
    for width, blocks, stride in ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = g.node("Relu", g.conv(x, (channels, width), 3, step))
            inner = g.conv(inner, (width, width), 3)
            skip = x if step == 1 and channels == width else g.conv(x, (channels, width), 1, step)
            x, channels = g.node("Relu", g.node("Add", inner, skip)), width
    _classifier(g, x, channels, classes)
    return g.model({"image": ("float32", [3, 224, 224])}, {"scores": ("float32", [classes])})


def resnet50(*, dtype: str = "float16", classes: int = 1000) -> ModelProto:
    """ResNet-50: 224x224x3 uint8 in (pixels as a camera gives them, normalised here), 4.1 G multiply-adds."""
    g = _Graph(seed=5, dtype=dtype)
    pixels = g.node("Transpose", g.node("Cast", "image", to=_ONNX_TYPES[dtype]), perm=[0, 3, 1, 2])
    mean = g.constant(np.array([123.675, 116.28, 103.53], dtype).reshape(1, 3, 1, 1))
    deviation = g.constant(np.array([58.395, 57.12, 57.375], dtype).reshape(1, 3, 1, 1))
    x = _stem(g, g.node("Div", g.node("Sub", pixels, mean), deviation))
    channels = 64
    for width, blocks, stride in ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2)):
        for block in range(blocks):
            step = stride if block == 0 else 1
            inner = g.node("Relu", g.conv(x, (channels, width), 1))
            inner = g.node("Relu", g.conv(inner, (width, width), 3, step))
            inner = g.conv(inner, (width, 4 * width), 1)
            skip = g.conv(x, (channels, 4 * width), 1, step) if block == 0 else x
            x, channels = g.node("Relu", g.node("Add", inner, skip)), 4 * width
    _classifier(g, x, channels, classes)
    return g.model({"image": ("uint8", [224, 224, 3])}, {"scores": ("float32", [classes])})


def encoder(
    *,
    dtype: str = "float32",
    layers: int = 6,
    hidden: int = 384,
    heads: int = 12,
    inner: int = 1536,
    length: int = 128,
    words: int = 30522,
) -> ModelProto:
    """MiniLM-size text encoder: token ids and mask in, one mean-pooled embedding of `hidden` values out."""
    g = _Graph(seed=6, dtype=dtype)
    embedded = g.node("Gather", g.random(words, hidden, scale=0.5), "input_ids")
    x = _layer_norm(g, g.node("Add", embedded, g.random(length, hidden, scale=0.1)), hidden)
    kept = g.node("Cast", "attention_mask", to=_ONNX_TYPES[dtype])  # N, length: 1 for a token, 0 for padding
    hidden_away = g.node("Mul", g.node("Sub", kept, g.floats(1.0)), g.floats(10000.0))
    bias = g.node("Unsqueeze", hidden_away, g.ints(1, 2))  # N, 1, 1, length: 0 or -10000
    for _ in range(layers):
        attended = _attention(g, x, bias, hidden=hidden, heads=heads, length=length)
        x = _layer_norm(g, g.node("Add", x, attended), hidden)
        wide = _gelu(g, g.dense(x, hidden, inner, scale=(1 / hidden) ** 0.5))
        x = _layer_norm(g, g.node("Add", x, g.dense(wide, inner, hidden, scale=(1 / inner) ** 0.5)), hidden)
    weights = g.node("Unsqueeze", kept, g.ints(2))
    total = g.node("ReduceSum", g.node("Mul", x, weights), g.ints(1), keepdims=0)
    mean = g.node("Div", total, g.node("ReduceSum", kept, g.ints(1), keepdims=1))
    g.node("Cast", mean, to=TensorProto.FLOAT, out="embedding")
    tokens = ("int64", [length])
    return g.model({"input_ids": tokens, "attention_mask": tokens}, {"embedding": ("float32", [hidden])})


def _stem(g: _Graph, x: str) -> str:
    x = g.node("Relu", g.conv(x, (3, 64), 7, 2))
    return g.node("MaxPool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2])


def _classifier(g: _Graph, x: str, channels: int, classes: int) -> None:
    pooled = g.node("Flatten", g.node("GlobalAveragePool", x), axis=1)
    g.node("Cast", g.dense(pooled, channels, classes, scale=(1 / channels) ** 0.5), to=TensorProto.FLOAT, out="scores")


def _layer_norm(g: _Graph, x: str, size: int) -> str:
    return g.node("LayerNormalization", x, g.ones(size), g.zeros(size), axis=-1, epsilon=1e-5)


def _gelu(g: _Graph, x: str) -> str:
    erf = g.node("Erf", g.node("Div", x, g.floats(2**0.5)))
    return g.node("Mul", g.node("Mul", x, g.node("Add", erf, g.floats(1.0))), g.floats(0.5))


def _attention(g: _Graph, x: str, bias: str, *, hidden: int, heads: int, length: int) -> str:
    size = hidden // heads
    split = g.ints(0, length, heads, size)

    def projected(*order: int) -> str:
        dense = g.dense(x, hidden, hidden, scale=(1 / hidden) ** 0.5)
        return g.node("Transpose", g.node("Reshape", dense, split), perm=list(order))

    query, key, value = projected(0, 2, 1, 3), projected(0, 2, 3, 1), projected(0, 2, 1, 3)
    scores = g.node("Div", g.node("MatMul", query, key), g.floats(size**0.5))
    shares = g.node("Softmax", g.node("Add", scores, bias), axis=-1)
    mixed = g.node("Transpose", g.node("MatMul", shares, value), perm=[0, 2, 1, 3])
    joined = g.node("Reshape", mixed, g.ints(0, length, hidden))
    return g.dense(joined, hidden, hidden, scale=(1 / hidden) ** 0.5)
