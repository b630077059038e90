"""OTLP/HTTP on loopback."""

from __future__ import annotations

import gzip
import http.server
import socket
import socketserver
import ssl
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from otel_memoir.testing.play import Answer, RecordedRequest, records_of

JOIN_S = 5.0


@dataclass(frozen=True)
class Tls:
    """The certificates of a server."""

    certificate: str
    key: str
    client_ca: str | None

    def context(self) -> ssl.SSLContext:
        """What a server socket is wrapped with."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, self.key)
        if self.client_ca:
            context.load_verify_locations(self.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


class HttpServer(socketserver.ThreadingMixIn, http.server.HTTPServer):
    """One thread a connection; ``stop`` ends them all.

    Args:
        receive: Answers a request.

        pause: Waits so many seconds; true when there is no time to.
    """

    # HTTPServer's own bind asks a name server for the name of 127.0.0.1.
    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, receive: Callable[[RecordedRequest], Answer], pause: Callable[[float], bool],
        tls: Tls | None, port: int,
    ) -> None:  # fmt: skip
        self.receive, self.pause = receive, pause
        self._connections: dict[socket.socket, threading.Thread] = {}
        super().__init__(("127.0.0.1", port), _Handler)
        if tls:
            # The handshake then belongs to the connection's thread, not to the acceptor.
            self.socket = tls.context().wrap_socket(
                self.socket, server_side=True, do_handshake_on_connect=False
            )
        self._acceptor = threading.Thread(
            target=self.serve_forever, args=(0.05,), name="scripted-collector", daemon=True
        )

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "127.0.0.1", self.server_address[1]

    def start(self) -> None:
        """Begin to accept."""
        self._acceptor.start()

    def stop(self) -> None:
        """Accept no more, and break every connection."""
        self.shutdown()
        self.server_close()
        self._acceptor.join(JOIN_S)
        for connection, thread in list(self._connections.items()):
            _break(connection)
            thread.join(JOIN_S)

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
    server: HttpServer

    def log_message(self, *_: Any) -> None:
        """Say nothing on stderr."""

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers.get("content-length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        body = _decompressed(raw, headers.get("content-encoding", ""))
        answer = self.server.receive(
            RecordedRequest(
                protocol="http", path=self.path, headers=headers, raw=raw, body=body,
                records=records_of(body), peer=f"{self.client_address[0]}:{self.client_address[1]}",
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
            if self.server.pause(0.02):
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
