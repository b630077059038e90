"""The table of answers: what each one means, as data. The reason stands beside each row.

One table each for HTTP, gRPC and the network. Nothing else in the package decides
whether something is tried again.

Sources: OTLP 1.x, "Failures", "OTLP/gRPC Throttling" and "OTLP/HTTP Response"; RFC 9110
for the statuses; what a Collector 0.155 was seen to answer. We differ from OTLP in one
way: where it says that a client drops what it must not retry, we keep it (hold) or find
the record that is at fault (halve).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from otel_memoir.delivery.outcome import FailureKind, Verdict


@dataclass(frozen=True)
class Rule:
    """What an answer means; the fields are those of ``Outcome``."""

    verdict: Verdict
    hint: str = ""
    ambiguous: bool = False
    needs_sibling: bool = False
    tries: int = 1
    is_too_large: bool = False


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
ENDPOINT = (
    "Something other than an OTLP receiver answered (a proxy, a login page, a web site): check "
    "the host, port and path of OTEL_EXPORTER_OTLP_(LOGS_)ENDPOINT."
)
TO_HTTP_PORT = (
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
NEEDS_TLS = "The port expects TLS: write https:// in the endpoint."
_TLS = (
    "Check that the port speaks TLS, OTEL_EXPORTER_OTLP_CERTIFICATE (the CA), and the client's "
    "certificate and key."
)

# Never taken: the server said so before it looked at the records, or it said that it
# will take the same bytes later.
_LATER = Rule(Verdict.RETRY)
# A gateway or a server in trouble can answer after the request went on.
LATER_AMBIGUOUS = Rule(Verdict.RETRY, ambiguous=True)
# A server's bug, or an agent without a queue that passes on a later hop's "too large"
# (a Collector turns a later 302, 413 and 500 into this). Hence three tries before the
# batch is blamed, and only a sibling's delivery as proof: an empty probe goes no further
# than the first hop.
AT_FAULT_AT_LAST = Rule(Verdict.HALVE, ambiguous=True, needs_sibling=True, tries=3)

HTTP: Mapping[int, Rule] = {
    # Bad protobuf, and in a Collector also "request body too large", or what the hop behind
    # it said: of records, while it answers an empty request by itself.
    400: Rule(Verdict.HALVE, _REFUSED),
    413: Rule(Verdict.HALVE, _REFUSED, is_too_large=True),
    401: Rule(Verdict.HOLD, _CREDENTIALS),
    403: Rule(Verdict.HOLD, _FORBIDDEN),
    404: Rule(Verdict.HOLD, _WRONG_PATH),
    405: Rule(Verdict.HOLD, "The path exists but takes no POST, so it is no OTLP receiver. "
               + _WRONG_PATH),
    407: Rule(Verdict.HOLD, _PROXY),
    # The server gave up waiting for the request (RFC 9110, 15.5.9), so it has not taken it.
    408: _LATER,
    415: Rule(Verdict.HOLD, "The server does not take application/x-protobuf, or not in this "
               "compression: point the endpoint at an OTLP/HTTP receiver, or set "
               "OTEL_EXPORTER_OTLP_COMPRESSION=none."),
    429: _LATER,
    500: AT_FAULT_AT_LAST,
    501: Rule(Verdict.HOLD, "The server does not know POST here, so it is no OTLP receiver. "
               + _WRONG_PATH, ambiguous=True),
    502: LATER_AMBIGUOUS,
    503: LATER_AMBIGUOUS,
    504: LATER_AMBIGUOUS,
}
REDIRECT = Rule(Verdict.HOLD, "The server points elsewhere, and records are not sent to an "
                  "address that nobody configured: set the endpoint to the new address if it is "
                  "right.")
# Whatever else a client is blamed for, the same bytes will not be taken, but nobody
# knows that a record is at fault: keep everything.
OTHER_4XX = Rule(Verdict.HOLD, "The server refuses the request as it is: its message says why. "
                   + ENDPOINT)
NO_ANSWER_CLASS = Rule(Verdict.HOLD, ENDPOINT, ambiguous=True)

GRPC: Mapping[str, Rule] = {
    # OTLP's table of retryable codes. Each can be said after the records went on.
    "CANCELLED": LATER_AMBIGUOUS,
    "DEADLINE_EXCEEDED": LATER_AMBIGUOUS,
    "ABORTED": LATER_AMBIGUOUS,
    "OUT_OF_RANGE": LATER_AMBIGUOUS,
    "UNAVAILABLE": LATER_AMBIGUOUS,
    "DATA_LOSS": LATER_AMBIGUOUS,
    # Too large for the first hop, or throttled further down: a Collector gives both without
    # details. In the second case another branch of its pipeline may have taken the batch.
    "RESOURCE_EXHAUSTED": Rule(
        Verdict.HALVE, ambiguous=True, needs_sibling=True, is_too_large=True
    ),
    "INVALID_ARGUMENT": Rule(Verdict.HALVE, _REFUSED),
    # A Collector's answer to bytes it cannot parse, but also any server's bug.
    "INTERNAL": Rule(Verdict.HALVE, ambiguous=True, needs_sibling=True),
    "UNKNOWN": AT_FAULT_AT_LAST,
    "UNAUTHENTICATED": Rule(Verdict.HOLD, _CREDENTIALS),
    "PERMISSION_DENIED": Rule(Verdict.HOLD, _FORBIDDEN),
    "UNIMPLEMENTED": Rule(Verdict.HOLD, "The server has no logs pipeline (a Collector needs one "
                           "with an otlp receiver), does not know the compression (set "
                           "OTEL_EXPORTER_OTLP_COMPRESSION=none), or is no OTLP receiver."),
    "NOT_FOUND": Rule(Verdict.HOLD, _WRONG_PATH),
}
# FAILED_PRECONDITION, ALREADY_EXISTS, and what a later gRPC may add: OTLP calls them not
# retryable, and none of them says that a record is at fault.
OTHER_GRPC = Rule(Verdict.HOLD, "The server refuses the request as it is: its message says why.",
                    ambiguous=True)

FAILURES: Mapping[FailureKind, Rule] = {
    # No connection was made, so nothing was sent.
    FailureKind.REFUSED: Rule(Verdict.RETRY, "Nothing listens at this address: check that the "
                               "server runs, and the port."),
    FailureKind.NAME: Rule(Verdict.RETRY, "Check the host name in the endpoint, and the name "
                            "server."),
    FailureKind.UNREACHABLE: Rule(Verdict.RETRY, "Check the endpoint, the network and the proxy "
                                   "settings."),
    FailureKind.CONNECT_TIMEOUT: Rule(Verdict.RETRY, "Check the endpoint and the firewall."),
    FailureKind.PROXY_CREDENTIALS: Rule(Verdict.HOLD, _PROXY),
    # A certificate may be renewed any minute: time may cure it. The request goes after it.
    FailureKind.TLS: Rule(Verdict.RETRY, _TLS),
    # The request, or part of it, had left: the server may have all of it.
    FailureKind.TIMEOUT: LATER_AMBIGUOUS,
    FailureKind.DISCONNECTED: LATER_AMBIGUOUS,
    FailureKind.NOT_HTTP: Rule(Verdict.HOLD, ENDPOINT, ambiguous=True),
    # HTTP/1 bytes are no HTTP/2 preface (RFC 9113, 3.4): the server took nothing.
    FailureKind.GRPC_PORT: Rule(Verdict.HOLD, _TO_GRPC_PORT),
    FailureKind.UNUSABLE: Rule(Verdict.HOLD, "Check the endpoint, the headers and the "
                                "certificate files."),
    FailureKind.CLOSED: _LATER,
    # We do not know where it broke, so we do not claim that nothing was sent.
    FailureKind.UNEXPECTED: LATER_AMBIGUOUS,
}

# What gRPC's own client says when it got no connection: (in the details, what it means).
# Seen from grpcio 1.85 ("Expected SETTINGS", "errors resolving", "Tls handshake") and
# from earlier ones ("http1.x server", "DNS resolution failed", "Ssl handshake").
GRPC_TO_HTTP = re.compile(r"http1\.x server|Expected SETTINGS frame")
_NO_CHANNEL = r"^(?i:failed to connect to all addresses)"
GRPC_CLIENT_FAILURES: tuple[tuple[re.Pattern[str], FailureKind], ...] = (
    (re.compile(r"errors resolving|DNS resolution failed|(?i:name resolution fail)"),
     FailureKind.NAME),
    (re.compile(_NO_CHANNEL + r".*(?i:handshake failed|selected ALPN|certificate)", re.DOTALL),
     FailureKind.TLS),
    (re.compile(_NO_CHANNEL + r".*(?i:connection refused)", re.DOTALL), FailureKind.REFUSED),
    (re.compile(_NO_CHANNEL), FailureKind.UNREACHABLE),
)
# gRPC's client turns the HTTP status of a server that speaks HTTP/2 but not gRPC into
# UNKNOWN, INTERNAL, UNIMPLEMENTED ... with this text (gRPC's doc/http-grpc-status-mapping.md).
GRPC_GOT_HTTP = re.compile(r"received http2 header with status|unexpected http status|"
                            r"invalid content-type|content-type.{0,20}text/html", re.IGNORECASE)
HTTP_TO_HTTPS = re.compile(rb"HTTP request.{0,20}to an? HTTPS|plain HTTP request", re.IGNORECASE)
# A Collector's 400 for what other servers call 413: "http: request body too large" (Go's).
TOO_LARGE = re.compile(r"(?:body|request|message|payload)\b.{0,40}\b(?:too large|larger than)",
                        re.IGNORECASE)
HTML = re.compile(rb"\s*(?:<!--.{0,400}?-->\s*)?<(?:!doctype\s+html|html|head|body)\b",
                   re.IGNORECASE | re.DOTALL)
