"""The HTTP and gRPC senders against real servers on loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # no types
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_memoir.delivery.destination import Destination
from otel_memoir.delivery.grpc import GrpcSender
from otel_memoir.delivery.http import RESPONSE_BYTES_MAX, HttpSender
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.delivery.senders import make_sender
from otel_memoir.testing import Answer, FakeClock, RecordedRequest, ScriptedCollector

Sender = HttpSender | GrpcSender
PROTOCOLS = ("http/protobuf", "grpc")
# A Go gRPC server's first bytes: SETTINGS with one setting.
GREETING = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x05\x00\x00\x40\x00"


def request_of(*uids: str, padding: int = 0) -> bytes:
    """A serialised request with one record per uid."""
    request = ExportLogsServiceRequest()
    records = request.resource_logs.add().scope_logs.add().log_records
    for sequence, uid in enumerate(uids, 1):
        record = records.add(event_name="memoir.record.created")
        record.attributes.add(key="log.record.uid").value.string_value = uid
        record.attributes.add(key="memoir.stream.id").value.string_value = "s1"
        record.attributes.add(key="memoir.sequence").value.int_value = sequence
        record.body.string_value = "x" * padding
    return request.SerializeToString()


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    """A collector that answers OK until told otherwise."""
    with ScriptedCollector() as it:
        yield it


def destination_of(collector: ScriptedCollector, protocol: str) -> Destination:
    """Where the collector is."""
    if protocol == "grpc":
        target = collector.grpc_endpoint.removeprefix("http://")
        return Destination(protocol="grpc", endpoint=target, insecure=True, timeout_s=10.0)
    return Destination(endpoint=f"{collector.endpoint}/v1/logs", timeout_s=10.0)


@pytest.fixture(params=PROTOCOLS)
def sender(request: pytest.FixtureRequest, collector: ScriptedCollector) -> Iterator[Sender]:
    """A sender to the collector, over each protocol."""
    it = make_sender(destination_of(collector, request.param))
    yield it
    it.close()


@pytest.fixture
def http_sender(collector: ScriptedCollector) -> Iterator[HttpSender]:
    """A sender to the collector over HTTP."""
    it = HttpSender(destination_of(collector, "http/protobuf"))
    yield it
    it.close()


@contextlib.contextmanager
def server_of(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Run a bare TCP server, for what no HTTP library would do; yields its port."""
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                with connection:
                    serve(connection)

    thread = threading.Thread(target=accept, name="bare-server", daemon=True)
    thread.start()
    try:
        yield listener.getsockname()[1]
    finally:
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5.0)
        assert not thread.is_alive()


def send_over_http_to(port: int, timeout: float = 5.0) -> Outcome:
    """Send one request to a port of this machine."""
    sender = HttpSender(Destination(endpoint=f"http://127.0.0.1:{port}/v1/logs"))
    try:
        return sender.send(request_of("a"), timeout=timeout)
    finally:
        sender.close()


