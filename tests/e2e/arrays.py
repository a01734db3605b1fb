"""Arrays of every data type, with the values where a conversion would go wrong."""

from typing import Any

import ml_dtypes
import numpy as np

ARRAYS: dict[str, np.ndarray[Any, Any]] = {
    "BOOL": np.array([[True, False], [False, True]]),
    **{
        f"{kind.upper()}{bits}": np.array([[limits.min, limits.max], [0, 7]], f"{kind}{bits}")
        for kind in ("uint", "int")
        for bits in (8, 16, 32, 64)
        for limits in [np.iinfo(f"{kind}{bits}")]
    },
    "FP16": np.array([[65504, -0.0, 6e-8]], np.float16),
    "FP32": np.array([[3.4e38, 1e-45, np.nan, -np.inf]], np.float32),
    "BF16": np.array([[3.4e38, 1e-40, -2.5]], ml_dtypes.bfloat16),
    "FP64": np.array([[1e308], [5e-324], [np.pi]]),
    "BYTES": np.array([[b"", b"nul \0 inside"], ["zw\u00f6lf".encode(), b"x" * 1000]], np.object_),
}
"""By the protocol's name."""
