"""What an answer means: from a status to what happens to the batch.

One pure table each for HTTP, gRPC and the network. Nothing else in the package
decides whether something is tried again: an ``except`` turns an exception into a
``FailureKind`` and the table judges it. The rationale stands beside each row.

Sources: OTLP 1.x, "Failures", "OTLP/gRPC Throttling" and "OTLP/HTTP Response"; RFC 9110
for the statuses and ``Retry-After``; what a Collector 0.155 was seen to answer. We
differ from OTLP in one way: where it says that a client drops what it must not retry,
we keep it (hold) or find the record that is at fault (halve).
"""

from __future__ import annotations

import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from otel_memoir.delivery.partial import (
    PartialSuccess,
    clamped,
    read_json,
    read_protobuf,
    read_retry_after,
    read_status_message,
    tidy,
)


class Verdict(enum.Enum):
    """What the courier does next with the batch that was sent."""

    DELIVERED = "delivered"
    """The first hop took it, less ``rejected`` of its records."""

    RETRY = "retry"
    """Trouble that time may cure: wait, then send the same bytes again."""

    HOLD = "hold"
    """Trouble that only a person can cure: stop sending, drop nothing, probe."""

    HALVE = "halve"
    """The request itself is at fault: send its halves."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The judged result of one attempt to send one request.

    Attributes:
        verdict: What the courier does next.

        code: The answer in a word or two: ``http 503``, ``grpc UNAVAILABLE``,
            ``connection refused``.

        message: What the server (or the network) said, at most 500 characters.

        hint: What a person can do about it; empty where nothing is to be done.

        retry_after_s: The least wait the server asked for (Retry-After, RetryInfo).

        rejected: Records of a delivered request that the server said it did not take.

        ambiguous: The server may have taken the request although no plain OK came
            back; if it is sent again, its records can arrive twice.

        needs_sibling: One delivery of another record and an empty probe are no proof
            against a single record here, since the same code is also given for trouble
            that comes and goes (throttling, a full queue): it takes several deliveries.

        tries: How many times in a row a batch is retried before this verdict is
            acted upon (500 and UNKNOWN are halved only at the third try).
    """

    verdict: Verdict
    code: str
    message: str = ""
    hint: str = ""
    retry_after_s: float | None = None
    rejected: int = 0
    ambiguous: bool = False
    needs_sibling: bool = False
    tries: int = 1


class FailureKind(enum.Enum):
    """How an attempt can end without an answer. The value is the outcome's code."""

    REFUSED = "connection refused"
    NAME = "name not resolved"
    UNREACHABLE = "no connection"
    CONNECT_TIMEOUT = "connection timeout"
    PROXY_CREDENTIALS = "proxy 407"
    TLS = "tls handshake"
    TIMEOUT = "timeout"
    DISCONNECTED = "disconnected"
    NOT_HTTP = "not an http answer"
    GRPC_PORT = "http to a grpc port"
    UNUSABLE = "unusable destination"
    CLOSED = "sender closed"
    UNEXPECTED = "sending failed"


@dataclass(frozen=True)
class _Rule:
    verdict: Verdict
    hint: str = ""
    ambiguous: bool = False
    needs_sibling: bool = False
    tries: int = 1


