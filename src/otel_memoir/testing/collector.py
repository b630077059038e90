"""A real OTLP server that records what arrives and answers as told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from otel_memoir.testing.grpc_server import join, start_grpc
from otel_memoir.testing.http_server import JOIN_S, HttpServer, Tls
from otel_memoir.testing.play import Answer, RecordedRecord, RecordedRequest, Respond

if TYPE_CHECKING:
    from typing_extensions import Self

_HANG_MAX_S = 60.0


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
        self.tls = Tls(certificate, key, client_ca) if certificate and key else None
        self.requests: list[RecordedRequest] = []
        self.delivered: list[RecordedRecord] = []
        self.taken: list[RecordedRecord] = []
        self._answers: deque[Answer] = deque()
        self._changed = threading.Condition()
        self._released = threading.Event()
        self._stopping = threading.Event()
        self._http: HttpServer | None = None
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
            self._http = HttpServer(self.receive, self.pause, self.tls, self._http_port)
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
            grpc_server.stop(None).wait(JOIN_S)
            self._executor.shutdown(wait=False)
            join(self._executor_name)

    def _start_grpc(self) -> None:
        self._executor = ThreadPoolExecutor(8, thread_name_prefix=self._executor_name)
        self._grpc, self._grpc_port = start_grpc(
            self.receive, self.tls, self._executor, self._grpc_port
        )

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