def reset(connection: socket.socket) -> None:
    """Close a connection with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


# -- delivery -----------------------------------------------------------------


def test_a_request_arrives_as_it_was_sent(sender: Sender, collector: ScriptedCollector) -> None:
    """The bytes are not touched: a resent batch must be the same."""
    request = request_of("a", "b")
    outcome = sender.send(request, headers={"memoir-stream-id": "s1"})
    assert outcome.verdict is Verdict.DELIVERED
    seen = collector.requests[0]
    assert seen.body == request
    assert seen.headers["memoir-stream-id"] == "s1"
    assert "otel-memoir/" in seen.headers["user-agent"]
    assert [(r.uid, r.stream_id, r.sequence) for r in collector.delivered] == [
        ("a", "s1", 1), ("b", "s1", 2),
    ]


def test_an_empty_probe_is_answered(sender: Sender, collector: ScriptedCollector) -> None:
    """It tells a server at fault from a record at fault."""
    assert sender.send(b"").verdict is Verdict.DELIVERED
    assert collector.requests[0].body == b""


def test_requests_share_one_connection(sender: Sender, collector: ScriptedCollector) -> None:
    """A connection per batch would cost a drain most of its time."""
    for _ in range(3):
        assert sender.send(request_of("a")).verdict is Verdict.DELIVERED
    assert len({request.peer for request in collector.requests}) == 1


def test_http_goes_to_the_endpoint_with_its_headers_and_gzip(collector: ScriptedCollector) -> None:
    """What OTLP/HTTP asks of a client."""
    sender = HttpSender(
        replace(
            destination_of(collector, "http/protobuf"), headers=(("x-tenant", "t1"),),
            compression="gzip",
        )
    )
    request = request_of("a", padding=50_000)
    assert sender.send(request).verdict is Verdict.DELIVERED
    sender.close()
    seen = collector.requests[0]
    assert (seen.path, seen.headers["content-type"]) == ("/v1/logs", "application/x-protobuf")
    assert (seen.headers["content-encoding"], seen.headers["x-tenant"]) == ("gzip", "t1")
    assert seen.body == request
    assert len(seen.raw) < len(request) / 10


def test_the_same_request_is_the_same_gzip(collector: ScriptedCollector) -> None:
    """A time inside the gzip header would make two resends differ on the wire."""
    sender = HttpSender(replace(destination_of(collector, "http/protobuf"), compression="gzip"))
    for _ in range(2):
        sender.send(request_of("a"))
    sender.close()
    raw = collector.requests[0].raw
    assert raw == collector.requests[1].raw
    assert raw[4:8] == bytes(4)


def test_rejected_records_are_counted(sender: Sender, collector: ScriptedCollector) -> None:
    """The stock exporters do not read this."""
    collector.script([Answer(rejected=1, message="too old")])
    outcome = sender.send(request_of("a", "b"))
    assert (outcome.verdict, outcome.rejected) == (Verdict.DELIVERED, 1)
    assert outcome.message == "too old"
    assert [r.uid for r in collector.delivered] == ["a"]


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(503, Verdict.RETRY), (404, Verdict.HOLD), (400, Verdict.HALVE), (500, Verdict.HALVE)],
)
def test_a_failure_is_judged_and_what_was_said_is_kept(
    sender: Sender, collector: ScriptedCollector, status: int, verdict: Verdict
) -> None:
    """The sender finds the status and the message; the table says what they mean."""
    collector.script([Answer(status=status, message="because")])
    outcome = sender.send(request_of("a"))
    assert (outcome.verdict, outcome.message) == (verdict, "because")
    assert collector.delivered == []


def test_retry_after_is_read_by_the_clock_that_was_given(collector: ScriptedCollector) -> None:
    """A date in Retry-After is compared with the wall clock."""
    clock = FakeClock(1_700_000_000 * 10**9)
    sender = HttpSender(
        destination_of(collector, "http/protobuf"), wall_s=lambda: clock.wall_ns() / 1e9
    )
    date = {"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}
    collector.script([Answer(status=503, headers=date), Answer(status=503, headers=date)])
    assert sender.send(request_of("a")).retry_after_s == 30.0
    clock.jump(10)
    assert sender.send(request_of("a")).retry_after_s == 20.0
    sender.close()


def test_retry_info_is_read_from_both_places(collector: ScriptedCollector) -> None:
    """Servers put it in the standard details; the official exporter reads it bare."""
    info = error_details_pb2.RetryInfo()
    info.retry_delay.FromMilliseconds(2500)
    bare: Mapping[str, object] = {"google.rpc.retryinfo-bin": info.SerializeToString()}
    collector.script(
        [
            Answer(status=429, retry_info_s=1.5),
            Answer(status=429, headers=bare),  # type: ignore[arg-type]  # -bin values are bytes
            Answer(status=429),
            Answer(status=429, headers={"grpc-status-details-bin": b"\xff"}),  # type: ignore[dict-item]
        ]
    )
    sender = GrpcSender(destination_of(collector, "grpc"))
    outcomes = [sender.send(request_of("a")) for _ in range(4)]
    sender.close()
    assert [o.retry_after_s for o in outcomes] == [1.5, 2.5, None, None]
    retried, halved = Verdict.RETRY, Verdict.HALVE
    assert [o.verdict for o in outcomes] == [retried, retried, halved, halved]


def test_a_redirect_is_not_followed(http_sender: HttpSender, collector: ScriptedCollector) -> None:
    """Records do not go to an address that nobody configured."""
    target = {"location": f"{collector.endpoint}/elsewhere"}
    collector.script([Answer(status=307, headers=target)])
    assert http_sender.send(request_of("a")).verdict is Verdict.HOLD
    assert [request.path for request in collector.requests] == ["/v1/logs"]


# -- no answer ----------------------------------------------------------------


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_refused_connection_is_retried_and_not_ambiguous(protocol: str) -> None:
    """Nothing was sent, so nothing can arrive twice."""
    port = free_port()
    endpoint = f"127.0.0.1:{port}" if protocol == "grpc" else f"http://127.0.0.1:{port}/v1/logs"
    sender = make_sender(
        Destination(protocol=protocol, endpoint=endpoint, insecure=True)  # type: ignore[arg-type]
    )
    outcome = sender.send(request_of("a"))
    sender.close()
    assert (outcome.verdict, outcome.code) == (Verdict.RETRY, "connection refused")
    assert not outcome.ambiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_name_that_does_not_resolve_is_not_ambiguous(protocol: str) -> None:
    """`.invalid` never resolves (RFC 6761)."""
    host = "collector.invalid:4317"
    endpoint = host if protocol == "grpc" else f"http://{host}/v1/logs"
    sender = make_sender(
        Destination(protocol=protocol, endpoint=endpoint, insecure=True)  # type: ignore[arg-type]
    )
    outcome = sender.send(request_of("a"))
    sender.close()
    assert (outcome.verdict, outcome.code) == (Verdict.RETRY, "name not resolved")
    assert not outcome.ambiguous


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_tls_to_a_port_without_tls_is_not_ambiguous(
    protocol: str, collector: ScriptedCollector
) -> None:
    """The request goes after the handshake. The handshake never ends well here."""
    plain = destination_of(collector, protocol)
    endpoint = plain.endpoint.replace("http://", "https://")
    sender = make_sender(replace(plain, endpoint=endpoint, insecure=False))
    outcome = sender.send(request_of("a"))
    sender.close()
    assert (outcome.verdict, outcome.code) == (Verdict.RETRY, "tls handshake")
    assert not outcome.ambiguous
    assert "TLS" in outcome.hint


def test_a_dropped_connection_is_retried_and_ambiguous(
    sender: Sender, collector: ScriptedCollector
) -> None:
    """The server may have taken the request; here it did, so the record arrives twice."""
    collector.script([Answer.drop(taken=True)])
    outcome = sender.send(request_of("a"))
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.RETRY, True)
    assert sender.send(request_of("a")).verdict is Verdict.DELIVERED
    assert [r.uid for r in collector.taken] == ["a", "a"]
    assert [r.uid for r in collector.delivered] == ["a"]


def test_a_request_is_sent_once_per_call(sender: Sender, collector: ScriptedCollector) -> None:
    """The stock HTTP exporter resends at once by itself; each attempt must be written down."""
    collector.script([Answer.drop(), Answer(status=503)])
    sender.send(request_of("a"))
    assert len(collector.requests) == 1
    sender.send(request_of("a"))
    assert len(collector.requests) == 2


def test_a_server_that_never_answers_costs_the_timeout_and_no_more(
    sender: Sender, collector: ScriptedCollector
) -> None:
    """The courier must come back to its other work."""
    collector.script([Answer.hang()])
    began_s = time.monotonic()
    outcome = sender.send(request_of("a"), timeout=0.4)
    assert 0.3 < time.monotonic() - began_s < 2.0
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.RETRY, True)
    assert outcome.code in ("timeout", "grpc DEADLINE_EXCEEDED")


def test_a_server_that_dribbles_bytes_costs_the_timeout_and_no_more(
    http_sender: HttpSender, collector: ScriptedCollector
) -> None:
    """Each byte comes in time for a limit per read; only a limit for the whole ends it."""
    collector.script([Answer(manner="dribble", message="m" * 400)])
    began_s = time.monotonic()
    outcome = http_sender.send(request_of("a"), timeout=0.5)
    assert 0.4 < time.monotonic() - began_s < 2.0
    assert (outcome.verdict, outcome.code, outcome.ambiguous) == (Verdict.RETRY, "timeout", True)


def test_a_dribbled_answer_within_the_time_is_an_answer(
    http_sender: HttpSender, collector: ScriptedCollector
) -> None:
    """Negative control of the deadline: slow alone is no failure."""
    collector.script([Answer(manner="dribble")])
    assert http_sender.send(request_of("a"), timeout=20.0).verdict is Verdict.DELIVERED


def test_a_body_that_never_ends_costs_the_timeout_and_leaves_the_status() -> None:
    """A 503 stands without its body; a 200 does not, it could be a web page."""
    release = threading.Event()

    def answer(head: bytes) -> Callable[[socket.socket], None]:
        def serve(connection: socket.socket) -> None:
            connection.recv(65536)
            connection.sendall(head + b"content-length: 100\r\n\r\n<ht")
            release.wait(5.0)

        return serve

    with server_of(answer(b"HTTP/1.1 503 Full\r\nretry-after: 9\r\n")) as port:
        outcome = send_over_http_to(port, timeout=0.3)
        assert (outcome.code, outcome.retry_after_s) == ("http 503", 9.0)
        release.set()
    release.clear()
    with server_of(answer(b"HTTP/1.1 200 OK\r\n")) as port:
        outcome = send_over_http_to(port, timeout=0.3)
        assert (outcome.verdict, outcome.code, outcome.ambiguous) == (
            Verdict.RETRY, "timeout", True,
        )
        release.set()


def test_a_server_that_reads_slowly_costs_the_timeout_and_no_more() -> None:
    """It reads enough that each write ends in time; only a limit for the whole ends it."""
    release = threading.Event()

    def serve(connection: socket.socket) -> None:
        while not release.wait(0.05) and connection.recv(65536):
            pass

    with server_of(serve) as port:
        sender = HttpSender(Destination(endpoint=f"http://127.0.0.1:{port}/v1/logs"))
        began_s = time.monotonic()
        outcome = sender.send(bytes(40_000_000), timeout=0.4)
        sender.close()
        assert 0.3 < time.monotonic() - began_s < 2.0
        assert (outcome.code, outcome.ambiguous) == ("timeout", True)
        release.set()


def test_a_connection_that_died_while_idle_is_replaced(
    sender: Sender, collector: ScriptedCollector
) -> None:
    """A restart of the collector costs at most one attempt."""
    assert sender.send(request_of("a")).verdict is Verdict.DELIVERED
    collector.down()
    collector.up()
    outcomes = [sender.send(request_of("b"), timeout=5.0) for _ in range(2)]
    assert outcomes[-1].verdict is Verdict.DELIVERED
    assert {o.verdict for o in outcomes} <= {Verdict.DELIVERED, Verdict.RETRY}


def test_a_stale_keep_alive_is_ambiguous() -> None:
    """The server closes as the second request arrives, and nobody can tell what it read."""
    served: list[int] = []

    def serve(connection: socket.socket) -> None:
        whole = connection.makefile("rb")
        length = 0
        while (line := whole.readline().lower()) not in (b"\r\n", b""):
            if line.startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        whole.read(length)
        connection.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
        served.append(len(connection.recv(65536)))
        reset(connection)

    with server_of(serve) as port:
        sender = HttpSender(Destination(endpoint=f"http://127.0.0.1:{port}/v1/logs"))
        assert sender.send(request_of("a")).verdict is Verdict.DELIVERED
        outcome = sender.send(request_of("b"), timeout=5.0)
        sender.close()
    assert served[0] > 0
    assert (outcome.verdict, outcome.code, outcome.ambiguous) == (
        Verdict.RETRY, "disconnected", True,
    )


def test_a_server_that_is_back_is_found_at_once(
    sender: Sender, collector: ScriptedCollector
) -> None:
    """gRPC's own back-off of up to two minutes must not come on top of the courier's."""
    collector.down()
    for _ in range(3):
        assert sender.send(request_of("a"), timeout=5.0).verdict is Verdict.RETRY
    collector.up()
    began_s = time.monotonic()
    assert sender.send(request_of("a"), timeout=5.0).verdict is Verdict.DELIVERED
    assert time.monotonic() - began_s < 1.0


def test_a_huge_answer_is_read_only_in_part(
    http_sender: HttpSender, collector: ScriptedCollector
) -> None:
    """OTLP: at most 4 MiB. The status still says that it was taken."""
    body = b"z" * (RESPONSE_BYTES_MAX + 1_000_000)
    collector.script([Answer(body=body), Answer()])
    assert http_sender.send(request_of("a")).verdict is Verdict.DELIVERED
    assert http_sender.send(request_of("b")).verdict is Verdict.DELIVERED
    peers = [request.peer for request in collector.requests]
    assert peers[0] != peers[1], "the rest of the answer was read"


# -- the wrong protocol -------------------------------------------------------


def test_http_spoken_to_a_grpc_port_holds(collector: ScriptedCollector) -> None:
    """A gRPC server of the C core answers with its SETTINGS."""
    port = int(collector.grpc_endpoint.rpartition(":")[2])
    outcome = send_over_http_to(port)
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.HOLD, False)
    assert "4318" in outcome.hint


def test_http_spoken_to_a_grpc_server_that_resets_holds() -> None:
    """A Go server, so a Collector: it greets, and then resets what is not HTTP/2."""

    def serve(connection: socket.socket) -> None:
        if seen := connection.recv(65536):
            assert seen.startswith(b"POST")
            reset(connection)

    def greet(connection: socket.socket) -> None:
        connection.sendall(GREETING)
        serve(connection)

    with server_of(greet) as port:
        assert send_over_http_to(port).code == "http to a grpc port"
    with server_of(serve) as port:
        outcome = send_over_http_to(port)
        assert (outcome.verdict, outcome.code) == (Verdict.RETRY, "disconnected")


def test_something_that_is_no_http_server_holds() -> None:
    """An SSH or a mail port: waiting does not cure it."""

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"SSH-2.0-OpenSSH_9.6\r\n")

    with server_of(serve) as port:
        outcome = send_over_http_to(port)
    assert (outcome.verdict, outcome.code) == (Verdict.HOLD, "not an http answer")


def test_grpc_spoken_to_an_http_port_holds(collector: ScriptedCollector) -> None:
    """gRPC's client knows it before it sends the request."""
    target = collector.endpoint.removeprefix("http://")
    sender = GrpcSender(Destination(protocol="grpc", endpoint=target, insecure=True))
    outcome = sender.send(request_of("a"))
    sender.close()
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.HOLD, False)
    assert "4317" in outcome.hint


