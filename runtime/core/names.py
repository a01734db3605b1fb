"""Names of models and numbers of versions, as callers and folders spell them.

Rules
- A model's name is a path component too: it starts with a letter or digit and holds no separator, no space, no NUL.
- A version is a positive decimal number that fits 64 bits. Nothing here looks at a disk.
"""

import re

from runtime.core.errors import InvalidRequest

MAX_VERSION = 2**63 - 1

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION_FOLDER = re.compile(r"[1-9][0-9]{0,18}")


def valid_model_name(name: str) -> bool:
    """Tell whether `name` may name a model."""
    return _MODEL_NAME.fullmatch(name) is not None


def parse_version(text: str) -> int | None:
    """Read the version of a request; None where it is empty (the highest one that is ready).

    Leading zeros are accepted, as Triton does.

    Raises:
        InvalidRequest: not a decimal number in 1..2^63-1.
    """
    if not text:
        return None
    # isdecimal() alone would let other scripts' digits through; 32 bounds the work before int() sees the text.
    number = int(text) if len(text) <= 32 and text.isascii() and text.isdecimal() else 0
    if not 1 <= number <= MAX_VERSION:
        shown = text if len(text) <= 32 else f"{text[:32]}..."
        raise InvalidRequest(
            f"failed to get model version from specified version string {shown!r}: "
            f"version should be an integral value > 0 and at most {MAX_VERSION}"
        )
    return number


def version_of_folder(name: str) -> int | None:
    """Version that a folder of this name holds, or None: as in Triton, a number without leading zeros."""
    if _VERSION_FOLDER.fullmatch(name) is None or int(name) > MAX_VERSION:
        return None
    return int(name)
