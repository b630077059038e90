"""What answers mean."""

from __future__ import annotations

import json

import pytest
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # no types
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from otel_memoir.delivery.judge import judge_failure, judge_grpc, judge_http
from otel_memoir.delivery.outcome import FailureKind, Outcome, Verdict

NOW_S = 1_700_000_000.0
# How gRPC's client begins when it got no connection.
NO_CHANNEL = "failed to connect to all addresses; last error: UNKNOWN: "
PROTOBUF = {"Content-Type": "application/x-protobuf"}
JSON = {"content-type": "application/json"}


def http(status: int, body: bytes = b"", **headers: str) -> Outcome:
    """Judge an answer with headers written as keywords."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return judge_http(status, named, body, now_unix_s=NOW_S)


def grpc(code: str, details: str = "", retry_info_s: float | None = None) -> Outcome:
    """Judge a gRPC status."""
    return judge_grpc(code, details, retry_info_s, None)


def response(rejected: int, message: str = "") -> bytes:
    """An ExportLogsServiceResponse by the official class."""
    answer = ExportLogsServiceResponse()
    answer.partial_success.rejected_log_records = rejected
    answer.partial_success.error_message = message
    return answer.SerializeToString()


# -- success ------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"\x0a\x00", response(0)])
@pytest.mark.parametrize("status", [200, 202, 204])
def test_a_success_with_an_empty_partial_success_is_delivered(status: int, body: bytes) -> None:
    """A Collector's success is `0a 00`: present, and empty."""
    outcome = judge_http(status, PROTOBUF, body, now_unix_s=NOW_S)
    assert outcome == Outcome(verdict=Verdict.DELIVERED, code=f"http {status}")


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (PROTOBUF, response(3, "too old")),
        (JSON, b'{"partialSuccess": {"rejectedLogRecords": "3", "errorMessage": "too old"}}'),
        (JSON, b'{"partialSuccess": {"rejectedLogRecords": 3, "errorMessage": "too old"}}'),
        ({}, b' {"partial_success": {"rejected_log_records": 3, "error_message": "too old"}}'),
    ],
)
def test_rejected_records_are_counted_in_protobuf_and_in_json(
    headers: dict[str, str], body: bytes
) -> None:
    """OTLP/JSON writes an int64 as a string; numbers and proto names are also allowed."""
    outcome = judge_http(200, headers, body, now_unix_s=NOW_S)
    assert (outcome.verdict, outcome.rejected) == (Verdict.DELIVERED, 3)
    assert (outcome.message, outcome.hint) == ("too old", "")


def test_rejected_records_are_counted_over_grpc() -> None:
    """The response message is the same as over HTTP."""
    outcome = judge_grpc("OK", "", None, response(2, "no room"))
    assert (outcome.verdict, outcome.rejected) == (Verdict.DELIVERED, 2)
    assert outcome.message == "no room"


def test_a_count_is_not_lost_to_a_message_that_is_no_utf8() -> None:
    """The official class refuses these bytes whole; the count in them is still right."""
    body = b"\x0a\x07\x08\x05\x12\x03ab\xff"
    with pytest.raises(Exception, match="UTF-8|parsing"):
        ExportLogsServiceResponse.FromString(body)
    assert judge_http(200, PROTOBUF, body, now_unix_s=NOW_S).rejected == 5


def test_a_message_beside_no_rejected_records_is_a_warning() -> None:
    """OTLP: a client should tell of it, and nothing is lost."""
    outcome = judge_http(200, PROTOBUF, response(0, "field x is deprecated"), now_unix_s=NOW_S)
    assert (outcome.verdict, outcome.rejected) == (Verdict.DELIVERED, 0)
    assert "field x is deprecated" in outcome.hint


