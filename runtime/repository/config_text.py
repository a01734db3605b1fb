"""A model's config as people write it: `config.pbtxt` in text protobuf, or JSON in a load call.

Pure. What is accepted is a `ModelConfig` whose fields are all supported or hints (`fields.py`); whatever is wrong is a
`ValueError` whose text starts with the place (`config.pbtxt:3:5:`) and names the field.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf import json_format, text_format

from runtime.repository.execution import skipped_options
from runtime.repository.fields import field_uses
from runtime.repository.locate import line_of
from runtime.wire.pb import model_config_pb2 as pb

ORIGIN_TEXT = "config.pbtxt"
ORIGIN_JSON = "override config"

_ENGINES = {
    "platform": ("", "onnxruntime_onnx"),
    "backend": ("", "onnxruntime"),
    "runtime": ("", "onnxruntime", "libtriton_onnxruntime.so"),
}


@dataclass(frozen=True, slots=True)
class Hint:
    """A field that is skipped because it changes no answer; `line` 0 where it is not known."""

    name: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True)
class WrittenConfig:
    """A config as it was written, checked, not completed."""

    config: pb.ModelConfig
    hints: tuple[Hint, ...] = ()


def parse_text(content: bytes, max_bytes: int) -> WrittenConfig:
    """Read the bytes of a config.pbtxt.

    Raises:
        ValueError: too large, not UTF-8, not a ModelConfig, or a field is refused.
    """
    config, text = decode_text(content, max_bytes)
    return _checked(config, text, ORIGIN_TEXT)


def decode_text(content: bytes, max_bytes: int) -> tuple[pb.ModelConfig, str]:
    """Decode the bytes of a config.pbtxt and check nothing more; the message and the text it was. Raises ValueError."""
    _check_size(ORIGIN_TEXT, len(content), max_bytes)
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{ORIGIN_TEXT}: not UTF-8 text at byte {error.start}") from error
    config = pb.ModelConfig()
    try:
        text_format.Parse(text, config)
    except text_format.ParseError as error:
        raise ValueError(_parse_message(error)) from error
    return config, text


def parse_json(text: str, max_bytes: int) -> WrittenConfig:
    """Read the config of a load call; numbers may be strings, as protobuf's JSON has them.

    Raises:
        ValueError: too large, not JSON, not a ModelConfig, or a field is refused.
    """
    _check_size(ORIGIN_JSON, len(text), max_bytes)
    config = pb.ModelConfig()
    try:
        fields = json.loads(text)
        if not isinstance(fields, dict):
            raise json_format.ParseError("not a JSON object")
        json_format.ParseDict(fields, config, max_recursion_depth=20)
    except (json_format.ParseError, ValueError, RecursionError) as error:
        reason = _one_line(error).partition(" Available Fields")[0]
        raise ValueError(f"{ORIGIN_JSON}: {reason}") from error
    return _checked(config, "", ORIGIN_JSON)


def with_name(config: pb.ModelConfig, name: str) -> pb.ModelConfig:
    """Return a copy that carries the folder's name.

    Raises:
        ValueError: the config names another model.
    """
    if config.name not in ("", name):
        raise ValueError(f"the config's name '{config.name}' is not that of the folder, '{name}'")
    named = pb.ModelConfig()
    named.CopyFrom(config)
    named.name = name
    return named


def _check_size(origin: str, size: int, max_bytes: int) -> None:
    if size > max_bytes:
        raise ValueError(f"{origin}: {size} bytes, limit {max_bytes}")


def _parse_message(error: text_format.ParseError) -> str:
    line, column = error.GetLine(), error.GetColumn()
    message = _one_line(error).removeprefix(f"{line}:{column} : ")
    place = f"{ORIGIN_TEXT}:{line}:{column}" if line is not None else ORIGIN_TEXT
    return f"{place}: {message}"


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split()).replace("spillway.inference.", "")
    return f"{text[:500]}..." if len(text) > 500 else text


def _checked(config: pb.ModelConfig, text: str, origin: str) -> WrittenConfig:
    if refusals := list(refused(config, text, origin)):
        raise ValueError("; ".join(refusals))
    return WrittenConfig(config, tuple(hints(config, text)))


def refused(config: pb.ModelConfig, text: str, origin: str) -> Iterator[str]:
    """Yield every reason why a config is refused, each with its place."""
    for use in field_uses(config):
        if use.kind == "refused":
            yield f"{_place(origin, line_of(text, use.path))}: {use.name} is not supported: {use.reason}"
    for name, known in _ENGINES.items():
        if (value := getattr(config, name)) not in known:
            place = _place(origin, line_of(text, ((name, None),)))
            yield f"{place}: {name} {value!r} is not served here: write {known[1]!r}"
    if config.max_batch_size < 0:
        place = _place(origin, line_of(text, (("max_batch_size", None),)))
        yield f"{place}: max_batch_size {config.max_batch_size} must not be negative"


def hints(config: pb.ModelConfig, text: str) -> Iterator[Hint]:
    """Yield every field and parameter that is skipped."""
    for use in field_uses(config):
        if use.kind == "hint":
            yield Hint(use.name, line_of(text, use.path), use.reason)
    for key, reason in skipped_options(config):
        yield Hint(f"parameters '{key}'", line_of(text, (("parameters", key),)), reason)


def _place(origin: str, line: int) -> str:
    return f"{origin}:{line}" if line else origin
