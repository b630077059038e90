"""A destination that answers as told, judged by the product's own outcome table."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from otel_memoir.delivery import wire
from otel_memoir.delivery.dispatch import STREAM_HEADER
from otel_memoir.delivery.judge import judge_failure, judge_grpc, judge_http
from otel_memoir.delivery.outcome import FailureKind, Outcome, Verdict
from otel_memoir.testing import Answer

_STAMP = re.compile(rb"#(\w+)\.(\d+)\.(\d+)\.(\d+)#$")


class Killed(BaseException):
    """The process died at this point."""


class Key(NamedTuple):
    """The name of a record for the world."""

    stream_id: str
    epoch: int
    sequence: int


class Arrived(NamedTuple):
    """A record as it is in a request or in a row."""

    key: Key
    unix_ns: int
    payload: bytes
    stamp: bytes


def read_stamped(stamped: bytes) -> Arrived:
    """Take a stamped payload apart."""
    found = _STAMP.search(stamped)
    assert found is not None, f"a payload without a stamp: {stamped[-80:]!r}"
    key = Key(found.group(1).decode(), int(found.group(2)), int(found.group(3)))
    return Arrived(key, int(found.group(4)), stamped[: found.start()], found.group(0))


def read_request(request: bytes) -> list[Arrived]:
    """The records of a request, in order; the envelopes of the model are empty."""
    scopes = [scope for resource in _fields(request, 0x0A) for scope in _fields(resource, 0x12)]
    return [read_stamped(record) for scope in scopes for record in _fields(scope, 0x12)]


def _fields(data: bytes, tag: int) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        assert data[at] == tag, f"tag {data[at]:#x} where {tag:#x} belongs"
        size, at = wire.read_varint(data, at + 1)
        found.append(data[at : at + size])
        at += size
    return found


def _http(status: int, body: bytes = b"", **headers: str) -> Outcome:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return judge_http(status, named, body, now_unix_s=0.0)


class Reply(NamedTuple):
    """How a request is answered."""

    outcome: Callable[[], Outcome]
    takes: bool = False


REPLIES: Mapping[str, Reply] = {
    "ok": Reply(lambda: _http(200), takes=True),
    "one rejected": Reply(
        lambda: _http(200, Answer(rejected=1, message="too old").content()), takes=True
    ),
    "all rejected": Reply(
        lambda: _http(200, Answer(rejected=10**6, message="no").content()), takes=True
    ),
    "throttled": Reply(lambda: _http(429)),
    "come back later": Reply(lambda: _http(429, retry_after="20")),
    "unavailable": Reply(lambda: _http(503)),
    "not reached": Reply(lambda: judge_failure(FailureKind.REFUSED, "")),
    "dropped after taking": Reply(
        lambda: judge_failure(FailureKind.DISCONNECTED, ""), takes=True
    ),
    "no answer in time": Reply(lambda: judge_failure(FailureKind.TIMEOUT, "")),
    "credentials refused": Reply(lambda: _http(401)),
    "a login page": Reply(lambda: _http(200, b"<html>", content_type="text/html")),
    "too large": Reply(lambda: _http(413)),
    "server error": Reply(lambda: _http(500)),
    "exhausted further down": Reply(lambda: judge_grpc("RESOURCE_EXHAUSTED", "", None, None)),
}
"""One or more of every row of the outcome table."""

POISONED = Reply(lambda: _http(400, b"cannot parse"))


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """One request and how it ended; without an outcome the sender died."""

    process: int
    request: bytes
    records: tuple[Arrived, ...]
    taken: tuple[Arrived, ...]
    outcome: Outcome | None
    at_s: float


@dataclass
class Destination:
    """The server of all processes.

    Attributes:
        reply: The name of the next answer, or ``dies before`` and ``dies after``: the
            sending process is killed before, or after, the server took the request.

        answers_probe: Whether an empty request is taken while records are refused.
    """

    monotonic_s: Callable[[], float]
    reply: str = "ok"
    answers_probe: bool = True
    attempts: list[Attempt] = field(default_factory=list)
    on_attempt: Callable[[Attempt], None] = lambda attempt: None

    def receive(self, process: int, request: bytes, headers: Mapping[str, str]) -> Outcome:
        """Answer a request, and remember it."""
        records = tuple(read_request(request))
        streams = {record.key.stream_id for record in records}
        assert streams in (set(), {headers.get(STREAM_HEADER)}), "one request, several streams"
        reply = self._reply(records)
        outcome = reply.outcome() if reply else None
        taken = self._taken(records, reply, outcome)
        attempt = Attempt(
            process=process, request=request, records=records, taken=taken, outcome=outcome,
            at_s=self.monotonic_s(),
        )
        self.attempts.append(attempt)
        self.on_attempt(attempt)
        if outcome is None:
            raise Killed
        return outcome

    def _reply(self, records: tuple[Arrived, ...]) -> Reply | None:
        if self.reply.startswith("dies"):
            return None
        reply = REPLIES[self.reply]
        if not records:
            return REPLIES["ok" if self.answers_probe else "unavailable"]
        is_poisoned = any(record.payload.startswith(b"<poison") for record in records)
        return POISONED if is_poisoned and reply.takes else reply

    def _taken(
        self, records: tuple[Arrived, ...], reply: Reply | None, outcome: Outcome | None
    ) -> tuple[Arrived, ...]:
        takes = self.reply == "dies after" if reply is None else reply.takes
        if not takes:
            return ()
        rejected = outcome.rejected if outcome else 0
        return records[: max(0, len(records) - rejected)]


class ProcessSender:
    """The sender of one process.

    Args:
        before_answer: What the process does while a request is in flight.
    """

    def __init__(
        self, destination: Destination, process: int, *, before_answer: Callable[[], None]
    ) -> None:
        self._destination = destination
        self._process = process
        self._before_answer = before_answer

    def send(
        self, request: bytes, *, headers: Mapping[str, str], timeout: float | None = None
    ) -> Outcome:
        """Send to the destination."""
        self._before_answer()
        return self._destination.receive(self._process, request, headers)

    def close(self) -> None:
        """Nothing to close."""

    def forget(self) -> None:
        """Nothing to let go of."""


def is_delivered(attempt: Attempt) -> bool:
    """Whether the answer was a plain success."""
    return attempt.outcome is not None and attempt.outcome.verdict is Verdict.DELIVERED