_WRONG_PATH = (
    "The server has no logs pipeline, or the path is wrong: a Collector takes logs at /v1/logs "
    "once its configuration has a logs pipeline with an otlp receiver. Check "
    "OTEL_EXPORTER_OTLP_ENDPOINT and OTEL_EXPORTER_OTLP_LOGS_ENDPOINT (used as it is)."
)
_CREDENTIALS = (
    "The credentials are missing, wrong or out of date: check OTEL_EXPORTER_OTLP_HEADERS and "
    "OTEL_EXPORTER_OTLP_LOGS_HEADERS. A Collector also passes on what a later hop says."
)
_FORBIDDEN = (
    "The credentials are known but may not write logs here, or a later hop said so: give them "
    "the right to write, or use others."
)
_REFUSED = (
    "A record, or every record, is refused by the server or by a hop behind it: the message says "
    "why."
)
_ENDPOINT = (
    "Something other than an OTLP receiver answered (a proxy, a login page, a web site): check "
    "the host, port and path of OTEL_EXPORTER_OTLP_(LOGS_)ENDPOINT."
)
_TO_HTTP_PORT = (
    "gRPC was spoken to a server that does not speak it: use the gRPC port (usually 4317), or "
    "set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf."
)
_TO_GRPC_PORT = (
    "HTTP was spoken to a gRPC port: use the HTTP port (usually 4318), or set "
    "OTEL_EXPORTER_OTLP_PROTOCOL=grpc."
)
_PROXY = (
    "The proxy wants credentials: put them into HTTPS_PROXY or HTTP_PROXY, or exempt the host "
    "with NO_PROXY."
)
_NEEDS_TLS = "The port expects TLS: write https:// in the endpoint."
_TLS = (
    "Check that the port speaks TLS, OTEL_EXPORTER_OTLP_CERTIFICATE (the CA), and the client's "
    "certificate and key."
)

# Never taken: the server said so before it looked at the records, or it said that it
# will take the same bytes later.
_LATER = _Rule(Verdict.RETRY)
# A gateway or a server in trouble can answer after the request went on.
_LATER_AMBIGUOUS = _Rule(Verdict.RETRY, ambiguous=True)
# A server's bug, or an agent without a queue that passes on a later hop's "too large"
# (a Collector turns a later 302, 413 and 500 into this). Hence three tries before the
# batch is blamed, and only a sibling's delivery as proof: an empty probe goes no further
# than the first hop.
_AT_FAULT_AT_LAST = _Rule(Verdict.HALVE, ambiguous=True, needs_sibling=True, tries=3)

_HTTP: Mapping[int, _Rule] = {
    # Bad protobuf, and in a Collector also "request body too large", or what the hop behind
    # it said: of records, while it answers an empty request by itself.
    400: _Rule(Verdict.HALVE, _REFUSED),
    413: _Rule(Verdict.HALVE, _REFUSED),
    401: _Rule(Verdict.HOLD, _CREDENTIALS),
    403: _Rule(Verdict.HOLD, _FORBIDDEN),
    404: _Rule(Verdict.HOLD, _WRONG_PATH),
    405: _Rule(Verdict.HOLD, "The path exists but takes no POST, so it is no OTLP receiver. "
               + _WRONG_PATH),
    407: _Rule(Verdict.HOLD, _PROXY),
    # The server gave up waiting for the request (RFC 9110, 15.5.9), so it has not taken it.
    408: _LATER,
    415: _Rule(Verdict.HOLD, "The server does not take application/x-protobuf, or not in this "
               "compression: point the endpoint at an OTLP/HTTP receiver, or set "
               "OTEL_EXPORTER_OTLP_COMPRESSION=none."),
    429: _LATER,
    500: _AT_FAULT_AT_LAST,
    501: _Rule(Verdict.HOLD, "The server does not know POST here, so it is no OTLP receiver. "
               + _WRONG_PATH, ambiguous=True),
    502: _LATER_AMBIGUOUS,
    503: _LATER_AMBIGUOUS,
    504: _LATER_AMBIGUOUS,
}
_REDIRECT = _Rule(Verdict.HOLD, "The server points elsewhere, and records are not sent to an "
                  "address that nobody configured: set the endpoint to the new address if it is "
                  "right.")
# Whatever else a client is blamed for, the same bytes will not be taken, but nobody
# knows that a record is at fault: keep everything.
_OTHER_4XX = _Rule(Verdict.HOLD, "The server refuses the request as it is: its message says why. "
                   + _ENDPOINT)
_NO_ANSWER_CLASS = _Rule(Verdict.HOLD, _ENDPOINT, ambiguous=True)

