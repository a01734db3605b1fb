"""The answer of a model for people, for programs, and as files."""

import io
from pathlib import Path
from typing import Any

import numpy as np

from runtime.cli import output
from runtime.cli.files import write_file
from runtime.client import Answer
from runtime.core.errors import InvalidRequest
from runtime.core.inference import OutputTensor
from runtime.core.tensor import BYTES, Array

_SHOWN_VALUES = 200
"""Of a larger tensor only the corners are printed."""


def show(answer: Answer, took_s: float) -> None:
    """Print the answer in words."""
    output.say(f"{answer.model_name} version {answer.model_version} answered in {output.seconds(took_s)}")
    for name, value in answer.parameters.items():
        output.say(f"parameter {name}: {value}")
    for tensor in answer.result.outputs:
        output.say()
        output.say(f"{tensor.name}  {tensor.datatype} {list(tensor.array.shape)}")
        for line in _lines(_readable(tensor)):
            output.say(line)


def _lines(values: Array) -> list[str]:
    text = np.array2string(
        values,
        threshold=_SHOWN_VALUES,
        max_line_width=118,
        suppress_small=True,
        precision=6,
        formatter={"object": str} if values.dtype == object else None,
    )
    return text.splitlines()


def as_values(answer: Answer, took_s: float) -> dict[str, Any]:
    """Return the answer as values that JSON has; BYTES as text, what is no UTF-8 in it escaped with backslashes."""
    return {
        "model": answer.model_name,
        "version": answer.model_version,
        "took_s": took_s,
        "parameters": dict(answer.parameters),
        "outputs": [
            {
                "name": tensor.name,
                "datatype": tensor.datatype,
                "shape": list(tensor.array.shape),
                "data": _readable(tensor).tolist(),
            }
            for tensor in answer.result.outputs
        ],
    }


def _readable(tensor: OutputTensor) -> Array:
    """BYTES as text, BF16 as numbers; everything else as it is."""
    array = tensor.array
    if tensor.datatype == BYTES:
        texts = [element.decode(errors="backslashreplace") for element in array.ravel().tolist()]
        return np.fromiter(texts, object, len(texts)).reshape(array.shape)
    if tensor.datatype == "BF16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array


def save(answer: Answer, folder: Path) -> None:
    """Write each output as NAME.npy; a slash in a name becomes `_`. BYTES become numpy's fixed-size bytes.

    Raises:
        InvalidRequest: a file cannot be written, or BYTES that end with a NUL, which numpy would cut off.
    """
    for tensor in answer.result.outputs:
        array = tensor.array
        if tensor.datatype == BYTES:
            if any(element.endswith(b"\0") for element in array.ravel().tolist()):
                raise InvalidRequest(f"output '{tensor.name}' has elements that end with NUL, .npy cannot hold them")
            array = array.astype(np.bytes_)
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        path = folder / f"{tensor.name.replace('/', '_')}.npy"
        write_file(path, content.getvalue())
