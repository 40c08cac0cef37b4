"""The standard health check, ``grpc.health.v1.Health/Check``.

Its messages are one field each, so they are read and written here as bytes instead
of through a package of their own.
"""

import threading

import grpc

_METHOD = "/grpc.health.v1.Health/Check"
_SERVICE = b"tepdist.v1.Tepdist"
# HealthCheckRequest {string service = 1} for the whole server and for our service.
_REQUESTS = (b"", b"\x0a\x00", b"\x0a" + bytes([len(_SERVICE)]) + _SERVICE)
# HealthCheckResponse {ServingStatus status = 1}
_SERVING = b"\x08\x01"
_NOT_SERVING = b"\x08\x02"


class Health(grpc.GenericRpcHandler):  # type: ignore[misc]
    """Answers whether the server takes calls."""

    def __init__(self) -> None:
        self._leaving = threading.Event()

    def leave(self) -> None:
        """From now on the server says that it does not serve."""
        self._leaving.set()

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        if handler_call_details.method != _METHOD:
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        if request not in _REQUESTS:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return _NOT_SERVING if self._leaving.is_set() else _SERVING
