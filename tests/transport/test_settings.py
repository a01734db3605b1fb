import msgspec
import pytest

from runtime.transport.settings import AccessSettings, GrpcSettings


def test_defaults_are_within_their_own_ranges() -> None:
    settings = GrpcSettings()
    assert settings.host == "127.0.0.1"
    assert not settings.mutual_tls


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("max_message_bytes", 0),
        ("max_message_bytes", 2**31),
        ("max_control_bytes", 0),
        ("max_in_flight_per_stream", 0),
        ("handshake_timeout_s", 0.0),
        ("connection_age_s", float("inf")),
        ("keepalive_s", float("nan")),
        ("drain_settle_s", -0.1),
        ("max_ping_strikes", -1),
    ],
)
def test_a_value_out_of_range_is_named(key: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{key} .* is outside"):
        GrpcSettings(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"tls_cert": "a"}, "only one is set"),
        ({"tls_key": "a"}, "only one is set"),
        ({"tls_client_ca": "a"}, "tls_client_ca needs"),
    ],
)
def test_certificate_files_come_together(files: dict[str, str], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        GrpcSettings(**files)  # type: ignore[arg-type]


def test_roles_are_words_of_ours() -> None:
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'root'"):
        msgspec.convert({"identities": {"a": ["root"]}}, AccessSettings)
    with pytest.raises(msgspec.ValidationError, match="empty name"):
        msgspec.convert({"identities": {"": ["infer"]}}, AccessSettings)
