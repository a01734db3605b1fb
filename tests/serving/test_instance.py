"""ONNX Runtime behind `Runner`, on tiny real models."""

import gc
import threading
import time
import weakref
from pathlib import Path

import numpy as np
import pytest

from runtime.core.errors import ExecutionError
from runtime.core.inference import RequestHead, TensorHead
from runtime.core.model import ModelSpec, ProviderChoice, SessionSettings
from runtime.core.tensor import DATA_TYPES, Array, TensorSpec, encode_bytes
from runtime.core.verdict import GraphTensor
from runtime.serving.binding import bind
from runtime.serving.instance import SessionRunner, open_session
from runtime.serving.work import Work, execute
from tests.serving import graphs

CPU = (ProviderChoice("cpu"),)


def opened(path: Path, settings: SessionSettings | None = None) -> SessionRunner:
    return open_session(path, settings or SessionSettings(), 1, CPU)[0]


def run(runner: SessionRunner, names: list[str], **feeds: Array) -> list[Array]:
    return list(runner.run(names, feeds, Work([], 1, names)))


# --- data types

SAMPLES: dict[str, Array] = {
    "BOOL": np.array([[True, False, True]]),
    "FP16": np.array([[0.5, -65504.0, np.inf]], np.float16),
    "FP32": np.array([[0.1, -3.4e38, np.nan]], np.float32),
    "FP64": np.array([[0.1, -1.7e308, 5e-324]]),
    "BF16": np.array([[0x3F80, 0xFF80, 0x0001]], np.uint16),
    **{
        f"INT{bits}": np.array([[-(2 ** (bits - 1)), 1, 2 ** (bits - 1) - 1]], f"i{bits // 8}")
        for bits in (8, 16, 32, 64)
    },
    **{f"UINT{bits}": np.array([[0, 1, 2**bits - 1]], f"u{bits // 8}") for bits in (8, 16, 32, 64)},
}
assert {*SAMPLES, "BYTES"} == set(DATA_TYPES)


@pytest.mark.parametrize("datatype", sorted(SAMPLES))
def test_every_type_comes_back_as_it_went_in(datatype: str, tmp_path: Path) -> None:
    """From bytes as on the wire, through the binding and the session, to bytes again."""
    runner = opened(graphs.identity(tmp_path / "m.onnx", datatype))
    assert runner.graph() == (
        (GraphTensor(name="x", datatype=datatype, shape=(-1, -1)),),
        (GraphTensor(name="y", datatype=datatype, shape=(-1, -1)),),
    )
    sent = SAMPLES[datatype]
    raw = bytearray(sent.tobytes())
    spec = ModelSpec("m", 1, tmp_path, (TensorSpec("x", datatype, (-1,)),), (TensorSpec("y", datatype, (-1,)),), 4)
    binding = bind(spec, RequestHead("m", "", (TensorHead("x", datatype, (1, 3)),)))
    (y,) = run(runner, ["y"], **binding.arrays([raw]))
    raw[:] = b"\xff" * len(raw)
    assert y.dtype == DATA_TYPES[datatype].dtype
    assert y.shape == (1, 3)
    assert y.tobytes() == sent.tobytes()


