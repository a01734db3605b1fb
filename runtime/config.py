"""One Config, composed of every room's settings; only the daemon reads the whole.

Values come, later over earlier, from: defaults; the TOML file (`/etc/spillway/spillway.toml`, or `--config`);
environment variables `SPILLWAY_<SECTION>_<KEY>`; command-line flags. Each key remembers where its value came from.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from runtime.core.errors import ConfigError
from runtime.repository.settings import RepositorySettings
from runtime.serving.settings import ServingSettings
from runtime.transport.http_settings import HttpSettings
from runtime.transport.settings import AccessSettings, GrpcSettings

DEFAULT_FILE = Path("/etc/spillway/spillway.toml")
SYSTEM_STATE = "/var/lib/spillway"


class DaemonSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process itself. `drain_s` bounds how long a stop waits for what is in flight.

    `load` names the models to load at start in explicit control mode, `*` for all. `announce` is a file that gets the
    bound addresses as JSON once the daemon is ready.
    """

    drain_s: float = 30.0
    load: tuple[str, ...] = ()
    announce: str = ""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"

    def __post_init__(self) -> None:
        if not 0 <= self.drain_s <= 3600:
            raise ValueError(f"drain_s {self.drain_s} is outside 0..3600")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything an operator can set, one table per room."""

    daemon: DaemonSettings = DaemonSettings()
    grpc: GrpcSettings = GrpcSettings()
    http: HttpSettings = HttpSettings()
    access: AccessSettings = AccessSettings()
    repository: RepositorySettings = RepositorySettings()
    serving: ServingSettings = ServingSettings()


_SERVICE_LINK = "tcp://"
"""Kubernetes puts `SPILLWAY_GRPC_PORT=tcp://...` into containers beside a Service of that name: no word of ours."""

SECTIONS: Mapping[str, type[msgspec.Struct]] = {
    "daemon": DaemonSettings,
    "grpc": GrpcSettings,
    "http": HttpSettings,
    "access": AccessSettings,
    "repository": RepositorySettings,
    "serving": ServingSettings,
}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A config and, for each `section.key` that is not a default, where its value came from."""

    config: Config
    origins: Mapping[str, str] = field(default_factory=dict)


def load_config(
    file: Path | None = None, flags: Mapping[str, Any] | None = None, environment: Mapping[str, str] | None = None
) -> Loaded:
    """Read and compose the configuration. `flags` are `section.key` -> value; `file` None means the default if there.

    Raises:
        ConfigError: a file cannot be read, or a key or value is wrong; names the key, where it came from, the value.
    """
    env = os.environ if environment is None else environment
    merged: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    for name, values in _from_file(file).items():
        if not isinstance(values, dict):
            raise ConfigError(f"{file or DEFAULT_FILE}: '{name}' must be a table, it is {values!r}")
        for key, value in values.items():
            merged.setdefault(name, {})[key] = value
            origins[f"{name}.{key}"] = str(file or DEFAULT_FILE)
    for path, value in {**_from_environment(env), **(flags or {})}.items():
        section, key = path.split(".", 1)
        merged.setdefault(section, {})[key] = value
        origins[path] = "flag" if flags and path in flags else f"environment {_variable(section, key)}"
    if "state_dir" not in merged.get("repository", {}):
        state_dir, origin = _state_dir(env)
        merged.setdefault("repository", {})["state_dir"] = state_dir
        origins["repository.state_dir"] = origin
    try:
        return Loaded(msgspec.convert(merged, Config, strict=False), origins)
    except msgspec.ValidationError as error:
        raise ConfigError(_located(str(error), origins)) from error


def _from_file(file: Path | None) -> dict[str, Any]:
    path = file or DEFAULT_FILE
    try:
        with path.open("rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        if file is None:
            return {}
        raise ConfigError(f"config file {path} does not exist") from None
    except OSError as error:
        raise ConfigError(f"config file {path} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error


def _variable(section: str, key: str) -> str:
    return f"SPILLWAY_{section}_{key}".upper()


def _from_environment(env: Mapping[str, str]) -> dict[str, Any]:
    """Single keys; a list is given as JSON or as words separated by commas."""
    found: dict[str, Any] = {}
    for section, struct in SECTIONS.items():
        for info in msgspec.structs.fields(struct):
            text = env.get(_variable(section, info.name))
            if text is not None and not text.startswith(_SERVICE_LINK):
                found[f"{section}.{info.name}"] = _parsed(text, info.type)
    return found


def _parsed(text: str, wanted: Any) -> Any:
    if text.startswith(("[", "{")):
        try:
            return msgspec.json.decode(text)
        except msgspec.DecodeError:
            return text
    return [word.strip() for word in text.split(",")] if "tuple" in str(wanted) else text


def _state_dir(env: Mapping[str, str]) -> tuple[str, str]:
    """Systemd's state directory, else the system's where we may write there, else the user's."""
    if env.get("STATE_DIRECTORY"):
        return env["STATE_DIRECTORY"].split(":")[0], "environment STATE_DIRECTORY"
    if os.access(SYSTEM_STATE, os.W_OK) or os.geteuid() == 0:
        return SYSTEM_STATE, "default"
    home = env.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return f"{home}/spillway", "default of this user"


def _located(text: str, origins: Mapping[str, str]) -> str:
    """Add to msgspec's text (`... - at `$.grpc.port``) where the value came from."""
    _, at, place = text.rpartition("`$")
    path = place.rstrip("`").lstrip(".").split("[", maxsplit=1)[0] if at else ""
    if "unknown field `" in text:
        key = text.partition("unknown field `")[2].partition("`")[0]
        path = f"{path}.{key}" if path else key
    origin = next((found for name, found in origins.items() if f"{name}.".startswith(f"{path}.")), None)
    return f"{text} (from {origin})" if origin else text
