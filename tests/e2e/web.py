"""One HTTP request, and what came back whatever its status."""

import http.client
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LIMIT_S = 10.0


@dataclass(frozen=True, slots=True)
class Page:
    """An answer: `text` is its body."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def json(self) -> Any:
        """The body, read as JSON."""
        return json.loads(self.text)


def fetch(address: str, path: str, body: Any = None, verb: str = "", headers: Mapping[str, str] | None = None) -> Page:
    """GET `path`, or POST `body` (text as it is, anything else as JSON)."""
    data = body if body is None or isinstance(body, str | bytes) else json.dumps(body)
    connection = http.client.HTTPConnection(address, timeout=LIMIT_S)
    try:
        connection.request(verb or ("GET" if data is None else "POST"), path, data, dict(headers or {}))
        answer = connection.getresponse()
        return Page(answer.status, dict(answer.headers), answer.read().decode())
    finally:
        connection.close()
