"""The control plane: health, metadata, configuration, statistics and the model repository, one handler per RPC.

Handlers see bytes and a `Call`; HTTP asks the same ones. Decides nothing about models: the repository does.

Rules
- ServerLive, ServerReady and ModelReady answer, whatever they are asked; they never fail.
- Parameters of a load or unload that nobody defined are refused, so that a misspelt one is not passed over.
- RPCs that this server does not offer say so by name (UNIMPLEMENTED).
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import DecodeError, Message

from runtime.core.errors import InvalidRequest, Unsupported
from runtime.core.names import parse_version
from runtime.core.tensor import Buffer
from runtime.repository.index import IndexEntry, ServedModel
from runtime.transport import describe
from runtime.transport.call import Call
from runtime.transport.routes import CoroutineHandler
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pool import METHODS, SERVICE

SERVER_NAME = "triton"
"""Programs written for Triton ask for this name."""
EXTENSIONS = (
    "classification",
    "model_repository",
    "schedule_policy",
    "model_configuration",
    "binary_tensor_data",
    "parameters",
    "statistics",
)

_NOT_OFFERED = {
    **dict.fromkeys(
        (
            "SystemSharedMemoryStatus",
            "SystemSharedMemoryRegister",
            "SystemSharedMemoryUnregister",
            "CudaSharedMemoryStatus",
            "CudaSharedMemoryRegister",
            "CudaSharedMemoryUnregister",
        ),
        "shared memory is not offered by this server, tensors travel in messages",
    ),
    "TraceSetting": "tracing is not offered by this server",
    "LogSettings": "log settings cannot be changed by calls on this server, its configuration sets them",
}

_Method = Callable[[Any], Awaitable[Message]]


class Models(Protocol):
    """What the control plane needs of the repository; see `repository/manager.py`."""

    async def rescan(self) -> None:
        """Look again which models the disk holds."""
        ...

    def index(self) -> Sequence[IndexEntry]:
        """All versions that are known, and models on disk that were never asked for."""
        ...

    def describe(self, model: str, version: str) -> ServedModel:
        """Everything about a version that is ready; raises ModelNotFound, ModelNotReady, InvalidRequest."""
        ...

    def served(self) -> Sequence[ServedModel]:
        """Everything about all versions that are ready."""
        ...

    def is_ready(self, model: str, version: str) -> bool:
        """Tell whether a version is ready; raises InvalidRequest where it is no number."""
        ...

    async def load(self, name: str, config_json: str | None = None, files: Mapping[str, Buffer] | None = None) -> None:
        """Load or reload a model; a load once begun runs to its end."""
        ...

    async def unload(self, name: str) -> None:
        """Unload all versions of a model."""
        ...


class ControlHandlers:
    """All RPCs but inference. `ready` is the server's own readiness. Event loop only."""

    def __init__(self, models: Models, ready: Callable[[], bool], server_version: str) -> None:
        self._models = models
        self._ready = ready
        self._server_version = server_version

    def routes(self) -> dict[str, CoroutineHandler]:
        """Handlers by full method path."""
        methods: dict[str, _Method] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ModelReady": self._model_ready,
            "ServerMetadata": self._server_metadata,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._load,
            "RepositoryModelUnload": self._unload,
        }
        methods |= {name: _refusing(f"{name}: {why}") for name, why in _NOT_OFFERED.items()}
        return {f"/{SERVICE}/{name}": _over_bytes(f"/{SERVICE}/{name}", method) for name, method in methods.items()}

    async def _server_live(self, _: pb.ServerLiveRequest) -> Message:
        return pb.ServerLiveResponse(live=True)

    async def _server_ready(self, _: pb.ServerReadyRequest) -> Message:
        return pb.ServerReadyResponse(ready=self._ready())

    async def _model_ready(self, request: pb.ModelReadyRequest) -> Message:
        try:
            ready = self._models.is_ready(request.name, request.version)
        except InvalidRequest:
            ready = False
        return pb.ModelReadyResponse(ready=ready)

    async def _server_metadata(self, _: pb.ServerMetadataRequest) -> Message:
        return pb.ServerMetadataResponse(name=SERVER_NAME, version=self._server_version, extensions=EXTENSIONS)

    async def _model_metadata(self, request: pb.ModelMetadataRequest) -> Message:
        return describe.metadata(self._models.describe(request.name, request.version))

    async def _model_config(self, request: pb.ModelConfigRequest) -> Message:
        return pb.ModelConfigResponse(config=self._models.describe(request.name, request.version).config)

    async def _model_statistics(self, request: pb.ModelStatisticsRequest) -> Message:
        version = parse_version(request.version)
        wanted = [
            served
            for served in self._models.served()
            if request.name in ("", served.name) and version in (None, served.version)
        ]
        if request.name and not wanted:
            asked = f"version {version} of model" if version else "model"
            raise InvalidRequest(f"requested {asked} '{request.name}' is not available")
        return describe.statistics(wanted)

    async def _repository_index(self, request: pb.RepositoryIndexRequest) -> Message:
        _check_repository(request.repository_name)
        await self._models.rescan()
        return describe.index(self._models.index(), only_ready=request.ready)

    async def _load(self, request: pb.RepositoryModelLoadRequest) -> Message:
        _check_repository(request.repository_name)
        config: str | None = None
        files: dict[str, Buffer] = {}
        for name, parameter in request.parameters.items():
            if name == "config":
                config = _parameter(name, parameter, "string_param")
            elif name.startswith("file:"):
                files[name] = _parameter(name, parameter, "bytes_param")
            else:
                raise InvalidRequest(f"unrecognized load parameter '{name}'")
        await self._models.load(request.model_name, config, files)
        return pb.RepositoryModelLoadResponse()

    async def _unload(self, request: pb.RepositoryModelUnloadRequest) -> Message:
        _check_repository(request.repository_name)
        for name, parameter in request.parameters.items():
            if name != "unload_dependents":
                raise InvalidRequest(f"unrecognized unload parameter '{name}'")
            _parameter(name, parameter, "bool_param")  # true or false: no model here depends on another
        await self._models.unload(request.model_name)
        return pb.RepositoryModelUnloadResponse()


def _over_bytes(path: str, method: _Method) -> CoroutineHandler:
    request = METHODS[path].request

    async def handler(message: bytes, _: Call) -> bytes:
        try:
            parsed = request.FromString(message)
        except DecodeError as error:
            raise InvalidRequest(f"malformed message: not a {request.DESCRIPTOR.name}") from error
        return (await method(parsed)).SerializeToString()

    return handler


def _refusing(text: str) -> _Method:
    async def refuse(_: Any) -> Message:
        raise Unsupported(text)

    return refuse


def _check_repository(name: str) -> None:
    if name:
        raise Unsupported(f"'repository_name' specification is not supported, got '{name}'")


def _parameter(name: str, parameter: pb.ModelRepositoryParameter, kind: str) -> Any:
    given = parameter.WhichOneof("parameter_choice")
    if given != kind:
        raise InvalidRequest(f"parameter '{name}' must be a {kind}, got {given or 'nothing'}")
    return getattr(parameter, kind)
