"""Errors of `core/errors.py` <-> gRPC status codes: the one table, used by servers and clients.

Rules
- `STATUS` is looked up along the ancestors of an error's class; tests/contract/test_errors.py fails for a class that
  finds nothing of its own. The codes are Triton's where programs test for them.
- What is not one of our errors is a bug: INTERNAL with a fixed text; its own text never leaves the process.
- Details fit a header: at most MAX_DETAILS bytes, printable, valid UTF-8.
"""

import re
from collections.abc import Callable
from typing import Final

import grpc

from runtime.core import errors
from runtime.core.errors import SpillwayError

MAX_DETAILS: Final = 1024
"""Bytes of details; gRPC may percent-encode each as three, and clients refuse headers of more than 8 KiB."""

STATUS: Final[dict[type[SpillwayError], grpc.StatusCode]] = {
    errors.RequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ModelNotFound: grpc.StatusCode.NOT_FOUND,
    errors.Unsupported: grpc.StatusCode.UNIMPLEMENTED,
    errors.DeadlineExpired: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.CapacityError: grpc.StatusCode.UNAVAILABLE,
    errors.Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.QueueFull: grpc.StatusCode.UNAVAILABLE,
    errors.QueueTimeout: grpc.StatusCode.UNAVAILABLE,
    errors.ModelNotReady: grpc.StatusCode.UNAVAILABLE,
    errors.ControlDisabled: grpc.StatusCode.UNAVAILABLE,
    errors.Draining: grpc.StatusCode.UNAVAILABLE,
    errors.DeviceLost: grpc.StatusCode.UNAVAILABLE,
    errors.ExecutionError: grpc.StatusCode.INTERNAL,
    errors.RepositoryError: grpc.StatusCode.INTERNAL,
    errors.PollFailed: grpc.StatusCode.INTERNAL,
    errors.LoadFailed: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ControlError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.AccessDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.ConfigError: grpc.StatusCode.INTERNAL,
}

_BUG = (grpc.StatusCode.INTERNAL, "internal error")


def status_of(error: BaseException) -> tuple[grpc.StatusCode, str]:
    """Return the code and the details with which a call that raised `error` ends."""
    for family in type(error).__mro__:
        code = STATUS.get(family)
        if code is not None:
            return code, details_of(str(error))
    return _BUG


def details_of(text: str) -> str:
    """Make `text` fit to be the details of a status, or the error message in a stream."""
    if len(text) <= MAX_DETAILS and text.isascii() and text.isprintable():
        return text
    printable = "".join(letter if letter.isprintable() else " " for letter in text[:MAX_DETAILS])
    data = printable.encode("utf-8", "replace")
    if len(data) <= MAX_DETAILS and len(text) <= MAX_DETAILS:
        return printable
    return data[: MAX_DETAILS - 3].decode("utf-8", "ignore") + "..."


def error_of(code: grpc.StatusCode, details: str) -> SpillwayError:
    """Return the error that a server which answered with `code` and `details` stands for.

    Several of our errors share a code, so it is the nearest that the code tells: UNAVAILABLE becomes CapacityError,
    INVALID_ARGUMENT InvalidRequest. `status_of` gives it the same code again; its text is `details`.
    """
    make = _BY_CODE.get(code, errors.ExecutionError)
    return make(details or code.name.lower().replace("_", " "))


_NOT_FOUND = re.compile(
    r"Request for unknown model: '(.*)' is not found(?:: version (.*) is not available)?", re.DOTALL
)


def _not_found(details: str) -> SpillwayError:
    """Take the sentence of ModelNotFound or VersionNotFound apart again."""
    found = _NOT_FOUND.fullmatch(details)
    if found is None:
        error = errors.ModelNotFound("")
        error.args = (details,)
        return error
    model, version = found.groups()
    return errors.ModelNotFound(model) if version is None else errors.VersionNotFound(model, version)


def _deadline(details: str) -> SpillwayError:
    error = errors.DeadlineExpired("")
    error.args = (details,)
    error.where = details.removeprefix("deadline exceeded").strip()
    return error


_BY_CODE: Final[dict[grpc.StatusCode, Callable[[str], SpillwayError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidRequest,
    grpc.StatusCode.OUT_OF_RANGE: errors.InvalidRequest,
    grpc.StatusCode.NOT_FOUND: _not_found,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.DEADLINE_EXCEEDED: _deadline,
    grpc.StatusCode.CANCELLED: lambda _: errors.Cancelled(),
    grpc.StatusCode.UNAVAILABLE: errors.CapacityError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
    grpc.StatusCode.FAILED_PRECONDITION: errors.ControlError,
    grpc.StatusCode.ABORTED: errors.ControlError,
    grpc.StatusCode.ALREADY_EXISTS: errors.ControlError,
    grpc.StatusCode.PERMISSION_DENIED: errors.AccessDenied,
    grpc.StatusCode.UNAUTHENTICATED: errors.Unauthenticated,
}
