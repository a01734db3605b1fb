"""The one gate for requests: which role each operation needs, and which roles a caller has.

Both fronts ask `Gatekeeper.check` before anything else of a call is looked at. Knows no transport's types.

Rules
- Default deny: an operation that stands in neither table is refused, whoever asks. A test enumerates the methods of
  a running server and the routes of the HTTP application, and fails where one has no role here.
- `public` needs no identity; it tells nothing that is worth a secret.
- A caller without a certificate is a local one: wider listeners need mutual TLS (`require_safe_listener`).
"""

import ipaddress

from runtime.core.errors import AccessDenied, ConfigError, Unauthenticated
from runtime.transport.call import Identity
from runtime.transport.settings import AccessSettings, Role

Operation = str | tuple[str, str]
"""Full path of a gRPC method, or verb and route template of HTTP."""

_INFERENCE = "/inference.GRPCInferenceService/"

GRPC_ROLES: dict[str, Role] = {
    _INFERENCE + "ServerLive": "public",
    _INFERENCE + "ServerReady": "public",
    _INFERENCE + "ServerMetadata": "public",
    _INFERENCE + "ModelReady": "infer",
    _INFERENCE + "ModelMetadata": "infer",
    _INFERENCE + "ModelConfig": "infer",
    _INFERENCE + "ModelStatistics": "infer",
    _INFERENCE + "ModelInfer": "infer",
    _INFERENCE + "ModelStreamInfer": "infer",
    _INFERENCE + "RepositoryIndex": "operate",
    _INFERENCE + "RepositoryModelLoad": "operate",
    _INFERENCE + "RepositoryModelUnload": "operate",
    # A region's name is a key to this machine's memory (CVE-2025-23320): for operators until clients have quotas.
    _INFERENCE + "SystemSharedMemoryStatus": "operate",
    _INFERENCE + "SystemSharedMemoryRegister": "operate",
    _INFERENCE + "SystemSharedMemoryUnregister": "operate",
    _INFERENCE + "CudaSharedMemoryStatus": "operate",
    _INFERENCE + "CudaSharedMemoryRegister": "operate",
    _INFERENCE + "CudaSharedMemoryUnregister": "operate",
    _INFERENCE + "TraceSetting": "operate",
    _INFERENCE + "LogSettings": "operate",
    "/grpc.health.v1.Health/Check": "public",
    "/grpc.health.v1.Health/Watch": "public",
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": "public",
}

_MODEL = "/v2/models/{model}"
_VERSION = _MODEL + "/versions/{version}"

HTTP_ROLES: dict[tuple[str, str], Role] = {
    ("GET", "/healthz"): "public",
    ("GET", "/readyz"): "public",
    # Counters and model names, no inputs; on its own listener there is no identity to ask for.
    ("GET", "/metrics"): "public",
    # Reasons of failures name paths on this machine.
    ("GET", "/status"): "operate",
    ("GET", "/v2"): "public",
    ("GET", "/v2/health/live"): "public",
    ("GET", "/v2/health/ready"): "public",
    ("GET", "/v2/models/stats"): "infer",
    ("GET", _MODEL): "infer",
    ("GET", _VERSION): "infer",
    ("GET", _MODEL + "/ready"): "infer",
    ("GET", _VERSION + "/ready"): "infer",
    ("GET", _MODEL + "/config"): "infer",
    ("GET", _VERSION + "/config"): "infer",
    ("GET", _MODEL + "/stats"): "infer",
    ("GET", _VERSION + "/stats"): "infer",
    ("POST", _MODEL + "/infer"): "infer",
    ("POST", _VERSION + "/infer"): "infer",
    ("POST", "/v2/repository/index"): "operate",
    ("POST", "/v2/repository/models/{model}/load"): "operate",
    ("POST", "/v2/repository/models/{model}/unload"): "operate",
}

_VERIFIED: frozenset[Role] = frozenset({"infer", "operate"})


class Gatekeeper:
    """Decides whether a caller may use an operation. Immutable; `check` costs two look-ups."""

    def __init__(self, settings: AccessSettings) -> None:
        self.insecure = settings.insecure
        self._local: frozenset[Role] = frozenset(settings.local_roles)
        self._by_name = (
            None
            if settings.identities is None
            else {name: frozenset(roles) for name, roles in settings.identities.items()}
        )

    def check(self, operation: Operation, identity: Identity) -> None:
        """Let the call pass, or raise.

        Raises:
            Unauthenticated: the operation needs a role that callers without a certificate do not have.
            AccessDenied: no table knows the operation, or the caller's certificate does not carry the role.
        """
        needed = GRPC_ROLES.get(operation) if isinstance(operation, str) else HTTP_ROLES.get(operation)
        if needed is None:
            raise AccessDenied(f"no role may use {operation}")
        if needed == "public" or needed in self._roles(identity):
            return
        if not identity.names:
            raise Unauthenticated(f"role '{needed}' is needed and the call carries no identity")
        raise AccessDenied(f"role '{needed}' is needed, '{identity.names[0]}' does not have it")

    def _roles(self, identity: Identity) -> frozenset[Role]:
        if not identity.names:
            return self._local
        if self._by_name is None:
            return _VERIFIED
        nothing: frozenset[Role] = frozenset()
        return nothing.union(*(self._by_name.get(name, nothing) for name in identity.names))


def require_safe_listener(host: str, *, mutual_tls: bool, insecure: bool) -> None:
    """Refuse to listen where strangers could call. Pure; a name other than `localhost` counts as wide.

    Raises:
        ConfigError: `host` is beyond loopback, callers need no certificate, and nobody said that this is meant.
    """
    if mutual_tls or insecure or _is_loopback(host):
        return
    raise ConfigError(
        f"host '{host}' is beyond loopback and callers would need no certificate: "
        "give --grpc-tls-client-ca for mutual TLS, or --insecure if the network is trusted"
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
