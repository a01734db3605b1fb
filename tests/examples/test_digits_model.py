"""The committed digits model is what its documents say, and the code that made it is right."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from examples.digits import convnet, make_model

REPOSITORY = make_model.MODEL.parent.parent

Archive = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="module")
def held_back() -> Archive:
    with np.load(make_model.TEST_IMAGES) as archive:
        return archive["images"], archive["labels"]


def test_the_images_are_what_the_model_takes(held_back: Archive) -> None:
    images, labels = held_back
    assert images.dtype == np.uint8
    assert images.shape == (450, 8, 8)
    assert images.max() == 16
    assert sorted(set(labels.tolist())) == list(range(10))


def test_the_committed_model_reaches_its_accuracy(held_back: Archive) -> None:
    images, labels = held_back
    reached = make_model.accuracy(make_model.MODEL.read_bytes(), images, labels.astype(np.int64))
    assert reached >= make_model.ACCURACY_FLOOR


def test_the_committed_model_is_small_and_is_what_the_script_builds() -> None:
    committed = make_model.MODEL.read_bytes()
    assert len(committed) < 200_000
    stored = {
        tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load_from_string(committed).graph.initializer
    }
    weights = convnet.Weights(*(stored[name] for name in convnet.Weights.__dataclass_fields__))
    assert make_model.build_graph(weights) == committed


def test_the_graph_builder_is_deterministic() -> None:
    assert make_model.build_graph(convnet.initial_weights(1)) == make_model.build_graph(convnet.initial_weights(1))
    assert make_model.build_graph(convnet.initial_weights(1)) != make_model.build_graph(convnet.initial_weights(2))


def test_the_graph_computes_what_was_trained(held_back: Archive) -> None:
    """The exported graph and the numpy network are two descriptions of one function."""
    images, labels = held_back[0][:32], held_back[1][:32].astype(np.int64)
    weights = convnet.initial_weights(3)
    session = onnxruntime.InferenceSession(make_model.build_graph(weights), providers=["CPUExecutionProvider"])
    (probabilities,) = session.run(["probabilities"], {"image": images})
    planes = (images[:, None] / np.float32(16)).astype(np.float32)
    loss, _ = convnet.loss_and_gradient(weights, planes, labels)
    assert loss == pytest.approx(-np.log(probabilities[np.arange(32), labels]).mean(), rel=1e-4)


def test_the_gradient_is_the_slope_of_the_loss() -> None:
    rng = np.random.default_rng(4)
    images, labels = rng.random((6, 1, 8, 8), np.float32), rng.integers(0, 10, 6)
    weights = convnet.initial_weights(4, width1=2, width2=3)
    _, gradient = convnet.loss_and_gradient(weights, images, labels)
    for value, grad in zip(weights.arrays(), gradient.arrays(), strict=True):
        where = np.unravel_index(np.abs(grad).argmax(), grad.shape)
        kept, losses = value[where], []
        for offset in (1e-3, -1e-3):
            value[where] = kept + offset
            losses.append(convnet.loss_and_gradient(weights, images, labels)[0])
        value[where] = kept
        assert (losses[0] - losses[1]) / 2e-3 == pytest.approx(grad[where], rel=0.05)


def test_training_lowers_the_loss_and_repeats(held_back: Archive) -> None:
    images, labels = held_back[0][:64], held_back[1][:64].astype(np.int64)
    planes = (images[:, None] / np.float32(16)).astype(np.float32)

    def losses() -> list[float]:
        seen: list[float] = []
        convnet.train(planes, labels, seed=5, epochs=5, batch_rows=8, report=lambda _, loss: seen.append(loss))
        return seen

    first = losses()
    assert first[-1] < first[0] * 0.7
    assert losses() == first


def test_the_configuration_names_the_graph_as_it_is() -> None:
    graph = onnx.load(make_model.MODEL).graph
    config = (REPOSITORY / "config.pbtxt").read_text()
    for value in (*graph.input, *graph.output):
        assert f'name: "{value.name}"' in config
    assert Path(REPOSITORY / "labels.txt").read_text().split() == [
        *("zero", "one", "two", "three", "four"),
        *("five", "six", "seven", "eight", "nine"),
    ]
