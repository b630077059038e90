"""Public fakes for tests of and with otel-memoir: a scripted collector and a clock.

``ScriptedCollector`` is a real OTLP server on loopback, over HTTP and gRPC, that
records every request and answers as told: with any status, late, never, byte by byte,
or by dropping the connection. Nothing is patched; what talks to it is the real thing.

    with ScriptedCollector() as collector:
        collector.script([Answer(status=503), Answer.drop(taken=True)])
        ...  # point something at collector.endpoint
        assert collector.wait_for(100, timeout=10)

gRPC is only imported when ``grpc_endpoint`` is asked for.
"""

from __future__ import annotations

import gzip
import http.server
import socket
import socketserver
import ssl
import threading
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

if TYPE_CHECKING:
    from typing_extensions import Self

_JOIN_S = 5.0
_HANG_MAX_S = 60.0

# What a Collector 0.155 answers over gRPC where it gives this status over HTTP.
_GRPC_CODES = {
    400: "INVALID_ARGUMENT", 401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED", 413: "RESOURCE_EXHAUSTED", 429: "RESOURCE_EXHAUSTED",
    500: "UNKNOWN", 502: "UNAVAILABLE", 503: "UNAVAILABLE", 504: "UNAVAILABLE",
}


@dataclass(frozen=True, kw_only=True)
class Answer:
    """How to answer one request.

    Attributes:
        status: HTTP status. Over gRPC, the code that a Collector gives for it.

        headers: HTTP headers, or gRPC trailing metadata (names in lower case).

        body: The body; by default an OTLP response for 2xx, with ``rejected`` and
            ``message``, else the message.

        rejected: Records that are said to be rejected, the last ones of the request.

        message: What is said about it.

        code: gRPC status by name, where ``status`` does not say it.

        retry_info_s: Over gRPC, a RetryInfo in ``grpc-status-details-bin``.

        delay_s: Wait this long first. Ends early when the collector goes down.

        manner: ``answer``; ``drop`` the connection without an answer; ``hang`` until
            ``release``; ``dribble`` the answer a byte at a time (HTTP only).

        taken: The records count as taken although no OK is sent.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    rejected: int = 0
    message: str = ""
    code: str = ""
    retry_info_s: float | None = None
    delay_s: float = 0.0
    manner: Literal["answer", "drop", "hang", "dribble"] = "answer"
    taken: bool = False

    @classmethod
    def drop(cls, *, taken: bool = False) -> Answer:
        """Break the connection, before or after taking the records."""
        return cls(manner="drop", taken=taken)

    @classmethod
    def hang(cls, *, taken: bool = False) -> Answer:
        """Say nothing until ``ScriptedCollector.release``."""
        return cls(manner="hang", taken=taken)

    @property
    def is_ok(self) -> bool:
        """Whether the answer is a plain success."""
        by_code = self.code in ("", "OK") and 200 <= self.status < 300
        return by_code and self.manner in ("answer", "dribble")

    def content(self) -> bytes:
        """The body that is sent."""
        if self.body is not None:
            return self.body
        if not 200 <= self.status < 300:
            return self.message.encode()
        response = ExportLogsServiceResponse()
        # A Collector sends an empty partial_success with each success.
        response.partial_success.SetInParent()
        response.partial_success.rejected_log_records = self.rejected
        response.partial_success.error_message = self.message
        return response.SerializeToString()


@dataclass(frozen=True, kw_only=True)
class RecordedRecord:
    """A log record as it arrived; ``None`` or empty where it does not say."""

    uid: str | None
    stream_id: str | None
    epoch: Any
    sequence: int | None
    event_name: str
    attributes: Mapping[str, Any]
    proto: Any


@dataclass(frozen=True, kw_only=True)
class RecordedRequest:
    """A request as it arrived. Header names are in lower case.

    ``raw`` is the body on the wire and ``body`` the same decompressed; over gRPC the
    library decompresses, and both are the message.
    """

    protocol: Literal["http", "grpc"]
    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: bytes
    records: tuple[RecordedRecord, ...]
    peer: str


Respond = Callable[[RecordedRequest], Answer]


class ScriptedCollector:
    """An OTLP logs server on loopback that records requests and answers as told.

    Args:
        respond: Answers the requests for which the script has no answer; OK by default.

        certificate: PEM file with the server's certificate: TLS on both ports.

        key: PEM file with its private key.

        client_ca: PEM file: clients must show a certificate that it signed.
    """

    def __init__(
        self,
        respond: Respond | None = None,
        *,
        certificate: str | None = None,
        key: str | None = None,
        client_ca: str | None = None,
    ) -> None:
        self.respond: Respond = respond or (lambda request: Answer())
        self.tls = _Tls(certificate, key, client_ca) if certificate and key else None
        self.requests: list[RecordedRequest] = []
        self.delivered: list[RecordedRecord] = []
        self.taken: list[RecordedRecord] = []
        self._answers: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._stopping = threading.Event()
        self._http: _HttpServer | None = None
        self._http_port = 0
        self._grpc: Any = None
        self._grpc_port = 0
        self._executor_name = f"scripted-collector-grpc-{id(self)}"

    def __enter__(self) -> Self:
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # -- where it is ----------------------------------------------------------

    @property
    def endpoint(self) -> str:
        """Base URL of OTLP/HTTP, without a path."""
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._http_port}"

    @property
    def grpc_endpoint(self) -> str:
        """URL of OTLP/gRPC. The first use opens the port."""
        if not self._grpc_port:
            self._start_grpc()
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self._grpc_port}"

    def up(self) -> None:
        """Listen; after ``down`` on the same ports as before."""
        self._stopping.clear()
        self._released.clear()
        if self._http is None:
            self._http = _HttpServer(self, self._http_port)
            self._http_port = self._http.server_port
            self._http.start()
        if self._grpc_port and self._grpc is None:
            self._start_grpc()

    def down(self) -> None:
        """Stop listening and break every connection; requests in progress get no answer."""
        self._stopping.set()
        self._released.set()
        server, self._http = self._http, None
        if server is not None:
            server.stop()
        grpc_server, self._grpc = self._grpc, None
        if grpc_server is not None:
            grpc_server.stop(None).wait(_JOIN_S)
            self._executor.shutdown(wait=False)
            _join(self._executor_name)

    def _start_grpc(self) -> None:
        self._executor = ThreadPoolExecutor(8, thread_name_prefix=self._executor_name)
        self._grpc, self._grpc_port = _start_grpc(self, self._executor, self._grpc_port)

    # -- what it answers ------------------------------------------------------

    def script(self, answers: Iterable[Answer]) -> None:
        """Answer the next requests with these, one each."""
        with self._changed:
            self._answers.extend(answers)

    def release(self) -> None:
        """Let hanging requests end, without an answer."""
        self._released.set()

    def receive(self, request: RecordedRequest) -> Answer:
        """Record a request, wait as its answer says, and return that answer."""
        with self._changed:
            self.requests.append(request)
            answer = self._answers.popleft() if self._answers else None
            self._changed.notify_all()
        answer = answer or self.respond(request)
        if answer.manner == "hang":
            self._take(request, answer)
            self._released.wait(_HANG_MAX_S)
            return answer
        self._stopping.wait(answer.delay_s)
        self._take(request, answer)
        return answer

    def pause(self, seconds: float) -> bool:
        """Wait, or return true at once when the collector goes down."""
        return self._stopping.wait(seconds)

    def _take(self, request: RecordedRequest, answer: Answer) -> None:
        kept = request.records[: max(0, len(request.records) - answer.rejected)]
        with self._changed:
            if answer.is_ok:
                self.delivered += kept
            if answer.is_ok or answer.taken:
                self.taken += kept
            self._changed.notify_all()

    # -- what it saw ----------------------------------------------------------

    def wait_for(
        self, wanted: int | Callable[[ScriptedCollector], bool], timeout: float = 10.0
    ) -> bool:
        """Wait for a number of delivered records, or until a predicate holds.

        Args:
            wanted: How many records, or a function of this collector. It is asked again
                after each request and each answer.

            timeout: Longest wait, in seconds.

        Returns:
            Whether it came to that in time.
        """
        with self._changed:
            if callable(wanted):
                predicate = wanted
                return self._changed.wait_for(lambda: predicate(self), timeout)
            count = wanted
            return self._changed.wait_for(lambda: len(self.delivered) >= count, timeout)


# -- OTLP/HTTP ----------------------------------------------------------------


@dataclass(frozen=True)
class _Tls:
    certificate: str
    key: str
    client_ca: str | None

    def context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class _HttpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    # HTTPServer's own bind asks a name server for the name of 127.0.0.1.
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, collector: ScriptedCollector, port: int) -> None:
        self.collector = collector
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", port), _Handler)
        if collector.tls:
            # The handshake then belongs to the connection's thread, not to the acceptor.
            self.socket = collector.tls.context().wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="scripted-collector", daemon=True
        )

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def start(self) -> None:
        self._acceptor.start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()
        self._acceptor.join(_JOIN_S)
        for connection, thread in list(self._connections.items()):
            _break(connection)
            thread.join(_JOIN_S)

    def process_request(self, request: Any, client_address: Any) -> None:
        thread = threading.Thread(
            target=self._serve_connection, args=(request, client_address),
            name=f"scripted-collector-{client_address[1]}", daemon=True,
        )
        self._connections[request] = thread
        thread.start()

    def _serve_connection(self, request: Any, client_address: Any) -> None:
        try:
            self.process_request_thread(request, client_address)
        finally:
            self._connections.pop(request, None)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that go away, and failed handshakes, are part of the play."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body leave apart; without this the body waits for a delayed ACK, 40 ms.
    disable_nagle_algorithm = True
    server: _HttpServer

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = _decompressed(raw, headers.get("content-encoding", ""))
        answer = self.server.collector.receive(
            RecordedRequest(
                protocol="http", path=self.path, headers=headers, raw=raw, body=body,
                records=_records(body), peer=f"{self.client_address[0]}:{self.client_address[1]}",
            )
        )
        if answer.manner in ("drop", "hang"):
            self.close_connection = True
            _break(self.connection)
        else:
            self._answer(answer)

    def _answer(self, answer: Answer) -> None:
        content = answer.content()
        self.send_response(answer.status)
        kind = "application/x-protobuf" if answer.body is None and answer.is_ok else "text/plain"
        headers = {"content-type": kind, "content-length": str(len(content)), **answer.headers}
        for name, value in headers.items():
            self.send_header(name, value)
        if answer.manner == "answer":
            self.end_headers()
            self.wfile.write(content)
            return
        # No public way to get the head before it is sent; this is the head's buffer.
        head: list[bytes] = self._headers_buffer  # type: ignore[attr-defined]
        for byte in b"".join([*head, b"\r\n", content]):
            self.wfile.write(bytes((byte,)))
            if self.server.collector.pause(0.02):
                return


def _break(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        connection.close()


def _decompressed(raw: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(raw)
    return zlib.decompress(raw) if encoding == "deflate" else raw


# -- OTLP/gRPC ----------------------------------------------------------------


def _start_grpc(
    collector: ScriptedCollector, executor: ThreadPoolExecutor, port: int
) -> tuple[Any, int]:
    import grpc

    class Handler(grpc.GenericRpcHandler):
        def service(self, call: Any) -> Any:
            return grpc.unary_unary_rpc_method_handler(
                lambda body, context: _serve_grpc(collector, call.method, body, context)
            )

    server = grpc.server(executor, handlers=[Handler()], options=[("grpc.so_reuseport", 0)])
    address = f"127.0.0.1:{port}"
    tls = collector.tls
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


def _serve_grpc(collector: ScriptedCollector, path: str, body: bytes, context: Any) -> bytes:
    import grpc

    answer = collector.receive(
        RecordedRequest(
            protocol="grpc", path=path, headers=dict(context.invocation_metadata()), raw=body,
            body=body, records=_records(body), peer=context.peer(),
        )
    )
    if answer.manner in ("drop", "hang"):
        context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    code = grpc.StatusCode[answer.code or _GRPC_CODES.get(answer.status, "UNKNOWN")]
    trailers: list[tuple[str, Any]] = list(answer.headers.items())
    if answer.retry_info_s is not None:
        trailers.append(("grpc-status-details-bin", _retry_info(answer, code.value[0])))
    context.set_trailing_metadata(trailers)
    if not answer.is_ok:
        context.abort(code, answer.message)
    return answer.content()


def _join(prefix: str) -> None:
    """Join an executor's threads; its own way of doing that has no deadline."""
    for thread in threading.enumerate():
        if thread.name.startswith(prefix):
            thread.join(_JOIN_S)


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


