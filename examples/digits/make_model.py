"""Train the demo's model on scikit-learn's handwritten digits and write its repository.

    python -m examples.digits.make_model

writes, beside this file,

    models/digits/1/model.onnx   the trained network, normalisation inside the graph
    test_images.npz              the images held back from training, and their labels

Both are committed, so that the demo needs no scikit-learn and no training; run this to see where
they come from, or to change the network. The data are 1,797 images of 8 x 8 pixels with values
0 to 16 (UCI "Optical Recognition of Handwritten Digits", Alpaydin and Kaynak 1998).

Rules
- `build_graph` is deterministic: the same weights give the same bytes.
- Training is deterministic on one machine; another BLAS changes the last bits of the weights, so
  what is checked is the accuracy on the held-back images, against `ACCURACY_FLOOR`.
- The held-back images never touch training. There is no tuning on them either: epochs and widths are fixed here.
"""

import os
from dataclasses import fields
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from examples.digits.convnet import CLASSES, SIDE, Weights, train

HERE = Path(__file__).resolve().parent
MODEL = HERE / "models" / "digits" / "1" / "model.onnx"
TEST_IMAGES = HERE / "test_images.npz"
ACCURACY_FLOOR = 0.97
SEED = 20
EPOCHS = 20
TEST_SHARE = 0.25


def build_graph(weights: Weights) -> bytes:
    """Return the ONNX file: images of uint8 in, probabilities and the digit out, any number of rows.

    `image` is uint8 (rows, 8, 8), values 0..16. Bytes travel as they are and are normalised here:
    a quarter of the traffic of float32, and no client can get the scaling wrong.
    """
    nodes = [
        helper.make_node("Cast", ["image"], ["image_f32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["image_f32", "scale"], ["scaled"]),
        helper.make_node("Unsqueeze", ["scaled", "channel_axis"], ["planes"]),
        helper.make_node("Conv", ["planes", "conv1_w", "conv1_b"], ["conv1"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv1"], ["active1"]),
        helper.make_node("Conv", ["active1", "conv2_w", "conv2_b"], ["conv2"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv2"], ["active2"]),
        helper.make_node("MaxPool", ["active2"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Flatten", ["pooled"], ["features"], axis=1),
        helper.make_node("Gemm", ["features", "dense_w", "dense_b"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=1),
        helper.make_node("ArgMax", ["logits"], ["digit"], axis=1, keepdims=1),
    ]
    constants = {"scale": np.float32(1 / 16), "channel_axis": np.array([1], np.int64)}
    constants |= {field.name: getattr(weights, field.name) for field in fields(weights)}
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, ["rows", SIDE, SIDE])],
        [
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["rows", CLASSES]),
            helper.make_tensor_value_info("digit", TensorProto.INT64, ["rows", 1]),
        ],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    # Opset and IR of 2022: any runtime in use reads them, and the bytes do not depend on the installed onnx.
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="examples/digits/make_model.py"
    )
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def split_digits() -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Return training images and labels, then held-back images and labels, each class in proportion."""
    from sklearn.datasets import load_digits  # noqa: PLC0415 - the graph builder is tested where sklearn is absent
    from sklearn.model_selection import train_test_split  # noqa: PLC0415

    digits = load_digits()
    images, labels = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    parts = train_test_split(images, labels, test_size=TEST_SHARE, random_state=SEED, stratify=labels)
    train_images, test_images, train_labels, test_labels = parts
    return train_images, train_labels, test_images, test_labels


def accuracy(model: bytes, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Return the share of images whose digit the ONNX file gets right, run by onnxruntime."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # before the import: the wheels report to Microsoft otherwise
    import onnxruntime  # noqa: PLC0415 - as above

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (digit,) = session.run(["digit"], {"image": images})
    return float((digit[:, 0] == labels).mean())


def main() -> int:
    """Train, check, write."""

    def report(epoch: int, loss: float) -> None:
        print(f"epoch {epoch:2}/{EPOCHS}  loss {loss:.4f}")

    train_images, train_labels, test_images, test_labels = split_digits()
    planes = (train_images[:, None] / np.float32(16)).astype(np.float32)
    weights = train(planes, train_labels, seed=SEED, epochs=EPOCHS, report=report)
    model = build_graph(weights)
    reached = accuracy(model, test_images, test_labels)
    print(
        f"accuracy {reached:.4f} on {len(test_labels)} held-back images (floor {ACCURACY_FLOOR}), {len(model):,} bytes"
    )
    if reached < ACCURACY_FLOOR:
        return 1
    MODEL.parent.mkdir(parents=True, exist_ok=True)
    MODEL.write_bytes(model)
    np.savez_compressed(TEST_IMAGES, images=test_images, labels=test_labels.astype(np.uint8))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