@pytest.mark.parametrize("datatype", ["FP32", "BF16", "BOOL", "BYTES"])
def test_no_elements(datatype: str, tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx", datatype))
    (y,) = run(runner, ["y"], x=np.empty((2, 0), DATA_TYPES[datatype].dtype))
    assert y.shape == (2, 0)


def test_text_comes_back_as_text(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx", "BYTES"))
    elements = ["b'not quoted'", "nul \0 inside", "\u00e4\U0001f600", ""]
    spec = ModelSpec("m", 1, tmp_path, (TensorSpec("x", "BYTES", (-1,)),), (TensorSpec("y", "BYTES", (-1,)),), 4)
    binding = bind(spec, RequestHead("m", "", (TensorHead("x", "BYTES", (2, 2)),)))
    (y,) = run(runner, ["y"], **binding.arrays([encode_bytes(elements)]))
    assert y.tolist() == [elements[:2], elements[2:]]


# --- who owns the memory


@pytest.mark.parametrize("others", [(), ("BF16",), ("BF16", "INT64")])
def test_outputs_never_alias_inputs_even_where_the_graph_hands_them_through(
    others: tuple[str, ...], tmp_path: Path
) -> None:
    runner = opened(graphs.handed_through(tmp_path / "m.onnx", *others))
    feeds: dict[str, Array] = {"x": np.ones((2, 3), np.float32)}
    feeds.update({f"x_{name}": np.ones((2, 3), DATA_TYPES[name].dtype) for name in others})
    names = ["y", *feeds]
    outputs = run(runner, names, **feeds)
    for output in outputs:
        assert not any(np.shares_memory(output, array) for array in feeds.values())
    for array in feeds.values():
        array.view(np.uint8)[:] = 0xFF
    assert all(np.array_equal(output, np.ones((2, 3))) for output in outputs)


def test_outputs_outlive_the_runner(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"))
    (y,) = run(runner, ["y"], x=np.full((500, 500), 7, np.float32))
    runner.close()
    runner.close()
    del runner
    gc.collect()
    assert float(y.min()) == float(y.max()) == 7


def test_close_gives_the_session_back(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"))
    session = weakref.ref(runner._session)
    runner.close()
    assert session() is None


@pytest.mark.parametrize("feed", [np.ones((4, 6), np.float32)[:, ::2], np.asfortranarray(np.ones((4, 3), np.float32))])
def test_inputs_need_not_be_contiguous(feed: Array, tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"))
    (y,) = run(runner, ["y"], x=feed)
    assert np.array_equal(y, np.ones((4, 3)))


def test_bound_inputs_and_outputs_as_on_a_gpu_give_the_same_answers(tmp_path: Path) -> None:
    runner = opened(graphs.handed_through(tmp_path / "m.onnx"))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    y, passed = runner._run_bound(["y", "x"], {"x": x[:, ::-1]}, runner._new_options())
    assert np.array_equal(y, x[:, ::-1])
    assert np.array_equal(passed, x[:, ::-1])
    assert not np.shares_memory(passed, x)


# --- errors and termination


def test_a_failing_run_is_an_execution_error_in_one_line_and_the_runner_stays_usable(tmp_path: Path) -> None:
    runner = opened(graphs.gather(tmp_path / "m.onnx"))
    with pytest.raises(ExecutionError) as refused:
        run(runner, ["y"], x=np.array([99]))
    text = str(refused.value)
    assert text.startswith("onnx runtime error: ")
    assert "indices element out of data bounds" in text
    assert "\n" not in text
    assert len(text) < 600
    assert run(runner, ["y"], x=np.array([3]))[0].tolist() == [3.0]


def test_an_endless_loop_ends_when_it_is_terminated(tmp_path: Path) -> None:
    runner = opened(graphs.endless(tmp_path / "m.onnx"))
    work = Work([{"x": np.ones((1, 2), np.float32)}], 1, ["y"])
    thread = threading.Thread(target=execute, args=(runner, work))
    thread.start()
    give_up = time.monotonic() + 5
    while work.stop is None and time.monotonic() < give_up:
        time.sleep(0.001)  # the other thread decides when the run begins
    work.terminate()
    thread.join(5)
    assert not thread.is_alive()
    assert isinstance(work.error, ExecutionError)


def test_a_batch_that_died_just_before_the_run_does_not_start_an_endless_loop(tmp_path: Path) -> None:
    runner = opened(graphs.endless(tmp_path / "m.onnx"))
    work = Work([], 1, ["y"])
    work.terminate()
    with pytest.raises(ExecutionError):
        runner.run(["y"], {"x": np.ones((1, 2), np.float32)}, work)


def test_terminating_one_run_does_not_reach_the_next(tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"))
    first = Work([], 1, ["y"])
    x = np.ones((1, 2), np.float32)
    runner.run(["y"], {"x": x}, first)
    assert first.stop is not None
    first.stop()
    assert np.array_equal(run(runner, ["y"], x=x)[0], x)


# --- opening


def test_providers_that_cannot_start_are_skipped_with_the_reason(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path / "m.onnx")
    choices = [ProviderChoice("no-such-thing"), ProviderChoice("openvino"), ProviderChoice("cpu")]
    runner, skipped = open_session(path, SessionSettings(), 1, choices)
    assert runner.provider == "cpu"
    assert [name for name, _ in skipped] == ["no-such-thing", "openvino"]
    assert all("not in the installed build" in reason for _, reason in skipped)


def test_cuda_is_skipped_where_there_is_none(tmp_path: Path) -> None:
    runner, skipped = open_session(
        graphs.identity(tmp_path / "m.onnx"), SessionSettings(), 1, [ProviderChoice("cuda"), ProviderChoice("cpu")]
    )
    if runner.provider == "cuda":
        pytest.skip("there is a GPU here")
    assert skipped[0][0] == "cuda"
    assert skipped[0][1]


def test_without_any_provider_the_error_names_each_reason(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path / "m.onnx")
    with pytest.raises(ExecutionError, match="no-such-thing: not in the installed build"):
        open_session(path, SessionSettings(), 1, [ProviderChoice("no-such-thing")])
    with pytest.raises(ExecutionError, match="no provider configured"):
        open_session(path, SessionSettings(), 1, [])


def test_a_file_that_is_no_model_is_an_error_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x00garbage")
    with pytest.raises(ExecutionError, match="cpu: ") as refused:
        opened(path)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        SessionSettings(arena_shrinkage=True),
        SessionSettings(enable_mem_arena=False, enable_mem_pattern=False, graph_level=-1),
        SessionSettings(execution_mode="PARALLEL", inter_op_threads=2, graph_level=1),
        SessionSettings(graph_level=2, entries={"session.set_denormal_as_zero": "1"}),
    ],
)
def test_session_settings_reach_onnx_runtime(settings: SessionSettings, tmp_path: Path) -> None:
    runner = opened(graphs.identity(tmp_path / "m.onnx"), settings)
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(run(runner, ["y"], x=x)[0], x)


def test_unknown_provider_options_are_a_reason_to_skip(tmp_path: Path) -> None:
    path = graphs.identity(tmp_path / "m.onnx")
    with pytest.raises(ExecutionError):
        open_session(path, SessionSettings(entries={"": "x"}), 1, CPU)