_GRPC: Mapping[str, _Rule] = {
    # OTLP's table of retryable codes. Each can be said after the records went on.
    "CANCELLED": _LATER_AMBIGUOUS,
    "DEADLINE_EXCEEDED": _LATER_AMBIGUOUS,
    "ABORTED": _LATER_AMBIGUOUS,
    "OUT_OF_RANGE": _LATER_AMBIGUOUS,
    "UNAVAILABLE": _LATER_AMBIGUOUS,
    "DATA_LOSS": _LATER_AMBIGUOUS,
    # Too large for the first hop, or throttled further down: a Collector gives both without
    # details. In the second case another branch of its pipeline may have taken the batch.
    "RESOURCE_EXHAUSTED": _Rule(Verdict.HALVE, ambiguous=True, needs_sibling=True),
    "INVALID_ARGUMENT": _Rule(Verdict.HALVE, _REFUSED),
    # A Collector's answer to bytes it cannot parse, but also any server's bug.
    "INTERNAL": _Rule(Verdict.HALVE, ambiguous=True, needs_sibling=True),
    "UNKNOWN": _AT_FAULT_AT_LAST,
    "UNAUTHENTICATED": _Rule(Verdict.HOLD, _CREDENTIALS),
    "PERMISSION_DENIED": _Rule(Verdict.HOLD, _FORBIDDEN),
    "UNIMPLEMENTED": _Rule(Verdict.HOLD, "The server has no logs pipeline (a Collector needs one "
                           "with an otlp receiver), does not know the compression (set "
                           "OTEL_EXPORTER_OTLP_COMPRESSION=none), or is no OTLP receiver."),
    "NOT_FOUND": _Rule(Verdict.HOLD, _WRONG_PATH),
}
# FAILED_PRECONDITION, ALREADY_EXISTS, and what a later gRPC may add: OTLP calls them not
# retryable, and none of them says that a record is at fault.
_OTHER_GRPC = _Rule(Verdict.HOLD, "The server refuses the request as it is: its message says why.",
                    ambiguous=True)

_FAILURES: Mapping[FailureKind, _Rule] = {
    # No connection was made, so nothing was sent.
    FailureKind.REFUSED: _Rule(Verdict.RETRY, "Nothing listens at this address: check that the "
                               "server runs, and the port."),
    FailureKind.NAME: _Rule(Verdict.RETRY, "Check the host name in the endpoint, and the name "
                            "server."),
    FailureKind.UNREACHABLE: _Rule(Verdict.RETRY, "Check the endpoint, the network and the proxy "
                                   "settings."),
    FailureKind.CONNECT_TIMEOUT: _Rule(Verdict.RETRY, "Check the endpoint and the firewall."),
    FailureKind.PROXY_CREDENTIALS: _Rule(Verdict.HOLD, _PROXY),
    # A certificate may be renewed any minute: time may cure it. The request goes after it.
    FailureKind.TLS: _Rule(Verdict.RETRY, _TLS),
    # The request, or part of it, had left: the server may have all of it.
    FailureKind.TIMEOUT: _LATER_AMBIGUOUS,
    FailureKind.DISCONNECTED: _LATER_AMBIGUOUS,
    FailureKind.NOT_HTTP: _Rule(Verdict.HOLD, _ENDPOINT, ambiguous=True),
    # HTTP/1 bytes are no HTTP/2 preface (RFC 9113, 3.4): the server took nothing.
    FailureKind.GRPC_PORT: _Rule(Verdict.HOLD, _TO_GRPC_PORT),
    FailureKind.UNUSABLE: _Rule(Verdict.HOLD, "Check the endpoint, the headers and the "
                                "certificate files."),
    FailureKind.CLOSED: _LATER,
    # We do not know where it broke, so we do not claim that nothing was sent.
    FailureKind.UNEXPECTED: _LATER_AMBIGUOUS,
}

