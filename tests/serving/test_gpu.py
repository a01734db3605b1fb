"""ONNX Runtime on an NVIDIA GPU: bound inputs and outputs in page-locked memory, two batches at once, fallback.

Skips itself where there is none. What it shares with the CPU (`_run_in`) is tested there with plain memory.
"""

import threading
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper
from onnx import numpy_helper as arrays

from runtime.core.errors import DeviceLost, ExecutionError
from runtime.core.model import ProviderChoice, SessionSettings
from runtime.core.tensor import DATA_TYPES, Array
from runtime.serving.instance import SessionRunner, open_session
from runtime.serving.work import Work
from tests.serving import graphs, hostile

SETTINGS = SessionSettings()
_GENERATOR = np.random.default_rng(5)


def opened(path: Path, provider: str) -> SessionRunner:
    return open_session(path, SETTINGS, 1, [ProviderChoice(provider)])[0]


def run(runner: SessionRunner, names: list[str], **feeds: Array) -> list[Array]:
    return list(runner.run(names, feeds, Work([], 1, names)))


def assert_close(left: Array, right: Array, tolerance: float) -> None:
    assert left.dtype == right.dtype
    np.testing.assert_allclose(left.astype(np.float64), right.astype(np.float64), tolerance, tolerance)


def layers(path: Path, element: str) -> Path:
    """y = relu(x W) V in `element`, from x of 64 numbers, cast from UINT8."""
    weights = [
        arrays.from_array(_GENERATOR.normal(0, 0.1, shape).astype(DATA_TYPES[element].dtype), name)
        for name, shape in (("W", (64, 128)), ("V", (128, 16)))
    ]
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=graphs.ELEMENT[element]),
        helper.make_node("MatMul", ["c", "W"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "V"], ["y"]),
    ]
    return graphs.save(path, nodes, [("x", "UINT8", ("N", 64))], [("y", element, ("N", 16))], weights)


# --- on the CPU, with plain memory in place of page-locked


@pytest.fixture
def host_memory() -> object:
    """What `_host_memory` returns on a GPU, of the CPU."""
    native = onnxruntime.capi._pybind_state
    return native.OrtDevice(native.OrtDevice.cpu(), native.OrtDevice.default_memory(), 0)


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize(
    "x",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3)[:, ::-1],
        np.empty((0, 3), np.float32),
        np.full((1, 1), np.nan, np.float32),
    ],
)
def test_bound_arrays_come_back_as_they_went_in(x: Array, tmp_path: Path, host_memory: object, *, pinned: bool) -> None:
    runner = opened(graphs.handed_through(tmp_path / "m.onnx"), "cpu")
    runner._host_memory = host_memory if pinned else None
    outputs = runner._run_bound(["y", "x"], {"x": x}, runner._new_options())
    for output in outputs:
        np.testing.assert_array_equal(output, x)
        assert not np.shares_memory(output, x)
    assert runner._host_memory_works is pinned


@pytest.mark.parametrize("datatype", sorted(set(DATA_TYPES) - {"BYTES", "BF16"}))
def test_bound_arrays_of_every_type(datatype: str, tmp_path: Path, host_memory: object) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx", datatype), "cpu")
    runner._host_memory = host_memory
    x = _GENERATOR.integers(0, 2, (2, 3)).astype(DATA_TYPES[datatype].dtype)
    (y,) = runner._run_bound(["y"], {"x": x}, runner._new_options())
    assert y.dtype == x.dtype
    np.testing.assert_array_equal(y, x)


def test_bound_scalars(tmp_path: Path, host_memory: object) -> None:
    nodes = [helper.make_node("Identity", ["x"], ["y"])]
    runner = opened(graphs.save(tmp_path / "m.onnx", nodes, [("x", "FP32", ())], [("y", "FP32", ())]), "cpu")
    for memory in (host_memory, None):
        runner._host_memory = memory
        (y,) = runner._run_bound(["y"], {"x": np.array(7, np.float32)}, runner._new_options())
        assert (y.shape, float(y)) == ((), 7.0)


def test_memory_that_does_not_work_is_given_up_after_the_first_run(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"), "cpu")
    runner._host_memory = "no memory of any device"
    x = np.ones((1, 2), np.float32)
    (y,) = runner._run_bound(["y"], {"x": x}, runner._new_options())
    np.testing.assert_array_equal(y, x)
    assert runner._host_memory is None


def test_an_input_that_fails_says_nothing_against_the_memory(tmp_path: Path, host_memory: object) -> None:
    runner = opened(graphs.gather(tmp_path / "m.onnx"), "cpu")
    runner._host_memory = host_memory
    runner._bound = True
    with pytest.raises(ExecutionError, match="out of data bounds"):
        run(runner, ["y"], x=np.array([99]))
    assert runner._host_memory is host_memory
    assert run(runner, ["y"], x=np.array([3]))[0].tolist() == [3.0]
    with pytest.raises(ExecutionError, match="out of data bounds"):
        run(runner, ["y"], x=np.array([99]))


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", DeviceLost),
        ("[ONNXRuntimeError] : 1 : FAIL : CUDA error cudaErrorLaunchFailure", DeviceLost),
        ("CUBLAS failure 13 here [ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : of this node", DeviceLost),
        ("CUDA failure 2: out of memory ; GPU=0", ExecutionError),
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid dimensions", ExecutionError),
    ],
)
def test_a_lost_device_is_told_from_a_failed_run(text: str, kind: type[Exception], tmp_path: Path) -> None:
    """Too little memory for one batch loses nothing: a smaller one may run."""
    error = opened(graphs.identity(tmp_path / "m.onnx"), "cpu")._translated(RuntimeError(text))
    assert type(error) is kind
    assert "[ONNXRuntimeError]" not in str(error)


