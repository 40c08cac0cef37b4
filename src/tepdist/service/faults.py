"""Errors on the wire: a `TepdistError` there is the same class and text here.

The mapping is closed: a kind that this file does not list arrives as `ServerFailed`.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import NoReturn

import grpc
from google.protobuf.message import DecodeError

from tepdist import errors
from tepdist.errors import ConnectionLost, ServerFailed, SessionError, TepdistError
from tepdist.service.protocol import tepdist_pb2 as pb

DETAIL_KEY = "tepdist-error-bin"

# Trailing metadata above 8 KiB is dropped by gRPC, error and all.
_MAX_TEXT_BYTES = 2000

KINDS: Mapping[str, tuple[type[TepdistError], grpc.StatusCode]] = MappingProxyType(
    {
        "ProgramError": (errors.ProgramError, grpc.StatusCode.INVALID_ARGUMENT),
        "RolesError": (errors.RolesError, grpc.StatusCode.INVALID_ARGUMENT),
        "ClusterError": (errors.ClusterError, grpc.StatusCode.FAILED_PRECONDITION),
        "OptionsError": (errors.OptionsError, grpc.StatusCode.INVALID_ARGUMENT),
        "ShardingError": (errors.ShardingError, grpc.StatusCode.INVALID_ARGUMENT),
        "NoPlanFits": (errors.NoPlanFits, grpc.StatusCode.RESOURCE_EXHAUSTED),
        "PlanError": (errors.PlanError, grpc.StatusCode.INVALID_ARGUMENT),
        "StateError": (errors.StateError, grpc.StatusCode.INVALID_ARGUMENT),
        "StateConsumed": (errors.StateConsumed, grpc.StatusCode.FAILED_PRECONDITION),
        "SessionError": (errors.SessionError, grpc.StatusCode.NOT_FOUND),
        "ConnectionLost": (errors.ConnectionLost, grpc.StatusCode.UNAVAILABLE),
        "StepFailed": (errors.StepFailed, grpc.StatusCode.ABORTED),
        "ServerFailed": (errors.ServerFailed, grpc.StatusCode.INTERNAL),
    }
)


def abort(
    context: grpc.ServicerContext,
    error: TepdistError,
    code: grpc.StatusCode | None = None,
) -> NoReturn:
    """Ends a call with this error, and its kind's status unless told."""
    kind = type(error).__name__
    if code is None:
        code = KINDS.get(kind, KINDS["ServerFailed"])[1]
    detail = pb.ErrorDetail(
        kind=kind,
        problem=_cut(error.problem),
        where=None if error.where is None else _cut(error.where),
        hint=None if error.hint is None else _cut(error.hint),
    )
    context.set_trailing_metadata(((DETAIL_KEY, detail.SerializeToString()),))
    context.abort(code, detail.problem)
    raise AssertionError("abort does not return")


@contextmanager
def raised_from(address: str) -> Iterator[None]:
    """Turns a failed call into the error that the server meant."""
    try:
        yield
    except grpc.RpcError as error:
        raise _error_of(error, address) from None


def _error_of(error: grpc.RpcError, address: str) -> TepdistError:
    for key, value in error.trailing_metadata() or ():
        if key == DETAIL_KEY:
            return _read_detail(value)
    text = (error.details() or "no reason given").splitlines()[0]
    match error.code():
        case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
            return _lost(address, text)
        case grpc.StatusCode.CANCELLED:
            return _lost(address, "the call was cancelled")
        case grpc.StatusCode.UNIMPLEMENTED:
            return ConnectionLost(
                f"what answers at {address} does not speak this protocol: {text}",
                hint="is it a tepdist server, and of this version?",
            )
        case code:
            return ServerFailed(
                f"the call failed: {code.name.lower()}: {text}",
                where=address,
                hint="the server's log says what happened",
            )


def _lost(address: str, text: str) -> ConnectionLost:
    return ConnectionLost(
        f"the server at {address} cannot be reached: {text}",
        hint="is it running there, and is TLS on (or off) at both ends?",
    )


def _read_detail(data: bytes) -> TepdistError:
    try:
        detail = pb.ErrorDetail.FromString(data)
    except DecodeError:
        return ServerFailed(
            "the server's error cannot be read",
            hint="is the server of another version than the client?",
        )
    kind = KINDS.get(detail.kind, KINDS["ServerFailed"])[0]
    return kind(
        detail.problem,
        where=detail.where if detail.HasField("where") else None,
        hint=detail.hint if detail.HasField("hint") else None,
    )


def bad_request(problem: str) -> SessionError:
    """An error for a message that no client of this protocol sends."""
    return SessionError(problem, hint="see docs/protocol.md for what a call carries")


def _cut(text: str) -> str:
    """At most `_MAX_TEXT_BYTES` of UTF-8; the end says what is missing."""
    data = text.encode()
    if len(data) <= _MAX_TEXT_BYTES:
        return text
    return data[:_MAX_TEXT_BYTES].decode(errors="ignore") + " ..."
