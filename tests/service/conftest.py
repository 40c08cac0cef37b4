"""A server in this process, and sessions on it."""

from collections.abc import Iterator

import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.service.channel import Connection
from tepdist.service.client import Session
from tepdist.service.server import Server, make_core

# Scripts that tests run as processes of their own.
collect_ignore = ["stubs_only.py", "abandoned_client.py"]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server("127.0.0.1:0", make_core(parse_cluster("cpu:4")))
    yield server
    server.stop(1.0)


@pytest.fixture
def session(server: Server) -> Iterator[Session]:
    with open_session(server) as session:
        yield session


def open_session(server: Server) -> Session:
    return Session(Connection(server.address, token=None, tls=None), ttl_s=None)
