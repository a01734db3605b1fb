"""One HTTP request as handlers of the control plane see it: a `Call`, as an RPC is one."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from aiohttp import web

from runtime.transport.call import Identity

_NOBODY = Identity()
_UNNAMED = Identity(("certificate without a name",))


@dataclass(frozen=True, slots=True)
class HttpCall:
    """Implements `transport.call.Call`."""

    peer: str
    identity: Identity
    metadata: Mapping[str, str]
    deadline: float = math.inf


def call_of(request: web.Request) -> HttpCall:
    """What a handler may know of `request`."""
    metadata = {name.lower(): value for name, value in request.headers.items()}
    return HttpCall(request.remote or "", identity_of(request), metadata)


def identity_of(request: web.Request) -> Identity:
    """The names in the client's certificate; nobody without mutual TLS."""
    transport = request.transport
    certificate = transport.get_extra_info("peercert") if transport is not None else None
    if not certificate:
        return _NOBODY
    common = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    names = [*common, *(value for _, value in certificate.get("subjectAltName", ()))]
    # As in `tls.identity_of`: a verified certificate is never taken for a caller without one.
    return Identity(tuple(dict.fromkeys(filter(None, names)))) if any(names) else _UNNAMED