# --- on the GPU


@pytest.fixture
def cuda() -> None:
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("the installed build of onnxruntime has no CUDA")
    try:
        arm = helper.make_node("Identity", ["x"], ["y"])
        onnxruntime.InferenceSession(
            hostile.model([arm]).SerializeToString(), providers=["CUDAExecutionProvider"], enable_fallback=0
        )
    except Exception as error:  # noqa: BLE001 - whatever keeps it from starting
        pytest.skip(f"CUDA does not start here: {error}")


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize(("element", "tolerance"), [("FP32", 1e-4), ("FP16", 2e-2)])
def test_answers_of_the_gpu_are_those_of_the_cpu(element: str, tolerance: float, tmp_path: Path) -> None:
    path = layers(tmp_path / "m.onnx", element)
    gpu, cpu = opened(path, "cuda"), opened(path, "cpu")
    for rows in (1, 3, 32):
        x = _GENERATOR.integers(0, 5, (rows, 64)).astype(np.uint8)
        assert_close(run(gpu, ["y"], x=x)[0], run(cpu, ["y"], x=x)[0], tolerance)
    assert gpu.provider == "cuda"


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
@pytest.mark.parametrize("datatype", sorted(set(DATA_TYPES) - {"BYTES"}))
def test_every_type_survives_the_gpu(datatype: str, tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx", datatype), "cuda")
    x = _GENERATOR.integers(0, 2, (2, 3)).astype(DATA_TYPES[datatype].dtype)
    (y,) = run(runner, ["y"], x=x)
    np.testing.assert_array_equal(y, x)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_text_goes_beside_the_binding(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx", "BYTES"), "cuda")
    x = np.array([["a", "b"]], dtype=object)
    assert run(runner, ["y"], x=x)[0].tolist() == [["a", "b"]]


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_page_locked_memory_is_used(tmp_path: Path) -> None:
    runner = opened(layers(tmp_path / "m.onnx", "FP32"), "cuda")
    run(runner, ["y"], x=np.zeros((1, 64), np.uint8))
    assert runner._host_memory is not None
    assert runner._host_memory_works


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_two_batches_in_flight_do_not_disturb_each_other(tmp_path: Path) -> None:
    runner = opened(layers(tmp_path / "m.onnx", "FP32"), "cuda")
    batches = [_GENERATOR.integers(0, 5, (rows, 64)).astype(np.uint8) for rows in (1, 7, 32, 64) * 10]
    alone = [run(runner, ["y"], x=x)[0] for x in batches]
    together: list[Array] = [np.empty(0)] * len(batches)

    def lane(first: int) -> None:
        for index in range(first, len(batches), 2):
            together[index] = run(runner, ["y"], x=batches[index])[0]

    threads = [threading.Thread(target=lane, args=(first,)) for first in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for left, right in zip(alone, together, strict=True):
        assert_close(left, right, 1e-4)


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_gpu_that_is_not_there_falls_to_the_next_provider(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path / "m.onnx")
    choices = [ProviderChoice("cuda", {"device_id": "99"}), ProviderChoice("cpu")]
    runner, skipped = open_session(path, SETTINGS, 1, choices)
    assert runner.provider == "cpu"
    assert [name for name, _ in skipped] == ["cuda"]


@pytest.mark.gpu
@pytest.mark.usefixtures("cuda")
def test_a_failed_run_on_the_gpu_is_an_answer_and_the_next_one_works(tmp_path: Path) -> None:
    whole = hostile.model(
        [helper.make_node("Reshape", ["x", "s"], ["y"])],
        [hostile.X, helper.make_tensor_value_info("s", TensorProto.INT64, ["K"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    (tmp_path / "m.onnx").write_bytes(whole.SerializeToString())
    runner = opened(tmp_path / "m.onnx", "cuda")
    x = np.ones((1, 4), np.float32)
    with pytest.raises(ExecutionError):
        run(runner, ["y"], x=x, s=np.array([3]))
    assert run(runner, ["y"], x=x, s=np.array([2, 2]))[0].tolist() == [[1, 1], [1, 1]]
