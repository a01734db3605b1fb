"""Names in the path of a request, checked before anything looks for them."""

from aiohttp import web

from runtime.core.errors import InvalidRequest
from runtime.core.names import parse_version, valid_model_name


def model_of(request: web.Request) -> str:
    """The model that the path names.

    Raises:
        InvalidRequest: no model can have this name.
    """
    name = request.match_info["model"]
    if not valid_model_name(name):
        raise InvalidRequest(f"model name {name[:64]!r} is not of letters, digits, '.', '_' and '-', at most 128")
    return name


def version_of(request: web.Request) -> str:
    """The version that the path names; empty for the highest that is ready.

    Raises:
        InvalidRequest: not a version number.
    """
    version = request.match_info.get("version", "")
    parse_version(version)
    return version
