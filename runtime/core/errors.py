"""Every error that Spillway raises on purpose, in one tree.

    SpillwayError
    ├── RequestError            the caller can mend it
    │   ├── InvalidRequest      malformed message, parameter or name
    │   │   └── InvalidTensor   wrong name, type, shape or byte count
    │   ├── ModelNotFound
    │   │   └── VersionNotFound
    │   ├── Unsupported         legal in the protocol, not offered here
    │   ├── DeadlineExpired
    │   └── Cancelled
    ├── CapacityError           true now, perhaps not elsewhere or later
    │   ├── Overloaded          our admission refused early
    │   ├── QueueFull           the model's configured queue is full
    │   ├── QueueTimeout        the model's queue policy gave up
    │   ├── ModelNotReady
    │   ├── ControlDisabled     load and unload calls are switched off
    │   ├── Draining
    │   └── DeviceLost
    ├── ExecutionError          the model failed on this input
    ├── RepositoryError         a model cannot be loaded
    │   ├── PollFailed          its files or config are missing or wrong
    │   └── LoadFailed          the runtime refused it
    ├── ControlError
    │   ├── AccessDenied
    │   └── Unauthenticated
    └── ConfigError             the operator's configuration is wrong

No status code of any transport stands here: `wire/status.py` maps the tree, and a contract test walks it.
Messages are lower case with the value and the limit, except where clients test for a phrase of the protocol.
"""


class SpillwayError(Exception):
    """Root of the tree; its text is safe to show to the caller."""


class RequestError(SpillwayError):
    """The request is at fault; sending it again unchanged cannot help."""


class InvalidRequest(RequestError):
    """The message, a parameter or a name is malformed."""


class InvalidTensor(InvalidRequest):
    """A tensor has the wrong name, data type, shape or size."""


class ModelNotFound(RequestError):
    """No model of that name is served."""

    def __init__(self, model: str, detail: str = "") -> None:
        # Clients of Triton match the first words of this sentence.
        super().__init__(f"Request for unknown model: '{model}' is not found{detail}")
        self.model = model


class VersionNotFound(ModelNotFound):
    """The model is served, but not in that version."""

    def __init__(self, model: str, version: str) -> None:
        super().__init__(model, f": version {version} is not available")
        self.version = version


class Unsupported(RequestError):
    """The protocol allows it, this server does not offer it."""


class DeadlineExpired(RequestError):
    """The caller's deadline passed before the answer was there."""

    def __init__(self, where: str) -> None:
        super().__init__(f"deadline exceeded {where}")
        self.where = where


class Cancelled(RequestError):
    """The caller took the request back."""

    def __init__(self) -> None:
        super().__init__("request cancelled by the caller")


class CapacityError(SpillwayError):
    """Nothing is wrong with the request; there is no room for it here and now."""


class Overloaded(CapacityError):
    """Admission refused early, before the queue; `retry_after_s` is a hint."""

    def __init__(self, message: str, retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class QueueFull(CapacityError):
    """The queue that the model's own config limits is full."""

    def __init__(self, model: str, limit: int) -> None:
        super().__init__(f"Exceeds maximum queue size {limit} of model '{model}'")
        self.limit = limit


class QueueTimeout(CapacityError):
    """The model's queue policy rejects requests that waited this long."""

    def __init__(self, model: str) -> None:
        super().__init__(f"Request timeout expired in the queue of model '{model}'")


class ModelNotReady(CapacityError):
    """The model is known, and loading, unloading or failed."""


class ControlDisabled(CapacityError):
    """The server was started without model control; UNAVAILABLE, as in Triton."""

    def __init__(self, mode: str) -> None:
        super().__init__(f"explicit model load / unload is not allowed with model control mode '{mode}'")
        self.mode = mode


class Draining(CapacityError):
    """The server finishes what it has and accepts no more."""

    def __init__(self, what: str = "server") -> None:
        super().__init__(f"{what} is stopping, new requests are not accepted")


class DeviceLost(CapacityError):
    """The device is gone; the instance must be discarded."""


class ExecutionError(SpillwayError):
    """The session failed on this batch; the instance stays usable."""


class RepositoryError(SpillwayError):
    """A model cannot be loaded; what was served before is still served."""


class PollFailed(RepositoryError):
    """The model's folder, config or override is missing or wrong."""

    def __init__(self, model: str, reason: str) -> None:
        # Clients of Triton match `failed to load`.
        super().__init__(f"failed to load '{model}', failed to poll from model repository: {reason}")
        self.model = model
        self.reason = reason


class LoadFailed(RepositoryError):
    """The structural check, the trial or the session refused the model."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(f"load failed for model '{model}': {reason}")
        self.model = model
        self.reason = reason


class ControlError(SpillwayError):
    """An operator's or device's call was refused."""


class AccessDenied(ControlError):
    """The caller is known, its role does not allow this call."""


class Unauthenticated(ControlError):
    """The call needs an identity and carries none."""


class ConfigError(SpillwayError):
    """The configuration is wrong; the text names the key, the value and what was wanted."""