# -- promises to the caller ---------------------------------------------------


class Raising(Mapping[str, str]):
    """Headers whose reading raises."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def __getitem__(self, key: str) -> str:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        raise self._error

    def __len__(self) -> int:
        return 1


def test_no_exception_leaves_send(sender: Sender, collector: ScriptedCollector) -> None:
    """The courier has no `except` for it."""
    outcome = sender.send(request_of("a"), headers=Raising(KeyError("odd")))
    assert outcome.verdict is not Verdict.DELIVERED
    assert "odd" in outcome.message
    assert collector.requests == []


def test_the_given_certificate_file_wins_over_requests_own_variable(
    monkeypatch: pytest.MonkeyPatch, collector: ScriptedCollector
) -> None:
    """`REQUESTS_CA_BUNDLE` is set in many images, and would silently win on a session."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", ssl.get_default_verify_paths().openssl_cafile)
    endpoint = collector.endpoint.replace("http://", "https://")
    sender = HttpSender(Destination(endpoint=endpoint, certificate_file="/nowhere/ca.pem"))
    assert "/nowhere/ca.pem" in sender.send(request_of("a")).message
    sender.close()


def test_an_interrupt_passes_through_send(sender: Sender) -> None:
    """Control-C belongs to the application."""
    with pytest.raises(KeyboardInterrupt):
        sender.send(request_of("a"), headers=Raising(KeyboardInterrupt()))