# What gRPC's own client says when it got no connection: (in the details, what it means).
# Seen from grpcio 1.85 ("Expected SETTINGS", "errors resolving", "Tls handshake") and
# from earlier ones ("http1.x server", "DNS resolution failed", "Ssl handshake").
_GRPC_TO_HTTP = re.compile(r"http1\.x server|Expected SETTINGS frame")
_NO_CHANNEL = r"^(?i:failed to connect to all addresses)"
_GRPC_CLIENT_FAILURES: tuple[tuple[re.Pattern[str], FailureKind], ...] = (
    (re.compile(r"errors resolving|DNS resolution failed|(?i:name resolution fail)"),
     FailureKind.NAME),
    (re.compile(_NO_CHANNEL + r".*(?i:handshake failed|selected ALPN|certificate)", re.DOTALL),
     FailureKind.TLS),
    (re.compile(_NO_CHANNEL + r".*(?i:connection refused)", re.DOTALL), FailureKind.REFUSED),
    (re.compile(_NO_CHANNEL), FailureKind.UNREACHABLE),
)
# gRPC's client turns the HTTP status of a server that speaks HTTP/2 but not gRPC into
# UNKNOWN, INTERNAL, UNIMPLEMENTED ... with this text (gRPC's doc/http-grpc-status-mapping.md).
_GRPC_GOT_HTTP = re.compile(r"received http2 header with status|unexpected http status|"
                            r"invalid content-type|content-type.{0,20}text/html", re.IGNORECASE)
_HTTP_TO_HTTPS = re.compile(rb"HTTP request.{0,20}to an? HTTPS|plain HTTP request", re.IGNORECASE)
_HTML = re.compile(rb"\s*(?:<!--.{0,400}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b",
                   re.IGNORECASE | re.DOTALL)


# -- HTTP ---------------------------------------------------------------------


def judge_http(
    status: int, headers: Mapping[str, str], body: bytes, *, now_unix_s: float
) -> Outcome:
    """Judge an HTTP answer.

    Args:
        status: The status code.

        headers: The answer's headers; names in any case.

        body: The answer's body, decompressed, as much of it as was read.

        now_unix_s: The wall clock in seconds, for a ``Retry-After`` that is a date.
    """
    fields = {name.lower(): value for name, value in headers.items()}
    content_type = fields.get("content-type", "").lower()
    if 200 <= status < 300:
        return _judge_http_success(status, content_type, body)
    message = read_status_message(body, content_type)
    location = fields.get("location")
    if 300 <= status < 400 and location:
        message = f"redirected to {location}. {message}"
    outcome = _outcome(_http_rule(status, body), f"http {status}", message)
    if outcome.verdict is not Verdict.RETRY:
        return outcome
    return replace(outcome, retry_after_s=read_retry_after(fields.get("retry-after"), now_unix_s))


def _http_rule(status: int, body: bytes) -> _Rule:
    if status == 400 and _HTTP_TO_HTTPS.search(body[:1000]):
        # Go's and nginx's answer to plain HTTP on a TLS port. Halving would take every batch
        # apart for what is one wrong letter in the endpoint.
        return _Rule(Verdict.HOLD, _NEEDS_TLS)
    if status in _HTTP:
        return _HTTP[status]
    if 300 <= status < 400:
        return _REDIRECT
    if 400 <= status < 500:
        return _OTHER_4XX
    return _AT_FAULT_AT_LAST if 500 <= status < 600 else _NO_ANSWER_CLASS


def _judge_http_success(status: int, content_type: str, body: bytes) -> Outcome:
    code = f"http {status}"
    if "html" in content_type or _HTML.match(body):
        # A login page or a captive portal says 200 to everything. The stock exporters
        # take this for success; the records would be gone.
        rule = _Rule(Verdict.HOLD, _ENDPOINT, ambiguous=True)
        return _outcome(rule, code, "an HTML page: " + body[:2000].decode("utf-8", "replace"))
    if not body:
        return _delivered(code, PartialSuccess())
    as_json = "json" in content_type or body.lstrip()[:1] == b"{"
    partial = read_json(body) if as_json else read_protobuf(body)
    if partial is not None and (as_json or "text/" not in content_type):
        return _delivered(code, partial)
    return _delivered_opaquely(code, content_type, body)


