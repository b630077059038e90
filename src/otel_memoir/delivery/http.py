"""OTLP/HTTP: one POST per request, judged.

``requests`` carries it, as in the official exporter, so that proxies, ``.netrc`` and
certificate bundles from the environment mean the same. Added here are a deadline for
the whole exchange (``requests`` has only one per read, and a server that dribbles
bytes could hold the courier for ever) and a note of whether anything was sent.
"""

from __future__ import annotations

import gzip
import http.client
import io
import netrc  # noqa: F401 - `requests` imports it at its first request, beside which we may fork
import os
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import requests
import requests.adapters
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions

from otel_memoir.delivery.destination import Destination, user_agent
from otel_memoir.delivery.judge import judge_failure, judge_http
from otel_memoir.delivery.outcome import FailureKind, Outcome

RESPONSE_BYTES_MAX = 4 * 2**20
"""OTLP 1.x: a client should read no larger response."""

_GRPC_GREETING_WAIT_S = 0.5

# zlib's own default. Python's is 9: on typical records it takes 1.6 times as long for 0.3 %
# fewer bytes (a request of 1 MB: 10.2 ms and 75.8 kB against 6.4 ms and 76.1 kB).
_GZIP_LEVEL = 6

# Sessions that belong to the parent of this fork child. Collecting them would run
# finalisers that close the parent's connections.
_abandoned: list[requests.Session] = []


