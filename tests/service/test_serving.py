"""A server as a process: leases, signals, tokens, TLS, health."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tepdist.cluster.presets import parse_cluster
from tepdist.errors import ClusterError, ConnectionLost, OptionsError, SessionError
from tepdist.service.access import read_tokens
from tepdist.service.channel import Connection
from tepdist.service.client import Session, connect
from tepdist.service.server import Server, ServerTls, make_core, serve

from .conftest import open_session
from .models import batch_mlp, init_mlp, step_mlp

HERE = Path(__file__).parent
SOURCES = HERE.parents[1] / "src"
SERVE = """
import sys
from tepdist.cluster.presets import parse_cluster
from tepdist.service.server import serve

serve("127.0.0.1:0", cluster=parse_cluster("cpu:2"),
      announce=lambda address: print(address, flush=True))
"""


def live_bytes() -> int:
    return sum(array.nbytes for array in jax.live_arrays())


def python(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(SOURCES)},
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_clients_memory_is_freed_and_the_other_goes_on(server: Server):
    with open_session(server) as mine:
        step = mine.parallelize(step_mlp, level="O1")
        state, _ = step(mine.put(init_mlp(jax.random.key(0))), batch_mlp(0))
        client = python(HERE / "abandoned_client.py", server.address)
        assert client.stdout is not None
        assert float(client.stdout.readline()) == 2**20
        _, theirs = server.core.status().sessions
        assert theirs.device_bytes >= 2**22
        time.sleep(1.5)  # longer than the lease: the client keeps it
        assert len(server.core.status().sessions) == 2
        before = live_bytes()
        client.kill()
        client.wait()
        client.stdout.close()
        deadline = time.monotonic() + 10
        while len(server.core.status().sessions) == 2:
            assert time.monotonic() < deadline
            state, _ = step(state, batch_mlp(0))
        assert live_bytes() < before - 2**21
        mine.fetch(state)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_server_in_good_order(number: signal.Signals):
    process = python("-c", SERVE)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    session = connect(address)
    session.put(init_mlp(jax.random.key(0)))
    process.send_signal(number)
    assert process.wait(timeout=60) == 0
    process.stdout.close()
    with pytest.raises(ConnectionLost):
        session.put([1.0])
    session.close()


def slow(state, x):
    """Some seconds of work for one device."""
    many = jnp.zeros((512, 512)) + x[0]
    many = jax.lax.fori_loop(0, 30_000, lambda _, a: jnp.sin(a) + 1e-3, many)
    return state + many.sum(), many.sum()


def test_a_server_that_is_killed_under_a_step_and_one_that_takes_its_place():
    process = python("-c", SERVE)
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    session = connect(address)
    state, loss = session.parallelize(slow, level="O1")(
        session.put(jnp.ones(4)), np.ones(4, np.float32)
    )
    threading.Timer(0.5, process.kill).start()
    began_s = time.monotonic()
    with pytest.raises(ConnectionLost, match="cannot be reached"):
        float(loss)
    assert time.monotonic() - began_s < 10
    process.wait()
    process.stdout.close()
    other = Server(address, make_core(parse_cluster("cpu:1")))
    try:
        with pytest.raises(SessionError, match="the server started anew"):
            ask_until_there(lambda: session.fetch(state))
        session.close()
        with connect(address) as again:
            assert again.fetch(again.put([1.0])) == [1.0]
    finally:
        other.stop(0.0)


def ask_until_there(ask: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionLost):
            ask()
        time.sleep(0.1)


def test_a_second_signal_does_not_wait_for_steps():
    process = python("-c", SERVE)
    assert process.stdout is not None
    session = connect(process.stdout.readline().strip())
    step = session.parallelize(slow, level="O1")
    state = session.put(jnp.ones(4))
    for _ in range(20):
        state, _ = step(state, np.ones(4, np.float32))
    process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=10) == -signal.SIGTERM
    process.stdout.close()
    session.close()


@pytest.mark.parametrize("request_", [b"", b"\x0a\x12tepdist.v1.Tepdist"])
def test_the_standard_health_check(server: Server, request_: bytes):
    with grpc.insecure_channel(server.address) as channel:
        check = channel.unary_unary("/grpc.health.v1.Health/Check")
        assert check(request_) == b"\x08\x01"  # SERVING
        with pytest.raises(grpc.RpcError) as unknown:
            check(b"\x0a\x05other")
        assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


def test_a_server_without_tokens_passes_over_any():
    server = Server("127.0.0.1:0", make_core(parse_cluster("cpu:1")))
    try:
        with connect(server.address, token="not asked for") as session:
            assert session.fetch(session.put(1.5)) == 1.5
    finally:
        server.stop(1.0)


def test_without_the_token_nobody_gets_in():
    core = make_core(parse_cluster("cpu:1"))
    access = read_tokens("alice:one\nbob:two")
    server = Server("127.0.0.1:0", core, access=access)
    try:
        for token in (None, "three"):
            with pytest.raises(SessionError, match="token"):
                connect(server.address, token=token)
        with (
            connect(server.address, token="one") as alice,
            connect(server.address, token="two") as bob,
        ):
            stolen = Session(
                Connection(server.address, token="two", tls=None), ttl_s=None
            )
            stolen._id = alice._id
            with pytest.raises(SessionError, match="session is unknown"):
                stolen.put([1.0])
            clients = [session.client for session in core.status().sessions]
            assert sorted(clients) == ["alice", "bob", "bob"]
            assert bob.fetch(bob.put([1.0])) == [1.0]
    finally:
        server.stop(0.0)


@pytest.fixture
def tls(tmp_path: Path) -> ServerTls:
    files = ServerTls(tmp_path / "cert.pem", tmp_path / "key.pem")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost"
    try:
        subprocess.run(
            [
                *command.split(),
                *("-addext", "subjectAltName=DNS:localhost"),
                *("-out", files.certificate, "-keyout", files.key),
            ],
            check=True,
            capture_output=True,
        )
    except FileNotFoundError:
        pytest.skip("needs openssl")
    return files


def test_tls_at_both_ends(tls: ServerTls):
    server = Server("localhost:0", make_core(parse_cluster("cpu:1")), tls=tls)
    try:
        with connect(server.address, tls=tls.certificate) as session:
            assert session.fetch(session.put([2.0])) == [2.0]
        for trust in (None, True):  # no TLS; TLS, but this authority is not trusted
            with pytest.raises(ConnectionLost, match="is TLS on"):
                connect(server.address, tls=trust)
    finally:
        server.stop(0.0)


@pytest.mark.parametrize(
    "listen", ["0.0.0.0:0", "[::]:0", "example.org:1", "127.example.org:1"]
)
def test_beyond_this_machine_tls_and_tokens_are_asked_for(listen: str):
    with pytest.raises(OptionsError, match="serves anybody who asks"):
        serve(listen, cluster=parse_cluster("cpu:1"))


def test_two_servers_do_not_share_a_port(server: Server):
    with pytest.raises(ConnectionLost, match="cannot listen"):
        Server(server.address, make_core(parse_cluster("cpu:1")))


def test_a_cluster_that_is_not_at_hand():
    with pytest.raises(ClusterError, match="needs 16"):
        make_core(parse_cluster("cpu:16"))
    with pytest.raises(ClusterError, match="gpu"):
        make_core(parse_cluster("8xh100"))


@pytest.mark.parametrize("listen", ["nonsense", "127.0.0.1", ":1"])
def test_an_address_to_listen_on_that_is_none(listen: str):
    with pytest.raises(OptionsError, match="is not host:port"):
        serve(listen, cluster=parse_cluster("cpu:1"))


def test_a_data_folder_that_cannot_be_made(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OptionsError, match="the folder cannot be made"):
        make_core(parse_cluster("cpu:1"), data_dir=tmp_path / "file")


def test_plans_are_kept_in_the_data_folder(tmp_path: Path):
    core = make_core(parse_cluster("cpu:2"), data_dir=tmp_path)
    server = Server("127.0.0.1:0", core)
    try:
        with open_session(server) as session:
            step = session.parallelize(step_mlp, level="O1")
            step(session.put(init_mlp(jax.random.key(0))), batch_mlp(0))
            file = tmp_path / "plans" / f"{step.plan.fingerprint}.json"
            assert file.read_text().startswith("{")
    finally:
        server.stop(0.0)
