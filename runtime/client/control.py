"""Control calls: what to send for each, and how to read what comes back; the same for both clients, no network here.

Answers that are more than a truth value are the protocol's own messages.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import DecodeError, Message

from runtime.core.errors import ExecutionError
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pb import model_config_pb2
from runtime.wire.pool import SERVICE

Result = TypeVar("Result")
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True, slots=True)
class Ask(Generic[Result]):
    """One control call."""

    method: str
    request: bytes
    read: Callable[[bytes], Result]


def _ask(method: str, request: Message, response: type[Response], take: Callable[[Response], Result]) -> Ask[Result]:
    def read(message: bytes) -> Result:
        try:
            return take(response.FromString(message))
        except DecodeError as error:
            raise ExecutionError(f"malformed answer to {method}") from error

    return Ask(f"/{SERVICE}/{method}", request.SerializeToString(), read)


def live() -> Ask[bool]:
    """Ask whether the server runs."""
    return _ask("ServerLive", pb.ServerLiveRequest(), pb.ServerLiveResponse, lambda answer: answer.live)


def ready() -> Ask[bool]:
    """Ask whether the server is ready for requests."""
    return _ask("ServerReady", pb.ServerReadyRequest(), pb.ServerReadyResponse, lambda answer: answer.ready)


def model_ready(model: str, version: str) -> Ask[bool]:
    """Ask whether a model is ready."""
    request = pb.ModelReadyRequest(name=model, version=version)
    return _ask("ModelReady", request, pb.ModelReadyResponse, lambda answer: answer.ready)


def server_metadata() -> Ask[pb.ServerMetadataResponse]:
    """Ask who the server is and what it offers."""
    return _ask("ServerMetadata", pb.ServerMetadataRequest(), pb.ServerMetadataResponse, lambda answer: answer)


def model_metadata(model: str, version: str) -> Ask[pb.ModelMetadataResponse]:
    """Ask for a model's inputs and outputs."""
    request = pb.ModelMetadataRequest(name=model, version=version)
    return _ask("ModelMetadata", request, pb.ModelMetadataResponse, lambda answer: answer)


def model_config(model: str, version: str) -> Ask[model_config_pb2.ModelConfig]:
    """Ask for a model's config, completed."""
    request = pb.ModelConfigRequest(name=model, version=version)
    return _ask("ModelConfig", request, pb.ModelConfigResponse, lambda answer: answer.config)


def statistics(model: str, version: str) -> Ask[list[pb.ModelStatistics]]:
    """Ask for counters and times."""
    request = pb.ModelStatisticsRequest(name=model, version=version)
    return _ask("ModelStatistics", request, pb.ModelStatisticsResponse, lambda answer: list(answer.model_stats))


def index(*, ready_only: bool) -> Ask[list[pb.RepositoryIndexResponse.ModelIndex]]:
    """Ask what is in the repository."""
    request = pb.RepositoryIndexRequest(ready=ready_only)
    return _ask("RepositoryIndex", request, pb.RepositoryIndexResponse, lambda answer: list(answer.models))


def load(model: str, config: str | None, files: Mapping[str, bytes]) -> Ask[None]:
    """Ask to load a model; `config` is JSON, the keys of `files` are paths inside the model's folder."""
    request = pb.RepositoryModelLoadRequest(model_name=model)
    if config is not None:
        request.parameters["config"].string_param = config
    for path, content in files.items():
        request.parameters[f"file:{path}"].bytes_param = content
    return _ask("RepositoryModelLoad", request, pb.RepositoryModelLoadResponse, lambda _: None)


def unload(model: str) -> Ask[None]:
    """Ask to unload a model."""
    request = pb.RepositoryModelUnloadRequest(model_name=model)
    return _ask("RepositoryModelUnload", request, pb.RepositoryModelUnloadResponse, lambda _: None)