def test_a_negative_count_of_rejected_records_is_none() -> None:
    """It would otherwise make more records delivered than were sent."""
    assert judge_http(200, PROTOBUF, response(-4), now_unix_s=NOW_S).rejected == 0
    body = b'{"partialSuccess": {"rejectedLogRecords": "-4"}}'
    assert judge_http(200, JSON, body, now_unix_s=NOW_S).rejected == 0


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "text/plain"}, b"ok"),
        ({"content-type": "text/plain"}, b"\x0a\x00"),
        (JSON, b"[]"),
        (JSON, b'{"partialSuccess": 7}'),
        (JSON, b'{"partialSuccess": {"rejectedLogRecords": "many"}}'),
        (PROTOBUF, b"\x0a\x7f"),
        (PROTOBUF, b"\x08\x01\xff"),
    ],
)
def test_a_success_with_a_body_that_cannot_be_read_is_delivered_with_a_warning(
    headers: dict[str, str], body: bytes
) -> None:
    """The status says taken; resending would bring all records again and again."""
    outcome = judge_http(200, headers, body, now_unix_s=NOW_S)
    assert (outcome.verdict, outcome.rejected) == (Verdict.DELIVERED, 0)
    assert "OTLP" in outcome.hint


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=utf-8", b"welcome"),
        ("", b"\n <!DOCTYPE html><title>Sign in</title>"),
        ("application/x-protobuf", b"<html><body>Sign in</body></html>"),
        ("", b"<!-- login --><head>"),
    ],
)
def test_a_page_with_status_200_is_not_taken_for_a_delivery(kind: str, body: bytes) -> None:
    """A captive portal says 200 to everything."""
    outcome = http(200, body, content_type=kind)
    assert outcome.verdict is Verdict.HOLD
    assert "endpoint" in outcome.hint.lower()
    assert outcome.ambiguous


@given(st.binary(max_size=200))
def test_no_body_makes_judging_raise(body: bytes) -> None:
    """Whatever a server sends, it is judged."""
    for headers in (PROTOBUF, JSON, {}):
        assert judge_http(200, headers, body, now_unix_s=NOW_S).rejected >= 0
        assert judge_http(400, headers, body, now_unix_s=NOW_S).verdict is not Verdict.DELIVERED
    assert judge_grpc("OK", "", None, body).verdict is Verdict.DELIVERED


@given(st.integers(0, 2**63 - 1), st.text(max_size=20))
def test_our_reader_reads_what_the_official_writer_wrote(rejected: int, message: str) -> None:
    """Differential: any count and any text."""
    assert judge_grpc("OK", "", None, response(rejected, message)).rejected == rejected


# -- HTTP failures ------------------------------------------------------------

EXPECTED_HTTP = {
    Verdict.RETRY: (408, 429, 502, 503, 504),
    Verdict.HOLD: (301, 302, 304, 307, 308, 401, 402, 403, 404, 405, 407, 409, 415, 431, 501),
    Verdict.HALVE: (400, 413, 500, 505, 507, 599),
}


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(status, verdict) for verdict, many in EXPECTED_HTTP.items() for status in many],
)
def test_a_status_has_the_verdict_of_the_table(status: int, verdict: Verdict) -> None:
    """The outcome table, row by row, and what is not listed in it."""
    outcome = http(status)
    assert (outcome.verdict, outcome.code) == (verdict, f"http {status}")


@pytest.mark.parametrize("status", EXPECTED_HTTP[Verdict.HOLD])
def test_a_hold_names_a_remedy(status: int) -> None:
    """Only a person can end it, so it says what to do."""
    assert len(http(status).hint) > 30


def test_a_404_names_the_pipeline_and_the_path() -> None:
    """The two usual causes of the most usual mistake."""
    assert "logs pipeline" in http(404).hint
    assert "path" in http(404).hint


def test_no_status_but_2xx_is_a_delivery() -> None:
    """Negative control over every status there could be."""
    delivered = {status for status in range(100, 1000) if http(status).rejected or
                 http(status).verdict is Verdict.DELIVERED}
    assert delivered == set(range(200, 300))


def test_only_a_5xx_is_ambiguous() -> None:
    """A 4xx says that the request was not taken; a gateway's 5xx can come after it went on."""
    ambiguous = {status for status in range(300, 600) if http(status).ambiguous}
    assert ambiguous == set(range(500, 600))


def test_a_500_is_halved_at_the_third_try_and_needs_a_sibling() -> None:
    """A later hop's 413 comes back as 500, and so does every passing bug."""
    assert (http(500).tries, http(500).needs_sibling) == (3, True)
    assert (http(400).tries, http(400).needs_sibling) == (1, False)
    assert (http(413).tries, http(413).needs_sibling) == (1, False)


def test_plain_http_on_a_tls_port_holds_and_is_not_halved() -> None:
    """Go and nginx say 400 to it; no record is at fault."""
    for body in (
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<center>The plain HTTP request was sent to HTTPS port</center>",
    ):
        outcome = http(400, body)
        assert outcome.verdict is Verdict.HOLD
        assert "https://" in outcome.hint


