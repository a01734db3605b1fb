"""All gRPC methods of this server, put together: the inference service, health and reflection."""

from runtime.transport.control import ControlHandlers
from runtime.transport.health import CHECK, WATCH, HealthHandlers
from runtime.transport.inference import InferenceHandlers
from runtime.transport.reflection import REFLECTION, ReflectionHandler
from runtime.transport.routes import Routes
from runtime.transport.settings import GrpcSettings
from runtime.wire.pool import SERVICE

INFER = f"/{SERVICE}/ModelInfer"
STREAM_INFER = f"/{SERVICE}/ModelStreamInfer"
LOAD = f"/{SERVICE}/RepositoryModelLoad"


def grpc_routes(
    inference: InferenceHandlers, control: ControlHandlers, health: HealthHandlers, settings: GrpcSettings
) -> Routes:
    """The table that a gRPC front serves."""
    return Routes(
        callbacks={INFER: inference.infer},
        coroutines={**control.routes(), CHECK: health.check},
        streams={STREAM_INFER: inference.stream, REFLECTION: ReflectionHandler().info},
        watches={WATCH: health.watch},
        limits={
            INFER: settings.max_message_bytes,
            STREAM_INFER: settings.max_message_bytes,
            LOAD: settings.max_load_bytes,
        },
    )