@pytest.mark.parametrize(
    "destination",
    [
        Destination(endpoint="collector:4318/v1/logs"),
        Destination(endpoint="http://"),
        Destination(endpoint="https://127.0.0.1:1/", certificate_file="/nowhere/ca.pem"),
        Destination(endpoint="http://127.0.0.1:1/", headers=(("x", "bad\nvalue"),)),
        Destination(protocol="grpc", endpoint="127.0.0.1:1", certificate_file="/nowhere/ca.pem"),
        Destination(
            protocol="grpc", endpoint="127.0.0.1:1", insecure=True, headers=(("Bad Key", "v"),)
        ),
    ],
)
def test_a_destination_that_cannot_be_used_holds(destination: Destination) -> None:
    """Only a person can cure it; nothing was sent."""
    sender = make_sender(destination)
    outcome = sender.send(request_of("a"))
    sender.close()
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.HOLD, False)
    assert outcome.hint


def test_a_closed_sender_sends_nothing(sender: Sender, collector: ScriptedCollector) -> None:
    """Closing twice, or before the first request, is allowed."""
    sender.send(request_of("a"))
    sender.close()
    sender.close()
    outcome = sender.send(request_of("b"))
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.RETRY, False)
    assert len(collector.requests) == 1
    never_opened = make_sender(Destination())
    never_opened.close()