def test_a_redirect_says_where_it_points() -> None:
    """Records are not sent there, so a person must see the address."""
    outcome = http(302, location="https://login.example/")
    assert "https://login.example/" in outcome.message


@pytest.mark.parametrize("status", [429, 503, 502, 504, 408])
def test_a_server_that_names_a_time_is_heard(status: int) -> None:
    """Retry-After counts for every answer that is retried."""
    assert http(status, Retry_After="7").retry_after_s == 7.0
    assert http(status).retry_after_s is None


@pytest.mark.parametrize(
    ("value", "wait_s"),
    [
        ("0", 0.0),
        (" 120 ", 120.0),
        ("1.5", 1.5),
        ("86400", 3600.0),
        ("9" * 400, 3600.0),
        ("Tue, 14 Nov 2023 22:13:50 GMT", 30.0),
        ("Tue, 14 Nov 2023 22:13:50 -0000", 30.0),
        ("Tue, 14 Nov 2023 22:13:10 GMT", 0.0),
        ("Tue, 14 Nov 2034 22:13:50 GMT", 3600.0),
        ("Mon, 01 Jan 0001 00:00:00 +2359", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("nan", None),
        ("Tue, 99 Nov 2023 22:13:50 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_at_most_an_hour(
    value: str, wait_s: float | None
) -> None:
    """RFC 9110, 10.2.3; NOW_S is 2023-11-14 22:13:20 GMT."""
    assert http(503, retry_after=value).retry_after_s == wait_s


@given(st.text(max_size=60))
def test_no_retry_after_makes_judging_raise(value: str) -> None:
    """Whatever the header says."""
    wait_s = http(503, retry_after=value).retry_after_s
    assert wait_s is None or 0.0 <= wait_s <= 3600.0


def test_what_the_server_said_is_read_from_a_status_message() -> None:
    """OTLP failures carry google.rpc.Status, in protobuf or JSON."""
    status = Status(code=3, message="bad  record\n\x1b[31m")
    outcome = judge_http(400, PROTOBUF, status.SerializeToString(), now_unix_s=NOW_S)
    assert outcome.message == "bad record [31m"
    said = json.dumps({"code": 3, "message": "bad record"}).encode()
    assert judge_http(400, JSON, said, now_unix_s=NOW_S).message == "bad record"
    assert http(400, b"request body too large").message == "request body too large"


def test_a_message_is_at_most_500_characters() -> None:
    """It is kept on disk beside each batch."""
    assert len(http(400, b"x" * 10_000).message) == 500


# -- gRPC failures ------------------------------------------------------------

EXPECTED_GRPC = {
    Verdict.RETRY: (
        "CANCELLED", "DEADLINE_EXCEEDED", "ABORTED", "OUT_OF_RANGE", "UNAVAILABLE", "DATA_LOSS",
    ),
    Verdict.HOLD: (
        "UNAUTHENTICATED", "PERMISSION_DENIED", "UNIMPLEMENTED", "NOT_FOUND",
        "FAILED_PRECONDITION", "ALREADY_EXISTS", "A_CODE_OF_THE_FUTURE",
    ),
    Verdict.HALVE: ("INVALID_ARGUMENT", "INTERNAL", "RESOURCE_EXHAUSTED", "UNKNOWN"),
}


@pytest.mark.parametrize(
    ("code", "verdict"),
    [(code, verdict) for verdict, many in EXPECTED_GRPC.items() for code in many],
)
def test_a_grpc_code_has_the_verdict_of_the_table(code: str, verdict: Verdict) -> None:
    """The outcome table, row by row."""
    outcome = grpc(code, "said so")
    assert (outcome.verdict, outcome.code, outcome.message) == (verdict, f"grpc {code}", "said so")
    # What is halved can end in a hold, once single records fail and nothing is delivered.
    can_hold = verdict is Verdict.HOLD or (verdict is Verdict.HALVE and not outcome.needs_sibling)
    assert can_hold == bool(outcome.hint)


def test_exhausted_resources_are_a_throttle_only_with_retry_info() -> None:
    """OTLP's rule. Without it, it is also a Collector's answer to too large a message."""
    throttle = grpc("RESOURCE_EXHAUSTED", "slow down", 9.5)
    assert (throttle.verdict, throttle.retry_after_s) == (Verdict.RETRY, 9.5)
    other = grpc("RESOURCE_EXHAUSTED", "grpc: received message larger than max")
    assert (other.verdict, other.needs_sibling, other.tries) == (Verdict.HALVE, True, 1)


def test_retry_info_of_zero_seconds_is_still_a_throttle() -> None:
    """Zero is a time; only its absence is not."""
    assert grpc("RESOURCE_EXHAUSTED", "", 0.0).verdict is Verdict.RETRY


@pytest.mark.parametrize(("asked_s", "wait_s"), [(-1.0, 0.0), (5.0, 5.0), (1e9, 3600.0)])
def test_retry_info_is_at_most_an_hour(asked_s: float, wait_s: float) -> None:
    """As Retry-After."""
    assert grpc("UNAVAILABLE", "", asked_s).retry_after_s == wait_s


def test_unknown_is_halved_at_the_third_try_and_internal_at_the_first() -> None:
    """UNKNOWN is a later hop's 500; INTERNAL is a Collector's answer to bad protobuf."""
    assert (grpc("UNKNOWN").tries, grpc("UNKNOWN").needs_sibling) == (3, True)
    assert (grpc("INTERNAL").tries, grpc("INTERNAL").needs_sibling) == (1, True)
    assert not grpc("INVALID_ARGUMENT").needs_sibling


@pytest.mark.parametrize(
    ("details", "code"),
    [
        (f"{NO_CHANNEL}ipv4:127.0.0.1:1: Failed to connect to remote host: Connection refused",
         "connection refused"),
        ("errors resolving nowhere.invalid:4317: [field:hostname lookup error:...]",
         "name not resolved"),
        ("DNS resolution failed for nowhere.invalid:4317: C-ares status is not ARES_SUCCESS",
         "name not resolved"),
        (f"{NO_CHANNEL}Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL",
         "tls handshake"),
        (f"{NO_CHANNEL}Network is unreachable", "no connection"),
    ],
)
def test_no_connection_over_grpc_is_not_ambiguous(details: str, code: str) -> None:
    """The texts are gRPC's own client's; nothing was sent."""
    outcome = grpc("UNAVAILABLE", details)
    assert (outcome.verdict, outcome.code) == (Verdict.RETRY, code)
    assert not outcome.ambiguous


def test_a_collector_that_is_unavailable_is_ambiguous() -> None:
    """Another branch of its pipeline may have taken the records. Negative control."""
    outcome = grpc("UNAVAILABLE", "sending queue is full")
    assert (outcome.verdict, outcome.ambiguous) == (Verdict.RETRY, True)
    assert grpc("UNAVAILABLE", "Socket closed").ambiguous


@pytest.mark.parametrize(
    ("code", "details"),
    [
        ("UNAVAILABLE", f"{NO_CHANNEL}Failed parsing HTTP/2 (Expected SETTINGS frame as the first"),
        ("UNAVAILABLE", f"{NO_CHANNEL}Trying to connect an http1.x server (HTTP status 400)"),
        ("UNKNOWN", "Received http2 header with status: 415"),
        ("UNIMPLEMENTED", "Received http2 header with status: 404"),
        ("INTERNAL", "unexpected HTTP status code received from server: 400 (Bad Request)"),
    ],
)
def test_grpc_spoken_to_a_server_of_http_holds_and_says_so(code: str, details: str) -> None:
    """Waiting does not cure it, and no record is at fault."""
    outcome = grpc(code, details)
    assert outcome.verdict is Verdict.HOLD
    assert "4317" in outcome.hint


# -- no answer ----------------------------------------------------------------


def test_every_kind_of_failure_is_judged() -> None:
    """None is forgotten, and none is called a delivery or a fault of a record."""
    for kind in FailureKind:
        outcome = judge_failure(kind, "why")
        assert outcome.verdict in (Verdict.RETRY, Verdict.HOLD), kind
        assert (outcome.code, outcome.message) == (kind.value, "why")


def test_a_failure_is_ambiguous_exactly_if_something_may_have_been_sent() -> None:
    """Promise 3 counts on it."""
    ambiguous = {kind for kind in FailureKind if judge_failure(kind, "").ambiguous}
    assert ambiguous == {
        FailureKind.TIMEOUT, FailureKind.DISCONNECTED, FailureKind.NOT_HTTP, FailureKind.UNEXPECTED,
    }
