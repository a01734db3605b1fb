"""Arrays become tensors by their dtype, and nothing else does."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from runtime.client.tensors import tensor_of
from runtime.core.errors import InvalidTensor
from runtime.core.tensor import BYTES, DATA_TYPES


@pytest.mark.parametrize("datatype", [name for name in DATA_TYPES if name not in (BYTES, "BF16")])
def test_numbers(datatype: str) -> None:
    array = np.ones((2, 3), DATA_TYPES[datatype].dtype)
    name, found, same = tensor_of("x", array)
    assert (name, found) == ("x", datatype)
    assert np.shares_memory(array, same)
    assert tensor_of("x", array.astype(array.dtype.newbyteorder(">")))[1] == datatype


def test_bfloat16_by_name() -> None:
    array = np.array([[1.0, -2.0], [0.5, 3.0]], ml_dtypes.bfloat16)
    _, datatype, bits = tensor_of("x", array.T)
    assert datatype == "BF16"
    assert bits.dtype == np.uint16
    np.testing.assert_array_equal(bits.view(ml_dtypes.bfloat16), array.T)


@pytest.mark.parametrize(
    ("array", "elements"),
    [
        (np.array([b"a", "\N{SNOWMAN}"], object), [b"a", "\N{SNOWMAN}"]),
        (np.array([b"ab", b"c"]), [b"ab", b"c"]),
        (np.array(["ab", "\N{SNOWMAN}"]), ["ab", "\N{SNOWMAN}"]),
        (np.array(["ab", "c"], np.dtypes.StringDType()), ["ab", "c"]),
        (np.array("one"), "one"),
    ],
)
def test_text(array: Any, elements: object) -> None:
    _, datatype, objects = tensor_of("x", array)
    assert datatype == BYTES
    assert objects.dtype == object
    assert objects.tolist() == elements


def test_scalars() -> None:
    _, datatype, array = tensor_of("x", np.float64(2.5))  # type: ignore[arg-type]  # numpy's scalars pass as arrays
    assert (datatype, array.shape) == ("FP64", ())


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([1.0], "input 'x' is a list, wanted a numpy array"),
        (1.0, "input 'x' is a float"),
        (b"text", "input 'x' is a bytes"),
        (np.zeros(1, np.complex64), "dtype complex64"),
        (np.zeros(1, "M8[s]"), "datetime64"),
        (np.zeros(1, ml_dtypes.float8_e4m3), "dtype float8"),
        (np.array([b"a", 1], object), "input 'x' holds a int, wanted bytes or str"),
        (np.array([None], object), "holds a NoneType"),
    ],
)
def test_refused(value: Any, words: str) -> None:
    with pytest.raises(InvalidTensor) as caught:
        tensor_of("x", value)
    assert words in str(caught.value)
