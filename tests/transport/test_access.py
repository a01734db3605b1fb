import pytest

from runtime.core.errors import AccessDenied, ConfigError, Unauthenticated
from runtime.transport.access import GRPC_ROLES, HTTP_ROLES, Gatekeeper, Operation, require_safe_listener
from runtime.transport.call import Identity
from runtime.transport.settings import AccessSettings
from runtime.wire.pool import METHODS, SERVICE

INFER = f"/{SERVICE}/ModelInfer"
LOAD = f"/{SERVICE}/RepositoryModelLoad"
LIVE = f"/{SERVICE}/ServerLive"
LOCAL = Identity()
CAMERA = Identity(("camera-7", "camera-7.plant.example"))


def test_every_method_of_the_service_has_a_role() -> None:
    assert set(METHODS) <= set(GRPC_ROLES)


@pytest.mark.parametrize(
    "operation", ["", "/", INFER + "/", INFER.lower(), INFER + "\0", "/x/y", ("GET", "/v3"), ("get", "/v2"), ("", "")]
)
def test_what_is_in_no_table_is_denied_to_everybody(operation: str | tuple[str, str]) -> None:
    gate = Gatekeeper(AccessSettings())
    for identity in (LOCAL, CAMERA):
        with pytest.raises(AccessDenied, match="no role may use"):
            gate.check(operation, identity)


def test_local_callers_may_do_everything_by_default() -> None:
    gate = Gatekeeper(AccessSettings())
    operations: list[Operation] = [*GRPC_ROLES, *HTTP_ROLES]
    for operation in operations:
        gate.check(operation, LOCAL)


def test_local_callers_can_be_held_to_some_roles() -> None:
    gate = Gatekeeper(AccessSettings(local_roles=("infer",)))
    gate.check(INFER, LOCAL)
    gate.check(LIVE, LOCAL)
    with pytest.raises(Unauthenticated, match="role 'operate' is needed"):
        gate.check(LOAD, LOCAL)


def test_any_verified_certificate_may_infer_and_operate_without_a_table() -> None:
    gate = Gatekeeper(AccessSettings(local_roles=()))
    for operation in (INFER, LOAD, LIVE):
        gate.check(operation, CAMERA)


def test_with_a_table_only_the_names_in_it_have_roles() -> None:
    gate = Gatekeeper(AccessSettings(identities={"camera-7.plant.example": ("infer",), "ops": ("operate",)}))
    gate.check(INFER, CAMERA)
    gate.check(LIVE, Identity(("stranger",)))
    for operation, names in ((LOAD, CAMERA.names), (INFER, ("stranger",)), (INFER, ("CAMERA-7.plant.example",))):
        with pytest.raises(AccessDenied, match=f"'{names[0]}' does not have it"):
            gate.check(operation, Identity(names))


def test_roles_of_several_names_add_up() -> None:
    gate = Gatekeeper(AccessSettings(identities={"a": ("infer",), "b": ("operate",)}))
    for operation in (INFER, LOAD):
        gate.check(operation, Identity(("a", "b")))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost", "LOCALHOST"])
def test_loopback_is_safe(host: str) -> None:
    require_safe_listener(host, mutual_tls=False, insecure=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.168.1.4", "node.local", "localhost.evil.example", "1"])
def test_wider_listeners_need_certificates_or_a_word(host: str) -> None:
    with pytest.raises(ConfigError, match="beyond loopback"):
        require_safe_listener(host, mutual_tls=False, insecure=False)
    require_safe_listener(host, mutual_tls=True, insecure=False)
    require_safe_listener(host, mutual_tls=False, insecure=True)
