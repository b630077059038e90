"""OTLP/gRPC on loopback."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from otel_memoir.testing.http_server import JOIN_S, Tls
from otel_memoir.testing.play import Answer, RecordedRequest, records_of

# What a Collector 0.155 answers over gRPC where it gives this status over HTTP.
_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED", 413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED",
    500: "UNKNOWN", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "UNAVAILABLE",
}


Receive = Callable[[RecordedRequest], Answer]


def start_grpc(
    receive: Receive, tls: Tls | None, executor: ThreadPoolExecutor, port: int
) -> tuple[Any, int]:
    """Start a gRPC server that answers with ``receive``; return it and its port."""
    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                lambda body, context: _serve(receive, call.method, body, context)
            )

    server = grpc.server(executor, handlers=[Handler()], options=[("grpc.so_reuseport", 0)])
    address = f"127.0.0.1:{port}"
    if tls is None:
        port = server.add_insecure_port(address)
    else:
        pair = (_read(tls.key), _read(tls.certificate))
        root = _read(tls.client_ca) if tls.client_ca else None
        port = server.add_secure_port(
            address, grpc.ssl_server_credentials([pair], root, require_client_auth=bool(root))
        )
    server.start()
    return server, port


def _serve(receive: Receive, path: str, body: bytes, context: Any) -> bytes:
    import grpc

    answer = receive(
        RecordedRequest(
            protocol="grpc", path=path, headers=dict(context.invocation_metadata()), raw=body,
            body=body, records=records_of(body), peer=context.peer(),
        )
    )
    if answer.manner in ("drop", "hang"):
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    code = grpc.StatusCode[answer.code or _CODES.get(answer.status, "UNKNOWN")]
    trailers: list[tuple[str, Any]] = list(answer.headers.items())
    if answer.retry_info_s is not None:
        trailers.append(("grpc-status-details-bin", _retry_info(answer, code.value[0])))
    context.set_trailing_metadata(trailers)
    if not answer.is_ok:
        context.abort(code, answer.message)
    return answer.content()


def join(prefix: str) -> None:
    """Join an executor's threads; its own way of doing that has no deadline."""
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(JOIN_S)


def _retry_info(answer: Answer, code: int) -> bytes:
    # googleapis-common-protos has no types.
    from google.rpc import error_details_pb2, status_pb2

    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromNanoseconds(int((answer.retry_info_s or 0.0) * 1e9))
    # Go's client turns details whose code or message differ from the status into INTERNAL.
    status = status_pb2.Status(code=code, message=answer.message)
    status.details.add().Pack(info)
    return bytes(status.SerializeToString())


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