class HttpSender:
    """Sends requests to one OTLP/HTTP destination. Opens nothing before the first send.

    One thread sends at a time; ``close`` may come from another.

    Args:
        destination: Where and how.

        wall_s: The wall clock in seconds, for a ``Retry-After`` that is a date.
    """

    def __init__(
        self, destination: Destination, *, wall_s: Callable[[], float] = time.time
    ) -> None:
        self._destination = destination
        self._wall_s = wall_s
        self._session: requests.Session | None = None
        self._pid = 0
        self._closed = False
        self._packed: tuple[bytes, bytes] | None = None

    def pack(self, request: bytes) -> None:
        """Compress a request ahead of its ``send``; another thread may be sending meanwhile."""
        if self._destination.compression == "gzip":
            self._packed = request, _compressed(request)

    def _body(self, request: bytes) -> bytes:
        if self._destination.compression != "gzip":
            return request
        packed = self._packed
        if packed is None or packed[0] is not request:
            return _compressed(request)
        self._packed = None
        return packed[1]

    def send(
        self, request: bytes, *, headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
    ) -> Outcome:
        """POST a request and judge the answer. Never raises an ``Exception``.

        Args:
            request: A serialised ``ExportLogsServiceRequest``; empty is a probe.

            headers: Headers of this request only.

            timeout: Seconds for the whole exchange; the destination's by default. Only
                the name server, and each further address of a host, can add to it.
        """
        if self._closed:
            return judge_failure(FailureKind.CLOSED, "")
        attempt = _Attempt(time.monotonic() + (timeout or self._destination.timeout_s))
        token = _attempt.set(attempt)
        try:
            return self._exchange(request, headers or {}, attempt)
        except Exception as error:  # noqa: BLE001  # promised: never raises
            return judge_failure(failure_kind(error, attempt), str(error) or repr(error))
        finally:
            _attempt.reset(token)

    def _exchange(
        self, request: bytes, headers: Mapping[str, str], attempt: _Attempt
    ) -> Outcome:
        with self._opened().post(
            self._destination.endpoint,
            data=self._body(request),
            headers={**self._headers(), **headers},
            timeout=attempt.left_s(),
            allow_redirects=False,
            stream=True,
            # Set on the session, REQUESTS_CA_BUNDLE would win over it.
            verify=self._destination.certificate_file,
        ) as response:
            body = _read_body(response)
            return judge_http(
                response.status_code, response.headers, body, now_unix_s=self._wall_s()
            )

    def _headers(self) -> dict[str, str]:
        headers = {"content-type": "application/x-protobuf", "user-agent": user_agent()}
        headers.update(self._destination.headers)
        if self._destination.compression == "gzip":
            headers.setdefault("content-encoding", "gzip")
        return headers

    def _opened(self) -> requests.Session:
        if self._session is not None and self._pid != os.getpid():
            self.forget()
        if self._session is None:
            self._session = _make_session(self._destination)
            self._pid = os.getpid()
        return self._session

    def forget(self) -> None:
        """In a fork child: let go of the parent's connection without closing it."""
        if self._session is not None:
            _abandoned.append(self._session)
        self._session = None
        self._closed = False

    def close(self) -> None:
        """Close the connection; later requests are not sent. Idempotent."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None and self._pid == os.getpid():
            session.close()


def _compressed(request: bytes) -> bytes:
    return gzip.compress(request, _GZIP_LEVEL, mtime=0)


def _make_session(destination: Destination) -> requests.Session:
    session = requests.Session()
    certificate, key = destination.client_certificate_file, destination.client_key_file
    session.cert = (certificate, key) if certificate and key else certificate
    for prefix in ("http://", "https://"):
        session.mount(prefix, _TimedAdapter())
    return session


def _read_body(response: requests.Response) -> bytes:
    """Read an answer's body, at most 4 MiB of it.

    A success is no success until its body was read: it can be a web page, or say that
    records were rejected. Any other status stands, however its body ends.
    """
    body = bytearray()
    try:
        for chunk in response.iter_content(65536):
            body += chunk
            if len(body) >= RESPONSE_BYTES_MAX:
                response.close()
                break
    except (requests.RequestException, urllib3.exceptions.HTTPError, OSError):
        if 200 <= response.status_code < 300:
            raise
    return bytes(body[:RESPONSE_BYTES_MAX])


# -- what went wrong ----------------------------------------------------------


def failure_kind(error: BaseException, attempt: _Attempt) -> FailureKind:
    """Name the way an attempt ended without an answer. What it means is judged elsewhere."""
    causes = list(_causes(error))
    if attempt.sent:
        return _kind_after_sending(causes, attempt)
    if not isinstance(error, (requests.ConnectionError, requests.Timeout)):
        # What requests checks first: the URL, the headers, the certificate files.
        usable = not isinstance(error, (requests.RequestException, OSError, ValueError))
        return FailureKind.UNEXPECTED if usable else FailureKind.UNUSABLE
    if any("Tunnel connection failed: 407" in str(cause) for cause in causes):
        return FailureKind.PROXY_CREDENTIALS
    for types, kind in _UNSENT:
        if any(isinstance(cause, types) for cause in causes):
            return kind
    return FailureKind.UNREACHABLE


_UNSENT: tuple[tuple[tuple[type[BaseException], ...], FailureKind], ...] = (
    ((urllib3.exceptions.NameResolutionError, socket.gaierror), FailureKind.NAME),
    ((ConnectionRefusedError,), FailureKind.REFUSED),
    ((ssl.SSLError, urllib3.exceptions.SSLError, requests.exceptions.SSLError), FailureKind.TLS),
    ((TimeoutError, urllib3.exceptions.TimeoutError, requests.Timeout),
     FailureKind.CONNECT_TIMEOUT),
)


def _kind_after_sending(causes: list[BaseException], attempt: _Attempt) -> FailureKind:
    for cause in causes:
        if isinstance(cause, (TimeoutError, urllib3.exceptions.TimeoutError, requests.Timeout)):
            return FailureKind.TIMEOUT
        if isinstance(cause, http.client.RemoteDisconnected):
            return FailureKind.DISCONNECTED
        if isinstance(cause, http.client.BadStatusLine):
            greeted = _is_settings_frame(str(cause.args[0]).encode("latin-1", "replace"))
            return FailureKind.GRPC_PORT if greeted else FailureKind.NOT_HTTP
        if isinstance(cause, (ConnectionResetError, BrokenPipeError)):
            greeted = attempt.fresh and _greets(attempt)
            return FailureKind.GRPC_PORT if greeted else FailureKind.DISCONNECTED
    if any(isinstance(cause, (OSError, urllib3.exceptions.HTTPError)) for cause in causes):
        return FailureKind.DISCONNECTED
    return FailureKind.UNEXPECTED


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that it wraps; requests and urllib3 wrap in four ways."""
    todo: list[Any] = [error]
    seen: list[BaseException] = []
    while todo:
        cause = todo.pop(0)
        if not isinstance(cause, BaseException) or any(cause is other for other in seen):
            continue
        seen.append(cause)
        yield cause
        todo += [*cause.args, getattr(cause, "reason", None), cause.__cause__, cause.__context__]


