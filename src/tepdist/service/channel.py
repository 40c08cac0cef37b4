"""A client's connection: calls of the protocol, with this package's errors."""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc.experimental import ChannelOptions

from tepdist.errors import OptionsError, SessionError
from tepdist.service.core import PROTOCOL_VERSION
from tepdist.service.faults import raised_from
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.protocol import tepdist_pb2_grpc

# A server that is there answers a call without work in it at once; one whose machine
# is gone is noticed by pings, whatever call waits for it.
_ANSWER_S = 20.0
# A name, an IPv4 address or a bracketed IPv6 one, and a port.
_ADDRESS = re.compile(r"(\[[^\]]+\]|[^:/\[\]]+):\d+")
_STEP = "/tepdist.v1.Tepdist/Step"
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # Left alone, a server that is back is not looked for again for two minutes.
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.max_receive_message_length", 16 * 2**20),
    # Answers are read by who waits for them: a thread for each call costs 0.5 ms.
    (ChannelOptions.SingleThreadedUnaryStream, 1),
)


class Connection:
    """A channel to a server and the token that goes with each call.

    Args:
        address: ``host:port``.
        token: None if the server asks for none.
        tls: True to trust the system's authorities, a PEM file to trust those in it;
            None to talk in the clear.
    """

    def __init__(
        self, address: str, *, token: str | None, tls: bool | str | Path | None
    ) -> None:
        check_address(address)
        self.address = address
        self._is_open = True
        self._metadata = (
            () if token is None else (("authorization", f"Bearer {token}"),)
        )
        if tls is None or tls is False:
            self._channel = grpc.insecure_channel(address, _CHANNEL_OPTIONS)
        else:
            credentials = grpc.ssl_channel_credentials(_authorities(tls=tls))
            self._channel = grpc.secure_channel(address, credentials, _CHANNEL_OPTIONS)
        self._stub = tepdist_pb2_grpc.TepdistStub(self._channel)  # type: ignore[no-untyped-call]
        # A stream of one message is on the wire what a single message is, and gRPC
        # needs no thread to send that.
        self._single_step = self._channel.unary_unary(
            _STEP,
            request_serializer=pb.StepRequest.SerializeToString,
            response_deserializer=pb.StepResponse.FromString,
        )

    def server_info(self) -> pb.GetServerInfoResponse:
        """What runs there.

        Raises:
            ConnectionLost: if nothing answers, or something else.
            SessionError: if it speaks another version of the protocol.
        """
        info = self.ask("GetServerInfo", pb.GetServerInfoRequest())
        assert isinstance(info, pb.GetServerInfoResponse)
        if info.protocol_version != PROTOCOL_VERSION:
            raise SessionError(
                f"the server at {self.address} speaks protocol "
                f"{info.protocol_version}; this client speaks {PROTOCOL_VERSION}",
                hint=f"install tepdist {info.server_version} here",
            )
        return info

    def ask(self, method: str, request: Any) -> Any:
        """A call that needs no work of the server's."""
        with raised_from(self.address):
            return self._method(method)(
                request, metadata=self._metadata, timeout=_ANSWER_S
            )

    def send(self, method: str, requests: Iterable[Any]) -> Any:
        """A call that streams up; waits for as long as it takes."""
        with raised_from(self.address):
            return self._method(method)(iter(requests), metadata=self._metadata)

    def step(self, requests: Iterable[pb.StepRequest]) -> pb.StepResponse:
        """The call `Step`, which streams up; quickest with only one message."""
        self._check_open()
        stream = iter(requests)
        first, second = next(stream), next(stream, None)
        if second is not None:
            requests = itertools.chain([first, second], stream)
            response = self.send("Step", requests)
        else:
            with raised_from(self.address):
                response = self._single_step(first, metadata=self._metadata)
        assert isinstance(response, pb.StepResponse)
        return response

    def receive(self, method: str, request: Any) -> Iterator[Any]:
        """A call that streams down."""
        with raised_from(self.address):
            yield from self._method(method)(request, metadata=self._metadata)

    def exchange(self, method: str, requests: Iterable[Any]) -> Iterator[Any]:
        """A call that streams both ways."""
        with raised_from(self.address):
            yield from self._method(method)(iter(requests), metadata=self._metadata)

    def close(self) -> None:
        """No call is made after this."""
        self._is_open = False
        self._channel.close()

    def _check_open(self) -> None:
        if not self._is_open:
            raise SessionError(
                "the session is closed", where=self.address, hint="connect again"
            )

    def _method(self, name: str) -> Callable[..., Any]:
        self._check_open()
        method: Callable[..., Any] = getattr(self._stub, name)
        return method


def check_address(address: str) -> None:
    """Refuses what is not ``host:port``.

    Raises:
        OptionsError: saying so.
    """
    if not _ADDRESS.fullmatch(address):
        raise OptionsError(
            f"address {address!r} is not host:port", hint="write e.g. 127.0.0.1:7654"
        )


def _authorities(*, tls: bool | str | Path) -> bytes | None:
    if isinstance(tls, bool):
        return None
    try:
        return Path(tls).read_bytes()
    except OSError as error:
        raise OptionsError(
            f"the certificate cannot be read: {error.strerror}",
            where=str(tls),
            hint="tls is True, or a PEM file of the authorities to trust",
        ) from None
