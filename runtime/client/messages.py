"""Inference requests and answers as a caller sees them, and their bytes; the same for both clients, no network here."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.client.tensors import tensor_of
from runtime.core.errors import SpillwayError
from runtime.core.inference import InferResult, Parameter, RequestedOutput
from runtime.core.tensor import Array, Buffer
from runtime.wire.convert import decode_response, decode_stream_response, encode_request
from runtime.wire.pool import SERVICE

INFER = f"/{SERVICE}/ModelInfer"
STREAM_INFER = f"/{SERVICE}/ModelStreamInfer"


@dataclass(frozen=True, slots=True)
class Request:
    """One inference request.

    `outputs` empty asks for all; `classification` asks for the top classes of an output instead of its tensor.
    `priority` 0 is the model's default. `timeout_us` bounds the wait in the model's queue where its config allows that
    (0: none); a deadline is a matter of the call, not of the request.
    """

    model: str
    inputs: Mapping[str, Array]
    outputs: Sequence[str] = ()
    version: str = ""
    request_id: str = ""
    priority: int = 0
    timeout_us: int = 0
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    classification: Mapping[str, int] = field(default_factory=dict)

    def encode(self) -> bytes:
        """Encode as a ModelInferRequest; the one copy of the tensors on their way out.

        Raises:
            InvalidTensor: an input is no array that the protocol can carry.
        """
        names = dict.fromkeys((*self.outputs, *self.classification))
        parts = encode_request(
            self.model,
            [tensor_of(name, array) for name, array in self.inputs.items()],
            outputs=[RequestedOutput(name, self.classification.get(name, 0)) for name in names],
            version=self.version,
            request_id=self.request_id,
            parameters=self.parameters,
            priority=self.priority,
            timeout_us=self.timeout_us,
        )
        return b"".join(parts)


class Answer:
    """What a model answered. Numbers are read-only views of the received message; BYTES are arrays of `bytes`.

    numpy has no bfloat16: BF16 arrays are uint16 and hold its bits.
    """

    __slots__ = ("outputs", "result")

    def __init__(self, result: InferResult) -> None:
        self.result = result
        self.outputs: dict[str, Array] = {output.name: output.array for output in result.outputs}

    def __getitem__(self, output: str) -> Array:
        return self.outputs[output]

    def __repr__(self) -> str:
        shapes = ", ".join(f"{each.name}: {each.datatype} {list(each.array.shape)}" for each in self.result.outputs)
        return f"<Answer of {self.model_name} {self.model_version}: {shapes}>"

    @property
    def model_name(self) -> str:
        """The model that answered."""
        return self.result.model_name

    @property
    def model_version(self) -> str:
        """The version that answered."""
        return self.result.model_version

    @property
    def parameters(self) -> Mapping[str, Parameter]:
        """What the server says beside the tensors."""
        return self.result.parameters


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of a stream: the answer to a request or why there is none."""

    request_id: str
    outcome: Answer | SpillwayError

    def result(self) -> Answer:
        """Return the answer.

        Raises:
            SpillwayError: the outcome, where it is an error.
        """
        if isinstance(self.outcome, SpillwayError):
            raise self.outcome
        return self.outcome


def answer_of(message: Buffer) -> Answer:
    """Decode the answer to a unary call."""
    return Answer(decode_response(message))


def reply_of(message: Buffer) -> Reply:
    """Decode one message of a stream."""
    request_id, outcome = decode_stream_response(message)
    return Reply(request_id, Answer(outcome) if isinstance(outcome, InferResult) else outcome)
