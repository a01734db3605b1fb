"""The recorded cases of the onnx package's backend tests: models with inputs and the outputs that are right.

A case is left out, with its reason, if the protocol cannot carry its tensors or if ONNX Runtime itself, called in this
process, does not give the recorded answer within the tolerance that the case states.
"""

import ctypes
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from runtime.core.tensor import Array
from tests.e2e.models import ECHO_TYPES

KINDS = ("node", "simple", "pytorch-operator", "pytorch-converted")
"""What the package holds with model and data; the other kinds are downloaded."""

_CARRIED = set(ECHO_TYPES.values())
_BFLOAT16 = onnx.TensorProto.BFLOAT16

Sample = tuple[dict[str, Array], list[Array]]
"""Inputs by name, and the outputs in the order of the graph."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """A case as the package describes it."""

    name: str
    description: Any


@dataclass(frozen=True, slots=True)
class Case:
    """One model and its recorded samples."""

    name: str
    model: onnx.ModelProto
    samples: tuple[Sample, ...]
    rtol: float
    atol: float


class LeftOut(Exception):
    """The case says nothing of this server; the text is the reason."""


def recorded() -> list[Recorded]:
    """Every case that the package holds, always in the same order."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it computes infinities and casts on purpose
        found = [
            Recorded(f"{kind}/{each.name.removeprefix('test_')}", each)
            for kind in KINDS
            for each in load_model_tests(kind=kind)
        ]
    return sorted(found, key=lambda each: each.name)


def case_of(found: Recorded) -> Case:
    """Make a case of what the package describes.

    Raises:
        LeftOut: its graph takes or gives what the protocol has no word for.
    """
    about = found.description
    model = about.model if about.model is not None else onnx.load(Path(about.model_dir, "model.onnx"))
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in constants]
    for value in (*inputs, *model.graph.output):
        _check_carried(value)
    names = [value.name for value in inputs]
    samples = about.data_sets if about.data_sets is not None else _stored(Path(about.model_dir))
    return Case(
        found.name,
        model,
        tuple(
            (dict(zip(names, map(_array, given), strict=True)), list(map(_array, right))) for given, right in samples
        ),
        about.rtol,
        about.atol,
    )


def _check_carried(value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    if kind != "tensor_type":
        raise LeftOut(f"the protocol has no {kind.removesuffix('_type')}")
    if value.type.tensor_type.elem_type not in _CARRIED:
        raise LeftOut(f"the protocol has no {onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)}")


def _stored(folder: Path) -> Iterator[tuple[list[onnx.TensorProto], list[onnx.TensorProto]]]:
    for data in sorted(folder.glob("test_data_set_*")):
        yield _tensors(data, "input"), _tensors(data, "output")


def _tensors(folder: Path, kind: str) -> list[onnx.TensorProto]:
    count = len(list(folder.glob(f"{kind}_*.pb")))
    return [onnx.load_tensor(folder / f"{kind}_{index}.pb") for index in range(count)]


def _array(value: Any) -> Array:
    return numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def check(case: Case, right: Sequence[Array], got: Sequence[Array]) -> None:
    """Compare as the package's own runner does. Raises AssertionError."""
    Runner.assert_similar_outputs(list(right), list(got), case.rtol, case.atol)


def run_in_process(case: Case) -> list[list[Array]]:
    """What ONNX Runtime answers here, for each sample.

    Raises:
        LeftOut: it cannot load or run the model, or its answer is not the recorded one.
    """
    ort.set_default_logger_severity(4)  # what it cannot do becomes a reason
    try:
        session = ort.InferenceSession(case.model.SerializeToString(), providers=["CPUExecutionProvider"])
    except Exception as error:
        raise LeftOut(f"onnxruntime cannot load it: {_why(error)}") from error
    answers = []
    for given, right in case.samples:
        try:
            got = _run(session, given)
        except Exception as error:
            raise LeftOut(f"onnxruntime cannot run it: {_why(error)}") from error
        try:
            check(case, right, got)
        except AssertionError as error:
            raise LeftOut("onnxruntime answers otherwise") from error
        answers.append(got)
    return answers


def _run(session: Any, given: dict[str, Array]) -> list[Array]:
    names = [output.name for output in session.get_outputs()]
    types = [tensor.type for tensor in (*session.get_inputs(), *session.get_outputs())]
    if "tensor(bfloat16)" not in types:
        answers: list[Array] = session.run(names, given)
        return answers
    # numpy has no BF16 of its own, so these travel as values that know their ONNX type.
    values = {name: _value(array) for name, array in given.items()}
    return [_read(value) for value in session.run_with_ort_values(names, values)]


def _value(array: Array) -> Any:
    if array.dtype == ml_dtypes.bfloat16:
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(np.ascontiguousarray(array).view(np.uint16), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(array)


def _read(value: Any) -> Array:
    if value.element_type() != _BFLOAT16:
        array: Array = np.array(value.numpy())
        return array
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, ml_dtypes.bfloat16).reshape(value.shape())


def _why(error: Exception) -> str:
    """The sentence in an error of ONNX Runtime, without the places in its source."""
    text = " ".join(str(error).split())
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (/onnxruntime_src/\S+ .*?\) (?=[A-Z]))?", "", text)[:120]
