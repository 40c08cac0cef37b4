"""The gRPC server: listens, keeps leases, stops in good order."""

import ipaddress
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc

from tepdist.cluster.model import Cluster
from tepdist.errors import ConnectionLost, OptionsError, SessionError
from tepdist.runtime.devices import devices_for
from tepdist.service.access import Access, read_tokens
from tepdist.service.channel import check_address
from tepdist.service.core import Core
from tepdist.service.engine import Engine
from tepdist.service.health import Health
from tepdist.service.protocol import tepdist_pb2_grpc
from tepdist.service.servicer import Servicer

DEFAULT_LISTEN = "127.0.0.1:7654"
DEFAULT_SESSION_TTL_S = 60.0

# A call holds a thread while it waits for the planner or the devices; keep-alives
# and health checks must find a free one.
_MAX_CALLS = 64
_STOP_GRACE_S = 30.0
_LEASE_LOOK_S = 0.25
_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)

_CHANNEL_OPTIONS = (
    ("grpc.so_reuseport", 0),  # two servers on one port would share its calls
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
)


@dataclass(frozen=True, slots=True)
class ServerTls:
    """What a server proves itself with.

    Attributes:
        certificate: PEM file of the certificate chain.
        key: PEM file of its private key.
    """

    certificate: Path
    key: Path


class Server:
    """A server that is listening.

    Attributes:
        address: ``host:port`` as clients reach it.
        core: What it serves.
    """

    def __init__(
        self,
        listen: str,
        core: Core,
        *,
        access: Access | None = None,
        tls: ServerTls | None = None,
    ) -> None:
        """Starts to listen.

        Raises:
            ConnectionLost: if the address cannot be listened on.
        """
        self.core = core
        self._health = Health()
        self._grpc = grpc.server(
            ThreadPoolExecutor(_MAX_CALLS, thread_name_prefix="tepdist-call"),
            options=_CHANNEL_OPTIONS,
        )
        tepdist_pb2_grpc.add_TepdistServicer_to_server(  # type: ignore[no-untyped-call]
            Servicer(core, access or Access()), self._grpc
        )
        self._grpc.add_generic_rpc_handlers((self._health,))
        host, _, _ = listen.rpartition(":")
        self.address = f"{host}:{_bind(self._grpc, listen, tls)}"
        self._grpc.start()
        self._stopped = threading.Event()
        self._reaper = threading.Thread(
            target=self._reap, name="tepdist-leases", daemon=True
        )
        self._reaper.start()

    def stop(self, grace_s: float = _STOP_GRACE_S) -> None:
        """Takes no new calls, lets those under way end, frees everything.

        Args:
            grace_s: How long calls under way may take; then they are cancelled [s].
        """
        self._health.leave()
        self._grpc.stop(grace_s).wait()
        self._stopped.set()
        self._reaper.join()
        self.core.close()

    def _reap(self) -> None:
        while not self._stopped.wait(_LEASE_LOOK_S):
            self.core.sessions.lapse()


def serve(
    listen: str = DEFAULT_LISTEN,
    *,
    cluster: Cluster,
    data_dir: Path | None = None,
    tls: ServerTls | None = None,
    token_file: Path | None = None,
    insecure: bool = False,
    session_ttl_s: float = DEFAULT_SESSION_TTL_S,
    announce: Callable[[str], None] | None = None,
) -> None:
    """Serves until SIGTERM or SIGINT, then stops in good order.

    Args:
        listen: ``host:port``; port 0 for any free one.
        cluster: What plans are made for; its devices must be at hand.
        data_dir: Where the plans made are kept, as JSON by fingerprint.
        tls: None to talk in the clear.
        token_file: ``client:token`` a line; None to let anybody in.
        insecure: Allows others than this machine to be served in the clear or
            without tokens.
        session_ttl_s: Longest lease [s].
        announce: Told the address once calls are taken.

    Raises:
        OptionsError: if others than this machine would be served without TLS and
            tokens, the lease is no length of time, or a file or folder named does
            not serve.
        ClusterError: if the cluster's devices are not at hand.
        ConnectionLost: if the address cannot be listened on.
    """
    check_address(listen)
    if (
        not insecure
        and not _is_loopback(listen)
        and (tls is None or token_file is None)
    ):
        raise OptionsError(
            f"listening on {listen} without TLS and tokens serves anybody who asks",
            hint="give --tls-cert, --tls-key and --token-file, or say --insecure",
        )
    access = None if token_file is None else _read_token_file(token_file)
    core = make_core(cluster, data_dir=data_dir, session_ttl_s=session_ttl_s)
    stop = threading.Event()
    before = {number: signal.getsignal(number) for number in _STOP_SIGNALS}

    def ask_to_stop(*_: object) -> None:
        stop.set()
        for number in _STOP_SIGNALS:  # a second one does not wait for anybody
            signal.signal(number, signal.SIG_DFL)

    for number in _STOP_SIGNALS:
        signal.signal(number, ask_to_stop)
    try:
        server = Server(listen, core, access=access, tls=tls)
        if announce is not None:
            announce(server.address)
        stop.wait()
        server.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def make_core(
    cluster: Cluster,
    *,
    data_dir: Path | None = None,
    session_ttl_s: float = DEFAULT_SESSION_TTL_S,
) -> Core:
    """The server behind the protocol, on this process's devices.

    Raises:
        ClusterError: if the cluster's devices are not at hand.
        OptionsError: if the lease is no length of time, or plans cannot be kept.
    """
    if not session_ttl_s > 0:
        raise OptionsError(
            f"a session lease of {session_ttl_s} s",
            where="session_ttl",
            hint="give a number of seconds above 0",
        )
    plans_dir = None if data_dir is None else _made(data_dir / "plans")
    engine = Engine(cluster, devices_for(cluster), plans_dir)
    return Core(engine, session_ttl_s)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionsError(
            f"the folder cannot be made: {error.strerror}",
            where=str(folder),
            hint="give --data-dir a folder that this user may write",
        ) from None
    return folder


def _read_token_file(path: Path) -> Access:
    try:
        return read_tokens(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OptionsError(
            f"the token file cannot be read: {error.strerror}",
            where=str(path),
            hint="give --token-file a text file of lines client:token",
        ) from None
    except SessionError as error:
        where = f"{path}, {error.where}" if error.where else str(path)
        raise OptionsError(error.problem, where=where, hint=error.hint) from None


def _is_loopback(listen: str) -> bool:
    host = listen.rpartition(":")[0].strip("[]")
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return host == "localhost"


def _bind(server: grpc.Server, listen: str, tls: ServerTls | None) -> int:
    try:
        if tls is None:
            return int(server.add_insecure_port(listen))
        pair = (tls.key.read_bytes(), tls.certificate.read_bytes())
        credentials = grpc.ssl_server_credentials([pair])
        return int(server.add_secure_port(listen, credentials))
    except OSError as error:
        raise OptionsError(
            f"the certificate or its key cannot be read: {error.strerror}",
            where=str(error.filename),
            hint="give --tls-cert and --tls-key PEM files that this user may read",
        ) from None
    except RuntimeError:
        raise ConnectionLost(
            f"cannot listen on {listen}",
            hint="is the port taken, the name not of this machine, or a file not PEM?",
        ) from None
