"""The protocol's calls as gRPC knows them: tokens, leases, errors, then the core."""

import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import grpc

from tepdist.errors import ServerFailed, SessionError, TepdistError
from tepdist.service.access import Access
from tepdist.service.core import Core
from tepdist.service.faults import abort, bad_request
from tepdist.service.held import ClientSession
from tepdist.service.protocol import tepdist_pb2 as pb
from tepdist.service.protocol import tepdist_pb2_grpc

_log = logging.getLogger("tepdist.server")


class Servicer(tepdist_pb2_grpc.TepdistServicer):  # type: ignore[misc]
    """Answers calls."""

    def __init__(self, core: Core, access: Access) -> None:
        self._core = core
        self._access = access

    def GetServerInfo(
        self, request: pb.GetServerInfoRequest, context: grpc.ServicerContext
    ) -> pb.GetServerInfoResponse:
        with self._client(context):
            return self._core.server_info()

    def OpenSession(
        self, request: pb.OpenSessionRequest, context: grpc.ServicerContext
    ) -> pb.OpenSessionResponse:
        with self._client(context) as client:
            ttl_s = request.ttl_s if request.HasField("ttl_s") else None
            session = self._core.sessions.open(client=client, ttl_s=ttl_s)
            return pb.OpenSessionResponse(session_id=session.key, ttl_s=session.ttl_s)

    def KeepAlive(
        self, request: pb.KeepAliveRequest, context: grpc.ServicerContext
    ) -> pb.KeepAliveResponse:
        with self._session(request.session_id, context) as session:
            return pb.KeepAliveResponse(ttl_s=session.ttl_s)

    def CloseSession(
        self, request: pb.CloseSessionRequest, context: grpc.ServicerContext
    ) -> pb.CloseSessionResponse:
        with self._session(request.session_id, context) as session:
            self._core.sessions.close(session.key)
            return pb.CloseSessionResponse()

    def SubmitProgram(
        self,
        requests: Iterator[pb.SubmitProgramRequest],
        context: grpc.ServicerContext,
    ) -> Iterator[pb.SubmitProgramResponse]:
        with self._client(context) as client:
            header = _first(requests).header
            with self._core.sessions.call(header.session_id, client=client) as session:
                module = b"".join(request.module_chunk for request in requests)
                yield from self._core.submit(session, header, module)

    def GetPlan(
        self, request: pb.ProgramRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TextChunk]:
        with self._session(request.session_id, context) as session:
            yield from self._core.plan(session, request.program_id)

    def GetHlo(
        self, request: pb.ProgramRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.TextChunk]:
        with self._session(request.session_id, context) as session:
            yield from self._core.hlo(session, request.program_id)

    def PutTensors(
        self, requests: Iterator[pb.PutTensorsRequest], context: grpc.ServicerContext
    ) -> pb.PutTensorsResponse:
        with self._client(context) as client:
            header = _first(requests).header
            with self._core.sessions.call(header.session_id, client=client) as session:
                return self._core.put(session, header, _chunks(requests))

    def Step(
        self, requests: Iterator[pb.StepRequest], context: grpc.ServicerContext
    ) -> pb.StepResponse:
        with self._client(context) as client:
            header = _first(requests).header
            with self._core.sessions.call(header.session_id, client=client) as session:
                chunks = itertools.chain(header.chunks, _chunks(requests))
                return self._core.step(
                    session, header, chunks, is_wanted=context.is_active
                )

    def Fetch(
        self, request: pb.FetchRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.FetchResponse]:
        with self._session(request.session_id, context) as session:
            yield from self._core.fetch(session, request)

    def Release(
        self, request: pb.ReleaseRequest, context: grpc.ServicerContext
    ) -> pb.ReleaseResponse:
        with self._session(request.session_id, context) as session:
            session.tensors.remove(request.handles)
            return pb.ReleaseResponse()

    def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        with self._client(context):
            return self._core.status()

    @contextmanager
    def _session(
        self, key: str, context: grpc.ServicerContext
    ) -> Iterator[ClientSession]:
        with (
            self._client(context) as client,
            self._core.sessions.call(key, client=client) as session,
        ):
            yield session

    @contextmanager
    def _client(self, context: grpc.ServicerContext) -> Iterator[str | None]:
        """Whose call this is; errors inside become the call's status."""
        try:
            client = self._access.client_of(_token(context))
        except SessionError as error:
            abort(context, error, grpc.StatusCode.UNAUTHENTICATED)
        try:
            yield client
        except TepdistError as error:
            abort(context, error)
        except grpc.RpcError:  # the client went away while it was sending
            raise
        except Exception as error:
            _log.exception("a call failed")
            text = (str(error).strip() or "no text").splitlines()[0][:200]
            abort(
                context,
                ServerFailed(
                    f"the server met a fault: {type(error).__name__}: {text}",
                    hint="its log has the details; the session goes on",
                ),
            )


def _token(context: grpc.ServicerContext) -> str | None:
    for key, value in context.invocation_metadata():
        if key == "authorization" and value.startswith("Bearer "):
            return str(value.removeprefix("Bearer "))
    return None


def _first(requests: Iterator[Any]) -> Any:
    """The first message of a stream, which holds the header."""
    first = next(requests, None)
    if first is None or first.WhichOneof("part") != "header":
        raise bad_request("the stream does not begin with a header")
    return first


def _chunks(requests: Iterator[Any]) -> Iterator[pb.TensorChunk]:
    for request in requests:
        if request.WhichOneof("part") != "chunk":
            raise bad_request("the stream goes on with something else than chunks")
        yield request.chunk
