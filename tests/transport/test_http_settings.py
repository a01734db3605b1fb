import math
from typing import Any

import msgspec
import pytest

from runtime.transport.http_settings import HttpSettings


def test_defaults_are_tritons_ports_on_loopback() -> None:
    settings = HttpSettings()
    assert (settings.host, settings.port) == ("127.0.0.1", 8000)
    assert (settings.metrics_host, settings.metrics_port) == ("127.0.0.1", 8002)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("port", -1),
        ("port", 65_536),
        ("metrics_port", 65_536),
        ("max_json_bytes", 0),
        ("max_body_bytes", 0),
        ("max_json_elements", 0),
        ("max_connections", 0),
        ("head_timeout_s", 0),
        ("body_timeout_s", -1.0),
        ("write_timeout_s", math.inf),
        ("idle_timeout_s", math.nan),
        ("max_held_bytes", 1),
    ],
)
def test_a_value_out_of_range_names_its_key(key: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{key} {value}"):
        HttpSettings(**{key: value})
    if math.isfinite(value):
        with pytest.raises(msgspec.ValidationError, match=key):
            msgspec.convert({key: value}, HttpSettings)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `prot`"):
        msgspec.convert({"prot": 1}, HttpSettings)
