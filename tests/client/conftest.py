"""One server for all tests of the client; what it notes is emptied before each."""

from collections.abc import Iterator

import pytest

from tests.client.server import Server, serving


@pytest.fixture(scope="session")
def running_server() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running_server: Server) -> Server:
    running_server.asked.clear()
    running_server.stuck.clear()
    running_server.gone.clear()
    return running_server
