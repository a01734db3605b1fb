"""A small convolutional network in numpy: forward, backward, Adam, and nothing else.

It exists so that the demo's model is really trained, by code that can be read in one sitting and
needs no training framework. `make_model.py` turns the weights into an ONNX graph; nothing here
knows ONNX, and the daemon never imports it.

    image (n, 1, 8, 8) -> conv 3x3 -> ReLU -> conv 3x3 -> ReLU -> max pool 2x2 -> dense -> logits

Rules
- Weights have the layout ONNX wants: convolutions (out, in, 3, 3), dense (inputs, classes).
- Arrays are float32, images are (rows, channels, height, width).
- Same data, same seed: same weights, on one machine with one BLAS. Across BLAS builds the last bits differ.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

SIDE = 8
CLASSES = 10


@dataclass(slots=True)
class Weights:
    """Everything that is learned; gradients and Adam's moments have the same shape."""

    conv1_w: Floats
    conv1_b: Floats
    conv2_w: Floats
    conv2_b: Floats
    dense_w: Floats
    dense_b: Floats

    def arrays(self) -> list[Floats]:
        """Return the arrays in the order of their fields."""
        return [self.conv1_w, self.conv1_b, self.conv2_w, self.conv2_b, self.dense_w, self.dense_b]


def initial_weights(seed: int, width1: int = 16, width2: int = 32) -> Weights:
    """Draw weights for ReLU layers (He et al. 2015); biases start at zero."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, ...], fan_in: int) -> Floats:
        return np.asarray(rng.standard_normal(shape) * np.sqrt(2.0 / fan_in), np.float32)

    pooled = width2 * (SIDE // 2) ** 2
    return Weights(
        conv1_w=draw((width1, 1, 3, 3), 9),
        conv1_b=np.zeros(width1, np.float32),
        conv2_w=draw((width2, width1, 3, 3), 9 * width1),
        conv2_b=np.zeros(width2, np.float32),
        dense_w=draw((pooled, CLASSES), pooled),
        dense_b=np.zeros(CLASSES, np.float32),
    )


def _columns(x: Floats) -> Floats:
    """Lay out every 3x3 neighbourhood (zero padded) as one row: (n * height * width, channels * 9)."""
    rows, channels, height, width = x.shape
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(rows * height * width, channels * 9)


def _conv(columns: Floats, w: Floats, b: Floats, rows: int) -> Floats:
    out = columns @ w.reshape(len(w), -1).T + b
    return out.reshape(rows, SIDE, SIDE, len(w)).transpose(0, 3, 1, 2)


def _conv_gradient(columns: Floats, grad: Floats, w: Floats) -> tuple[Floats, Floats, Floats]:
    """Return the gradients of weights, bias and input, from the gradient of the output."""
    rows = len(grad)
    flat = grad.transpose(0, 2, 3, 1).reshape(-1, len(w))
    spread = (flat @ w.reshape(len(w), -1)).reshape(rows, SIDE, SIDE, w.shape[1], 3, 3)
    padded = np.zeros((rows, w.shape[1], SIDE + 2, SIDE + 2), np.float32)
    for dy in range(3):
        for dx in range(3):
            padded[:, :, dy : dy + SIDE, dx : dx + SIDE] += spread[..., dy, dx].transpose(0, 3, 1, 2)
    return (flat.T @ columns).reshape(w.shape), flat.sum(axis=0), padded[:, :, 1:-1, 1:-1]


def loss_and_gradient(weights: Weights, images: Floats, labels: Ints) -> tuple[float, Weights]:
    """Return the mean cross-entropy over the batch and its gradient."""
    rows = len(images)
    columns1 = _columns(images)
    active1 = np.maximum(_conv(columns1, weights.conv1_w, weights.conv1_b, rows), 0)
    columns2 = _columns(active1)
    active2 = np.maximum(_conv(columns2, weights.conv2_w, weights.conv2_b, rows), 0)
    width2, half = active2.shape[1], SIDE // 2
    tiles = active2.reshape(rows, width2, half, 2, half, 2).transpose(0, 1, 2, 4, 3, 5).reshape(rows, -1, 4)
    winners = tiles.argmax(axis=2)[..., None]
    pooled = np.take_along_axis(tiles, winners, axis=2)[..., 0]
    logits = pooled @ weights.dense_w + weights.dense_b

    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    loss = float(-np.log(probabilities[np.arange(rows), labels] + 1e-12).mean())

    grad_logits = probabilities
    grad_logits[np.arange(rows), labels] -= 1
    grad_logits /= rows
    grad_tiles = np.zeros_like(tiles)
    np.put_along_axis(grad_tiles, winners, (grad_logits @ weights.dense_w.T)[..., None], axis=2)
    grad2 = grad_tiles.reshape(rows, width2, half, half, 2, 2).transpose(0, 1, 2, 4, 3, 5).reshape(active2.shape)
    conv2_w, conv2_b, grad1 = _conv_gradient(columns2, grad2 * (active2 > 0), weights.conv2_w)
    conv1_w, conv1_b, _ = _conv_gradient(columns1, grad1 * (active1 > 0), weights.conv1_w)
    gradient = Weights(conv1_w, conv1_b, conv2_w, conv2_b, pooled.T @ grad_logits, grad_logits.sum(axis=0))
    return loss, gradient


class Adam:
    """Adam (Kingma and Ba 2015): a step for every weight, scaled by its own running moments."""

    def __init__(self, weights: Weights) -> None:
        self._mean = [np.zeros_like(array) for array in weights.arrays()]
        self._square = [np.zeros_like(array) for array in weights.arrays()]
        self._steps = 0

    def step(self, weights: Weights, gradient: Weights, rate: float) -> None:
        """Move the weights, in place."""
        self._steps += 1
        mean_bias, square_bias = 1 - 0.9**self._steps, 1 - 0.999**self._steps
        moments = zip(weights.arrays(), gradient.arrays(), self._mean, self._square, strict=True)
        for value, grad, mean, square in moments:
            mean[...] = 0.9 * mean + 0.1 * grad
            square[...] = 0.999 * square + 0.001 * grad * grad
            value[...] = value - rate * (mean / mean_bias) / (np.sqrt(square / square_bias) + 1e-8)


def train(
    images: Floats, labels: Ints, *, seed: int, epochs: int, report: Callable[[int, float], None], batch_rows: int = 32
) -> Weights:
    """Train in shuffled batches, the step size falling to zero; `report` gets each epoch and its mean loss."""
    weights = initial_weights(seed)
    adam = Adam(weights)
    rng = np.random.default_rng(seed)
    batches = len(images) // batch_rows
    for epoch in range(epochs):
        order = rng.permutation(len(images))[: batches * batch_rows].reshape(batches, batch_rows)
        losses = []
        for step, chosen in enumerate(order, start=epoch * batches):
            loss, gradient = loss_and_gradient(weights, images[chosen], labels[chosen])
            adam.step(weights, gradient, 3e-3 * (1 - step / (epochs * batches)))
            losses.append(loss)
        report(epoch + 1, float(np.mean(losses)))
    return weights
