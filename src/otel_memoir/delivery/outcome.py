"""What came of an attempt: the values that the table of answers speaks in."""

from __future__ import annotations

import enum
from dataclasses import dataclass


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

        is_too_large: The request's size may be what is wrong with it, and not a record.
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
    is_too_large: bool = False


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