def _delivered_opaquely(code: str, content_type: str, body: bytes) -> Outcome:
    """The status says taken and the body cannot be read.

    This holds for a broken protobuf body too. The body could only have said that some
    records were rejected, which is never resent; a retry would get the same body from
    the same server each time, and all records would arrive again and again.
    """
    kind = content_type or "no content type"
    return Outcome(
        verdict=Verdict.DELIVERED, code=code, message=tidy(body[:2000].decode("utf-8", "replace")),
        hint=f"The server said {code} with a body that is no OTLP response ({kind}), so rejected "
        "records would go unnoticed: check that the endpoint is an OTLP receiver.",
    )


# -- gRPC ---------------------------------------------------------------------


def judge_grpc(
    code_name: str, details: str, retry_info_s: float | None, response: bytes | None
) -> Outcome:
    """Judge a gRPC answer, or what gRPC's client says in its place.

    Args:
        code_name: The status by name: ``OK``, ``UNAVAILABLE``.

        details: The status message.

        retry_info_s: The wait that ``google.rpc.RetryInfo`` asks for, in seconds.

        response: The response message's bytes, where the status is ``OK``.
    """
    code = f"grpc {code_name}"
    if code_name == "OK":
        return _judge_grpc_success(code, response or b"")
    if code_name == "UNAVAILABLE" and (outcome := _without_connection(code, details)):
        return outcome
    outcome = _outcome(_grpc_rule(code_name, details, retry_info_s), code, details)
    if outcome.verdict is not Verdict.RETRY or retry_info_s is None:
        return outcome
    return replace(outcome, retry_after_s=clamped(retry_info_s))


def _judge_grpc_success(code: str, response: bytes) -> Outcome:
    partial = read_protobuf(response)
    if partial is None:
        return _delivered_opaquely(code, "gRPC", response)
    return _delivered(code, partial)


def _without_connection(code: str, details: str) -> Outcome | None:
    if _GRPC_TO_HTTP.search(details):
        # The client waits for the server's SETTINGS before it sends a request.
        return _outcome(_Rule(Verdict.HOLD, _TO_HTTP_PORT), code, details)
    for pattern, kind in _GRPC_CLIENT_FAILURES:
        if pattern.search(details):
            return judge_failure(kind, details)
    return None


def _grpc_rule(code_name: str, details: str, retry_info_s: float | None) -> _Rule:
    if code_name in ("UNKNOWN", "INTERNAL", "UNIMPLEMENTED") and _GRPC_GOT_HTTP.search(details):
        return _Rule(Verdict.HOLD, _TO_HTTP_PORT, ambiguous=True)
    if code_name == "INTERNAL" and details == "Invalid metadata":
        # Said by our own client before anything is sent.
        return _FAILURES[FailureKind.UNUSABLE]
    if code_name == "RESOURCE_EXHAUSTED" and retry_info_s is not None:
        # OTLP: only RetryInfo makes it a throttle.
        return _LATER_AMBIGUOUS
    return _GRPC.get(code_name, _OTHER_GRPC)


# -- the network --------------------------------------------------------------


def judge_failure(kind: FailureKind, message: str) -> Outcome:
    """Judge an attempt that ended without an answer.

    Args:
        kind: How it ended.

        message: What the network or the library said.
    """
    return _outcome(_FAILURES[kind], kind.value, message)


# -- parts --------------------------------------------------------------------


def _outcome(rule: _Rule, code: str, message: str) -> Outcome:
    return Outcome(
        verdict=rule.verdict, code=code, message=tidy(message), hint=rule.hint,
        ambiguous=rule.ambiguous, needs_sibling=rule.needs_sibling, tries=rule.tries,
    )


def _delivered(code: str, partial: PartialSuccess) -> Outcome:
    # A message beside zero rejected records is a warning (OTLP, "Partial Success").
    warning = "" if partial.rejected else partial.message
    return Outcome(
        verdict=Verdict.DELIVERED, code=code, message=tidy(partial.message),
        hint=f"The server took all records and warns: {tidy(warning)}" if warning else "",
        rejected=partial.rejected,
    )
