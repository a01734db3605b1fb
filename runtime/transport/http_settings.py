"""What an operator can set of the HTTP side, with its ranges.

Everything that comes from outside has a limit here: bytes, elements, connections and seconds.
"""

import msgspec

_MIB = 1 << 20


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Listeners and limits of the HTTP front. Port 0 lets the system choose.

    `tls` gives the HTTP listener the certificates of the gRPC one, client CA included; that for metrics stays plain.
    `max_json_bytes` bounds the JSON of an inference request (it is parsed on the event loop), `max_body_bytes` any
    whole body after decompression, `max_held_bytes` all bodies in memory at once, `max_json_elements` what one answer
    may print as JSON numbers. `head_timeout_s` is the time a new connection has to send its first request head,
    `body_timeout_s` the time for a whole body, `write_timeout_s` the time a client has to take a large answer, and
    `idle_timeout_s` how long a connection may stay open between requests.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    tls: bool = False
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 8002
    max_json_bytes: int = _MIB
    max_body_bytes: int = 64 * _MIB
    max_held_bytes: int = 512 * _MIB
    max_json_elements: int = 262_144
    max_connections: int = 1024
    head_timeout_s: float = 10.0
    body_timeout_s: float = 60.0
    write_timeout_s: float = 60.0
    idle_timeout_s: float = 75.0

    def __post_init__(self) -> None:
        for name in ("port", "metrics_port"):
            if not 0 <= (port := getattr(self, name)) <= 65535:
                raise ValueError(f"{name} {port} is outside 0..65535")
        for name in ("max_json_bytes", "max_body_bytes", "max_json_elements", "max_connections"):
            if (count := getattr(self, name)) < 1:
                raise ValueError(f"{name} {count} is below 1")
        for name in ("head_timeout_s", "body_timeout_s", "write_timeout_s", "idle_timeout_s"):
            if not 0 < (seconds := getattr(self, name)) <= 86_400:
                raise ValueError(f"{name} {seconds} is outside 0..86400")
        if self.max_held_bytes < self.max_body_bytes:
            raise ValueError(f"max_held_bytes {self.max_held_bytes} is below max_body_bytes {self.max_body_bytes}")