def _greets(attempt: _Attempt) -> bool:
    """Tell a gRPC server from an HTTP server that broke off.

    A Go server (a Collector) resets the connection when it is spoken to in HTTP/1, and
    its bytes are lost. But it greets: it sends SETTINGS before the client said anything,
    and no HTTP/1 server speaks first.
    """
    if attempt.peer is None:
        return False
    try:
        with socket.create_connection(attempt.peer[:2], _GRPC_GREETING_WAIT_S) as connection:
            connection.settimeout(_GRPC_GREETING_WAIT_S)
            return _is_settings_frame(connection.recv(9, socket.MSG_WAITALL))
    except OSError:
        return False


def _is_settings_frame(data: bytes) -> bool:
    """Whether these bytes begin a SETTINGS frame on stream 0 (RFC 9113, 4.1 and 6.5)."""
    return len(data) >= 9 and data[3:9] == b"\x04\x00\x00\x00\x00\x00" and data[:2] == b"\x00\x00"


# -- a deadline for the whole exchange ----------------------------------------


@dataclass
class _Attempt:
    """One request on its way.

    Attributes:
        ends_s: When it must be over, on the monotonic clock.

        sent: Some of it has left, or might have.

        fresh: Its connection was made for it.

        connecting: The connection, TLS and a proxy's tunnel included, is being made.

        peer: The address it went to, where no TLS was spoken.
    """

    ends_s: float
    sent: bool = False
    fresh: bool = False
    connecting: bool = False
    peer: tuple[Any, ...] | None = None

    def left_s(self) -> float:
        left_s = self.ends_s - time.monotonic()
        if left_s <= 0:
            raise TimeoutError("the request took too long")
        return left_s


# The libraries between ``send`` and the socket do not hand anything through.
_attempt: ContextVar[_Attempt] = ContextVar("memoir_http_attempt")


class _TimedReader(io.RawIOBase):
    """Gives each read of a socket the time that is left of the attempt."""

    def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
        self._sock = sock
        self._raw = raw

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(_attempt.get().left_s())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw: Any = self.fp.detach()
        self.fp = io.BufferedReader(_TimedReader(sock, raw))


class _TimedConnection(urllib3.connection.HTTPConnection):
    response_class = _TimedResponse

    def connect(self) -> None:
        super().connect()
        attempt = _attempt.get()
        attempt.fresh = True
        attempt.peer = self.sock.getpeername()

    def send(self, data: Any) -> None:
        _before_sending(self)
        super().send(data)


class _TimedTLSConnection(urllib3.connection.HTTPSConnection):
    response_class = _TimedResponse

    def connect(self) -> None:
        attempt = _attempt.get()
        # To a proxy it sends CONNECT, but nothing of the request.
        attempt.fresh = attempt.connecting = True
        super().connect()
        attempt.connecting = False

    def send(self, data: Any) -> None:
        _before_sending(self)
        super().send(data)


def _before_sending(connection: urllib3.connection.HTTPConnection) -> None:
    if connection.sock is None:
        connection.connect()
    attempt = _attempt.get()
    connection.sock.settimeout(attempt.left_s())
    attempt.sent = attempt.sent or not attempt.connecting


class _TimedPool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TimedTLSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _TimedTLSConnection


_POOLS = {"http": _TimedPool, "https": _TimedTLSPool}


class _TimedAdapter(requests.adapters.HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager
