"""The blocking client.

Rules
- Threads may share a client; its calls go over one connection.
- gRPC's own threads do not survive `os.fork`: make the client in the child.
- Errors are those of `runtime.core.errors`, told from the server's status.
"""

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc

import runtime.client.control as asks
from runtime.client.connection import DEADLINE_S, LOAD_DEADLINE_S, OPTIONS, Pem, credentials, error_from, timeout_of
from runtime.client.control import Ask, Result
from runtime.client.messages import INFER, STREAM_INFER, Answer, Reply, Request, answer_of, reply_of
from runtime.core.inference import Parameter
from runtime.core.tensor import Array
from runtime.wire.pb import inference_pb2 as pb
from runtime.wire.pb import model_config_pb2


class Client:
    """A connection to one server; opened by the first call. Close it, or use it in a `with` statement."""

    def __init__(self, address: str, *, ca: Pem | None = None, cert: Pem | None = None, key: Pem | None = None) -> None:
        tls = credentials(ca, cert, key)
        if tls is None:
            self._channel = grpc.insecure_channel(address, OPTIONS)
        else:
            self._channel = grpc.secure_channel(address, tls, OPTIONS)
        # Without serializers gRPC hands bytes through.
        self._infer: Callable[..., bytes] = self._channel.unary_unary(INFER)
        self._stream: grpc.StreamStreamMultiCallable[bytes, bytes] = self._channel.stream_stream(STREAM_INFER)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; calls under way end with `Cancelled`. Idempotent."""
        self._channel.close()

    def infer(
        self,
        model: str,
        inputs: Mapping[str, Array],
        outputs: Sequence[str] | None = None,
        *,
        version: str = "",
        deadline_s: float = DEADLINE_S,
        request_id: str = "",
        priority: int = 0,
        timeout_us: int = 0,
        parameters: Mapping[str, Parameter] | None = None,
        classification: Mapping[str, int] | None = None,
    ) -> Answer:
        """Ask one question and wait for its answer; `Request` says what the arguments mean.

        Raises:
            DeadlineExpired: no answer within `deadline_s` (infinity: no limit).
            SpillwayError: what the server says; `CapacityError` as well where it cannot be reached.
        """
        request = Request(
            model=model,
            inputs=inputs,
            outputs=outputs or (),
            version=version,
            request_id=request_id,
            priority=priority,
            timeout_us=timeout_us,
            parameters=parameters or {},
            classification=classification or {},
        )
        return answer_of(self._call(self._infer, request.encode(), deadline_s))

    def stream(self, requests: Iterable[Request], *, deadline_s: float = math.inf) -> Generator[Reply, None, None]:
        """Send requests over one stream and yield a reply for each, errors included, in the order they come.

        `requests` is read in another thread, as fast as the connection takes them. Closing or dropping the generator
        ends the stream.
        `deadline_s` bounds the stream as a whole. What `requests` raises is raised after the replies to those before.

        Raises:
            SpillwayError: the stream itself broke.
        """
        failure: list[Exception] = []

        def encoded() -> Iterator[bytes]:
            try:
                for request in requests:
                    yield request.encode()
            except Exception as error:  # noqa: BLE001  # raised below, in the thread of the caller
                failure.append(error)

        call = self._stream(encoded(), timeout=timeout_of(deadline_s))
        try:
            for message in call:
                yield reply_of(message)
        except grpc.RpcError as error:
            raise error_from(error) from error
        finally:
            call.cancel()
        if failure:
            raise failure[0]

    def live(self, *, deadline_s: float = DEADLINE_S) -> bool:
        """Tell whether the server runs."""
        return self._ask(asks.live(), deadline_s)

    def ready(self, *, deadline_s: float = DEADLINE_S) -> bool:
        """Tell whether the server takes requests."""
        return self._ask(asks.ready(), deadline_s)

    def model_ready(self, model: str, version: str = "", *, deadline_s: float = DEADLINE_S) -> bool:
        """Tell whether a model takes requests; False as well for one that does not exist."""
        return self._ask(asks.model_ready(model, version), deadline_s)

    def server_metadata(self, *, deadline_s: float = DEADLINE_S) -> pb.ServerMetadataResponse:
        """Name, version and extensions of the server."""
        return self._ask(asks.server_metadata(), deadline_s)

    def model_metadata(
        self, model: str, version: str = "", *, deadline_s: float = DEADLINE_S
    ) -> pb.ModelMetadataResponse:
        """Versions, inputs and outputs of a model."""
        return self._ask(asks.model_metadata(model, version), deadline_s)

    def model_config(
        self, model: str, version: str = "", *, deadline_s: float = DEADLINE_S
    ) -> model_config_pb2.ModelConfig:
        """Config of a model, completed from its graph."""
        return self._ask(asks.model_config(model, version), deadline_s)

    def statistics(
        self, model: str = "", version: str = "", *, deadline_s: float = DEADLINE_S
    ) -> list[pb.ModelStatistics]:
        """Counters of one version, of all versions of a model, or of all models."""
        return self._ask(asks.statistics(model, version), deadline_s)

    def index(
        self, *, ready_only: bool = False, deadline_s: float = DEADLINE_S
    ) -> list[pb.RepositoryIndexResponse.ModelIndex]:
        """Models and versions of the repository with their states."""
        return self._ask(asks.index(ready_only=ready_only), deadline_s)

    def load(
        self,
        model: str,
        *,
        config: str | None = None,
        files: Mapping[str, bytes] | None = None,
        deadline_s: float = LOAD_DEADLINE_S,
    ) -> None:
        """Load a model, or load it again; `config` (JSON) and `files` (path in the model's folder -> bytes) override.

        Raises:
            ExecutionError: its files or config are missing or wrong.
            InvalidRequest: the server refused the model.
        """
        self._ask(asks.load(model, config, files or {}), deadline_s)

    def unload(self, model: str, *, deadline_s: float = DEADLINE_S) -> None:
        """Unload a model; it is no error if there is none."""
        self._ask(asks.unload(model), deadline_s)

    def _ask(self, ask: Ask[Result], deadline_s: float) -> Result:
        return ask.read(self._call(self._channel.unary_unary(ask.method), ask.request, deadline_s))

    @staticmethod
    def _call(method: Callable[..., bytes], message: bytes, deadline_s: float) -> bytes:
        try:
            return method(message, timeout=timeout_of(deadline_s))
        except grpc.RpcError as error:
            raise error_from(error) from error
