"""docs/protocol.md says what the code does: its tables of methods, codes and limits."""

import re
from pathlib import Path

from runtime.transport.access import GRPC_ROLES
from runtime.transport.settings import GrpcSettings
from runtime.wire.pool import SERVICE
from runtime.wire.status import MAX_DETAILS, STATUS

PAGE = (Path(__file__).parents[2] / "docs" / "protocol.md").read_text()


def test_every_method_has_a_row_with_its_role() -> None:
    rows = re.findall(r"^\| `([\w./]+)` \| (infer|operate|device|public) \|", PAGE, re.MULTILINE)
    assert {(f"/{name}" if "/" in name else f"/{SERVICE}/{name}"): role for name, role in rows} == GRPC_ROLES


def test_every_limit_has_a_row_with_its_default() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| ([\d.]+) \|", PAGE, re.MULTILINE))
    addresses = {"host", "port", "uds", "tls_cert", "tls_key", "tls_client_ca"}
    settings = GrpcSettings()
    assert rows == {
        name: str(getattr(settings, name)) for name in GrpcSettings.__struct_fields__ if name not in addresses
    }


def test_every_code_that_an_error_can_have_is_listed() -> None:
    listed = {code for cell in re.findall(r"^\| ([A-Z_, ]+) \|", PAGE, re.MULTILINE) for code in cell.split(", ")}
    unused = {"FAILED_PRECONDITION"}  # the family ControlError: none of its members keeps that code
    assert {code.name for code in STATUS.values()} - unused == listed
    assert f"{MAX_DETAILS:,} bytes" in PAGE
