"""A server in this process, and sessions on it."""

from collections.abc import Iterator

import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.service.channel import Connection
from tepdist.service.client import Session
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.server import Server, make_core

from .raw import Raw

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


@pytest.fixture
def raw(server: Server) -> Iterator[Raw]:
    connection = Connection(server.address, token=None, tls=None)
    raw = Raw(connection)
    yield raw
    # Whatever was refused before, the session still works.
    (handle,) = raw.put(np.arange(3))
    np.testing.assert_array_equal(raw.fetch(handle)[0], np.arange(3))
    connection.ask("CloseSession", pb.CloseSessionRequest(session_id=raw.id))
    connection.close()
