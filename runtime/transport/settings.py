"""What an operator can set of the gRPC side and of the one gate, with its ranges.

Everything that comes from outside has a limit here: bytes, seconds, calls, pings.
"""

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

Role = Literal["infer", "operate", "device", "public"]
"""What a caller may do: send requests, change what is served, act as a device of the fleet; `public` is for all."""

_MIB = 1 << 20
_INT32 = 2**31 - 1  # gRPC holds sizes and milliseconds as 32-bit integers


class AccessSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Who may do what.

    `local_roles` are those of callers without a certificate: they came over loopback, the unix socket, or a listener
    that `insecure` allowed. `identities` maps names of client certificates (common name or subject alternative name,
    whole and exact) to roles; without it every verified certificate may `infer` and `operate`.
    """

    insecure: bool = False
    local_roles: tuple[Role, ...] = ("infer", "operate", "device")
    identities: Mapping[str, tuple[Role, ...]] | None = None

    def __post_init__(self) -> None:
        if self.identities is not None and "" in self.identities:
            raise ValueError("identities has an empty name")


class GrpcSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Listeners and limits of the gRPC front. Port 0 lets the system choose; `uds` empty means no unix socket.

    `tls_client_ca` makes client certificates a must (mutual TLS). `max_message_bytes` bounds messages of the two
    inference calls, `max_load_bytes` those of RepositoryModelLoad, which may carry files, `max_control_bytes` all
    others; each after decompression. A connection is asked to reconnect after `connection_age_s` (calls in flight
    finish; those that outlive `connection_age_grace_s` are cut, 0 means never) and closed after `connection_idle_s`
    without a call. `drain_settle_s` is the silence that a stop waits for before it closes connections.
    """

    host: str = "127.0.0.1"
    port: int = 8001
    uds: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    tls_client_ca: str = ""
    max_message_bytes: int = 64 * _MIB
    max_control_bytes: int = 4 * _MIB
    max_load_bytes: int = 64 * _MIB
    max_metadata_bytes: int = 16_384
    max_concurrent_calls: int = 8192
    max_streams_per_connection: int = 4096
    max_in_flight_per_stream: int = 128
    handshake_timeout_s: float = 10.0
    connection_age_s: float = 1800.0
    connection_age_grace_s: float = 0.0
    connection_idle_s: float = 600.0
    keepalive_s: float = 60.0
    keepalive_timeout_s: float = 20.0
    min_ping_interval_s: float = 10.0
    max_ping_strikes: int = 2
    drain_settle_s: float = 0.1

    def __post_init__(self) -> None:
        _check("port", self.port, 0, 65_535)
        for name in (
            "max_message_bytes",
            "max_control_bytes",
            "max_load_bytes",
            "max_metadata_bytes",
            "max_concurrent_calls",
            "max_streams_per_connection",
            "max_in_flight_per_stream",
        ):
            _check(name, getattr(self, name), 1, _INT32)
        _check("max_ping_strikes", self.max_ping_strikes, 0, 1000)
        for name in ("handshake_timeout_s", "connection_age_s", "connection_idle_s"):
            _check(name, getattr(self, name), 0.01, _INT32 / 1000)
        for name in ("keepalive_s", "keepalive_timeout_s", "min_ping_interval_s"):
            _check(name, getattr(self, name), 0.01, _INT32 / 1000)
        _check("connection_age_grace_s", self.connection_age_grace_s, 0, _INT32 / 1000)
        _check("drain_settle_s", self.drain_settle_s, 0, 10)
        self._check_tls()

    @property
    def mutual_tls(self) -> bool:
        """Whether every caller on TCP has shown a certificate that we verified."""
        return bool(self.tls_client_ca)

    def _check_tls(self) -> None:
        if bool(self.tls_cert) != bool(self.tls_key):
            raise ValueError("tls_cert and tls_key belong together, only one is set")
        if self.tls_client_ca and not self.tls_cert:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")


def _check(name: str, value: float, low: float, high: float) -> None:
    if math.isnan(value) or not low <= value <= high:
        raise ValueError(f"{name} {value} is outside {low}..{high}")