def test_closing_ends_a_grpc_request_in_progress(collector: ScriptedCollector) -> None:
    """Shutdown does not wait for a server that hangs."""
    collector.script([Answer.hang()])
    sender = GrpcSender(destination_of(collector, "grpc"))
    outcomes: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: outcomes.append(sender.send(request_of("a"), timeout=30.0)), name="send"
    )
    thread.start()
    assert collector.wait_for(lambda c: bool(c.requests), timeout=5.0)
    sender.close()
    thread.join(5.0)
    assert not thread.is_alive()
    assert (outcomes[0].code, outcomes[0].ambiguous) == ("grpc CANCELLED", True)


@pytest.mark.parametrize("forgetting", [True, False])
def test_a_fork_child_makes_its_own_connection(
    http_sender: HttpSender, collector: ScriptedCollector, forgetting: bool
) -> None:
    """With `forget`, and without it by the process id; the parent keeps its own."""
    assert http_sender.send(request_of("parent")).verdict is Verdict.DELIVERED
    with warnings.catch_warnings():
        # Python 3.12 warns of a fork beside threads; that is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        if forgetting:
            http_sender.forget()
        delivered = http_sender.send(request_of("child"), timeout=5.0).verdict is Verdict.DELIVERED
        os._exit(0 if delivered else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert http_sender.send(request_of("parent")).verdict is Verdict.DELIVERED
    peers = {r.records[0].uid: set[str]() for r in collector.requests}
    for request in collector.requests:
        peers[request.records[0].uid].add(request.peer)
    assert len(peers["parent"]) == 1
    assert peers["parent"].isdisjoint(peers["child"])


def test_a_fork_child_makes_its_own_grpc_channel(collector: ScriptedCollector) -> None:
    """In a process of its own, and more than once: what it guards against comes and goes."""
    code = (
        "import os, sys, warnings\n"
        "from otel_memoir.delivery.destination import Destination\n"
        "from otel_memoir.delivery.senders import make_sender\n"
        "warnings.simplefilter('ignore')\n"
        "s = make_sender(Destination(protocol='grpc', endpoint=sys.argv[1], insecure=True))\n"
        "first = s.send(b'', timeout=5.0).code\n"
        "statuses = []\n"
        "for _ in range(5):\n"
        "    if (pid := os.fork()) == 0:\n"
        "        os._exit(0 if s.send(b'', timeout=5.0).code == 'grpc OK' else 1)\n"
        "    statuses.append(os.waitpid(pid, 0)[1])\n"
        "print(first, statuses, s.send(b'', timeout=5.0).code)\n"
        "s.close()\n"
    )
    target = destination_of(collector, "grpc").endpoint
    ran = subprocess.run(
        [sys.executable, "-c", code, target], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.strip() == "grpc OK [0, 0, 0, 0, 0] grpc OK"
    parent, *children, parent_again = [request.peer for request in collector.requests]
    assert parent == parent_again
    assert len({parent, *children}) == 6


@pytest.mark.parametrize("missing", ["key", "certificate"])
def test_half_a_client_certificate_does_not_end_the_process(missing: str) -> None:
    """gRPC's core aborts on it, and would take the application with it."""
    code = (
        "import sys\n"
        "from otel_memoir.delivery.destination import Destination\n"
        "from otel_memoir.delivery.senders import make_sender\n"
        "it = {sys.argv[1]: sys.executable}\n"
        "s = make_sender(Destination(protocol='grpc', endpoint='127.0.0.1:1', **it))\n"
        "print(s.send(b'').verdict.name)\n"
    )
    given = "client_certificate_file" if missing == "key" else "client_key_file"
    ran = subprocess.run(
        [sys.executable, "-c", code, given], capture_output=True, text=True, timeout=60, check=False
    )
    assert (ran.returncode, ran.stdout.strip()) == (0, "HOLD")


def test_forgetting_opens_a_closed_sender_again(
    sender: Sender, collector: ScriptedCollector
) -> None:
    """A child of a parent that had shut down delivers by itself."""
    sender.close()
    sender.forget()
    assert sender.send(request_of("a")).verdict is Verdict.DELIVERED


def test_making_a_destination_imports_no_network_library() -> None:
    """An application that only writes pays for no requests and no grpc."""
    code = (
        "import sys, otel_memoir.delivery.destination as d, otel_memoir.delivery.outcome\n"
        "d.Destination()\n"
        "print([m for m in ('requests', 'grpc', 'urllib3') if m in sys.modules])\n"
        "from otel_memoir.delivery.senders import make_sender\n"
        "make_sender(d.Destination())\n"
        "print([m for m in ('requests', 'grpc') if m in sys.modules])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert ran.stdout.splitlines() == ["[]", "['requests']"]


# -- the fakes ----------------------------------------------------------------


def test_the_collector_asks_its_function_when_the_script_is_over(
    http_sender: HttpSender, collector: ScriptedCollector
) -> None:
    """A script first, one answer a request; then `respond`."""

    def respond(request: RecordedRequest) -> Answer:
        return Answer(status=503 if "a" in [r.uid for r in request.records] else 200)

    collector.respond = respond
    collector.script([Answer()])
    codes = [http_sender.send(request_of(uid)).code for uid in ("a", "a", "b")]
    assert codes == ["http 200", "http 503", "http 200"]
    assert [r.uid for r in collector.delivered] == ["a", "b"]


def test_the_collector_is_waited_for_until_a_deadline(collector: ScriptedCollector) -> None:
    """`wait_for` tells the truth when nothing comes."""
    began_s = time.monotonic()
    assert not collector.wait_for(1, timeout=0.2)
    assert 0.1 < time.monotonic() - began_s < 2.0


def test_the_collector_leaves_no_thread_behind() -> None:
    """A test that uses it stops by itself, also in the middle of an answer."""
    with ScriptedCollector() as collector:
        collector.script([Answer(delay_s=30.0), Answer.hang()])
        for protocol in PROTOCOLS:
            sender = make_sender(destination_of(collector, protocol))
            sender.send(request_of("a"), timeout=0.2)
            sender.close()
        assert [t for t in threading.enumerate() if t.name.startswith("scripted-collector")]
        began_s = time.monotonic()
    assert time.monotonic() - began_s < 3.0
    left = [t.name for t in threading.enumerate() if t.name.startswith("scripted-collector")]
    assert left == []


def test_the_clock_moves_only_when_it_is_told() -> None:
    """`advance` moves both clocks, `jump` only the wall clock."""
    clock = FakeClock(wall_unix_ns=1_000)
    began_s = clock.monotonic_s()
    clock.advance(2.5)
    assert (clock.wall_ns(), clock.monotonic_s() - began_s) == (2_500_001_000, 2.5)
    clock.jump(-1.0)
    assert (clock.wall_ns(), clock.monotonic_s() - began_s) == (1_500_001_000, 2.5)