# -- records ------------------------------------------------------------------


def _records(body: bytes) -> tuple[RecordedRecord, ...]:
    from google.protobuf.message import DecodeError

    try:
        request = ExportLogsServiceRequest.FromString(body)
    except DecodeError:
        return ()
    return tuple(
        _record(proto)
        for resource in request.resource_logs
        for scope in resource.scope_logs
        for proto in scope.log_records
    )


def _record(proto: Any) -> RecordedRecord:
    attributes = {pair.key: _value(pair.value) for pair in proto.attributes}
    return RecordedRecord(
        uid=attributes.get("log.record.uid"),
        stream_id=attributes.get("memoir.stream.id"),
        epoch=attributes.get("memoir.stream.epoch"),
        sequence=attributes.get("memoir.sequence"),
        event_name=proto.event_name,
        attributes=attributes,
        proto=proto,
    )


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(item) for item in value.array_value.values]
    if kind == "kvlist_value":
        return {pair.key: _value(pair.value) for pair in value.kvlist_value.values}
    return getattr(value, kind) if kind else None


# -- time ---------------------------------------------------------------------


class FakeClock:
    """A wall clock and a monotonic clock that stand still until they are moved.

    Args:
        wall_unix_ns: What the wall clock shows at first, in nanoseconds since 1970.
    """

    def __init__(self, wall_unix_ns: int = 1_700_000_000 * 10**9) -> None:
        self._lock = threading.Lock()
        self._wall_ns = wall_unix_ns
        self._monotonic_ns = 10**12

    def wall_ns(self) -> int:
        """What ``time.time_ns`` would say."""
        with self._lock:
            return self._wall_ns

    def monotonic_s(self) -> float:
        """What ``time.monotonic`` would say."""
        with self._lock:
            return self._monotonic_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        with self._lock:
            self._wall_ns += round(seconds * 1e9)
            self._monotonic_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or with a negative number back. No time passes."""
        with self._lock:
            self._wall_ns += round(seconds * 1e9)
