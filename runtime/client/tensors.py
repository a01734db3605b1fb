"""numpy arrays -> tensors of the protocol, by the array's dtype.

Rules
- Nothing is converted silently: a dtype that the protocol cannot carry is refused, and so is what is no array (a list
  of floats would become FP64, which hardly any model takes).
- `bfloat16` is known by the name of its dtype, so `ml_dtypes` need not be installed; its bits travel as uint16.
- Text becomes BYTES: object arrays of `bytes` or `str`, and numpy's `S` and `U` arrays.
"""

from typing import Final

import numpy as np

from runtime.core.errors import InvalidTensor
from runtime.core.tensor import BYTES, DATA_TYPES, Array

_TEXT_KINDS: Final = "SUT"  # fixed bytes, fixed text, numpy's StringDType
_BY_NAME: Final = {row.dtype.name: row.name for row in DATA_TYPES.values() if row.name not in (BYTES, "BF16")}


def tensor_of(name: str, array: Array) -> tuple[str, str, Array]:
    """Return the name, the data type and the array as the wire wants it; numbers are not copied.

    Raises:
        InvalidTensor: no array, or of a dtype that the protocol does not have.
    """
    if not isinstance(array, np.ndarray | np.generic):
        raise InvalidTensor(f"input '{name}' is a {type(array).__name__}, wanted a numpy array")
    array = np.asarray(array)
    datatype = _BY_NAME.get(array.dtype.name)
    if datatype is not None:
        return name, datatype, array
    if array.dtype.name == "bfloat16":
        return name, "BF16", array.view(np.uint16)
    if array.dtype.kind in _TEXT_KINDS:
        return name, BYTES, array.astype(object)
    if array.dtype.kind == "O":
        for element in array.flat:
            if not isinstance(element, bytes | str):
                raise InvalidTensor(f"input '{name}' holds a {type(element).__name__}, wanted bytes or str")
        return name, BYTES, array
    raise InvalidTensor(f"input '{name}' has dtype {array.dtype}, which the protocol cannot carry")
