"""One format for every log line: an event with fields, as `key=value` text or as JSON.

Imports nothing of ours. Configured once, by the daemon.
"""

import json
import logging
import sys
import time
from typing import Any

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class EventFormatter(logging.Formatter):
    """`2026-11-22T07:00:00.123Z INFO runtime.daemon ready grpc=127.0.0.1:8001`, or the same as one JSON object."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback follows in text, and is a field in JSON."""
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        fields = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        if self._as_json:
            entry: dict[str, Any] = {"time": stamp, "level": record.levelname, "logger": record.name}
            entry |= {"event": record.getMessage(), **fields}
            if trace:
                entry["traceback"] = trace
            return json.dumps(entry, default=str)
        pairs = "".join(f" {key}={_plain(value)}" for key, value in fields.items())
        return f"{stamp} {record.levelname} {record.name} {record.getMessage()}{pairs}" + (
            f"\n{trace}" if trace else ""
        )


def _plain(value: object) -> str:
    text = str(value)
    # A value with spaces, quotes or line breaks is quoted, so that a line stays one line and one event.
    return json.dumps(text) if not text or any(char in text for char in ' "=\n\r\t') else text


def configure(level: str, log_format: str) -> None:
    """Send everything from `level` up to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(EventFormatter(as_json=log_format == "json"))
    logging.basicConfig(level=level, handlers=[handler], force=True)
