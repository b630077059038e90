"""NTP servers as a source: RFC 5905's checks, a random cookie, signatures, kernel stamps."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from otel_memoir.clock.options import DEFAULT_OPTIONS, SourceOptions
from otel_memoir.clock.sample import Sample
from otel_memoir.clock.sources.exchange import Asking, Clocks, Exchange
from otel_memoir.clock.sources.keys import Key
from otel_memoir.clock.sources.pace import PUBLIC_MIN_S, Pace
from otel_memoir.clock.sources.packet import (
    PIVOT_UNIX_S,
    Measured,
    Refusal,
    Reply,
    decode,
    measure,
    refid_of,
    refusal,
    request,
)
from otel_memoir.clock.sources.resolve import Endpoint, Resolver
from otel_memoir.errors import ClockError, SettingsError

PORT = 123
BURST_MAX = 4
BURST_INTERVAL_S = 0.1
PUBLIC_BURST_INTERVAL_S = 2.0
_HINTS = {
    "timeout": "Is a server running there, and does it allow this host? A wrong key is silence.",
    "unsynchronised": "Wait until the server follows a reference clock, or take another.",
    "kod_deny": "Ask its operator, or take another server.",
    "kod_rstr": "Ask its operator, or take another server.",
    "bad_mac": "Compare the key number, kind and secret on both sides.",
    "dns_timeout": "Give the address instead of the name.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NtpDetails:
    """What the last usable answer said besides the time; shown to people.

    Attributes:
        address: Who answered.

        reply: The answer's fields.

        kernel_stamps: How many of our two times were the kernel's.

        slew_ns: By how much the wall clock gained on the ruler meanwhile.
    """

    address: str
    reply: Reply
    kernel_stamps: int
    slew_ns: int


@dataclass(slots=True)
class _Server:
    """One address of the name, and what it has forbidden."""

    endpoint: Endpoint
    denied: ClockError | None = None
    not_before_s: float = 0.0


@dataclass(slots=True)
class _Judge:
    """Decides on each datagram of one exchange; what is only noise is waited out."""

    source: str
    cookie: bytes
    key: Key | None
    dropped: Counter[str]
    last: Refusal | None = field(default=None)

    def __call__(self, data: bytes, local_address: str) -> Reply | None:
        reply = decode(data)
        noise = self._noise(data, reply)
        if noise is not None:
            self.dropped[noise.reason] += 1
            self.last = noise
            return None
        assert isinstance(reply, Reply)
        wrong = refusal(reply, refid_of(local_address))
        if wrong is not None:
            raise _error(self.source, wrong)
        return reply

    def _noise(self, data: bytes, reply: Reply | Refusal) -> Refusal | None:
        """Why this need not be from the server at all: anybody could have sent it."""
        if isinstance(reply, Refusal):
            return reply
        if reply.origin != self.cookie:
            return Refusal("bogus_origin", "it answers a question that was not asked")
        if self.key is not None and not self.key.signed(data):
            return Refusal("bad_mac", f"it is not signed with key {self.key.number}")
        return None


class NtpSource:
    """An NTP server, or all servers behind one name, one at a time.

    Used by one thread. ``failures`` counts polls that failed, by reason; ``dropped`` counts
    datagrams that were not from the server or not signed, by reason; ``stamps`` counts
    usable answers by how many of their two times were the kernel's.

    Args:
        host: Name or address, of either family. No server is asked by default.

        port: UDP port.

        key: Signs questions; only answers signed with it count.

        burst: Questions in one poll, 1 to 4; the one with the least distance counts.

        burst_interval_s: Seconds between them; by default 2 where a public address is asked,
            and 0.1 elsewhere.

        quick_start: Whether the first polls follow each other quickly (``poll_hint_s``).

        kernel_stamps: Whether the kernel's stamps are used where there are any.

        options: What it may say in the vote, and how often it is asked.

        pivot_unix_s: Of the possible eras of a timestamp, the nearest to this is meant.

        clocks: What is read; a test hands in its own.
    """

    def __init__(
        self,
        host: str,
        *,
        port: int = PORT,
        key: Key | None = None,
        burst: int = 1,
        burst_interval_s: float | None = None,
        quick_start: bool = True,
        kernel_stamps: bool = True,
        options: SourceOptions = DEFAULT_OPTIONS,
        pivot_unix_s: int = PIVOT_UNIX_S,
        clocks: Clocks | None = None,
    ) -> None:
        if not 1 <= burst <= BURST_MAX:
            raise SettingsError("set burst", target=burst, cause=f"it is not 1 to {BURST_MAX}")
        bracketed = f"[{host}]" if ":" in host else host
        self._name = f"ntp://{bracketed}:{port}"
        self.options = options
        self.failures: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()
        self.stamps: Counter[int] = Counter()
        self.last: NtpDetails | None = None
        self._key = key
        self._burst = burst
        self._burst_interval_s = burst_interval_s
        self._pivot_unix_s = pivot_unix_s
        self._pace = Pace(options.poll_min_s, options.poll_max_s, quick_start=quick_start)
        self._asking = Asking(
            source=self._name, clocks=clocks or Clocks(), kernel_stamps=kernel_stamps
        )
        self._resolver = Resolver(host, port)
        self._servers: dict[Endpoint, _Server] = {}
        self._current: Endpoint | None = None
        self._closed = threading.Event()

    @property
    def name(self) -> str:
        return self._name

    @property
    def poll_hint_s(self) -> float:
        """Seconds until it should be polled again."""
        return self._pace.seconds

    def close(self) -> None:
        """End a wait between the questions of a burst; the poll then returns what it has."""
        self._closed.set()

    def poll(self, timeout: float) -> Sample:
        """Ask, of each burst take the answer with the least distance.

        Raises:
            ClockError: No answer by ``timeout`` seconds, or none that is usable.
        """
        try:
            sample = self._best_of_burst(time.monotonic() + timeout)
        except ClockError as error:
            self.failures[error.reason] += 1
            self._pace.polled(answered=False)
            raise
        self._pace.polled(answered=True)
        return sample

    def _best_of_burst(self, deadline_s: float) -> Sample:
        samples: list[Sample] = []
        for shot in range(self._burst):
            if shot and not self._pause(deadline_s):
                break
            try:
                samples.append(self._ask_in_turn(deadline_s))
            except ClockError:
                if not samples:
                    raise
                break
        return min(samples, key=lambda sample: sample.distance_ns)

    def _pause(self, deadline_s: float) -> bool:
        wait_s = self._burst_interval_s
        if wait_s is None:
            public = self._current is not None and self._current.public
            wait_s = PUBLIC_BURST_INTERVAL_S if public else BURST_INTERVAL_S
        return time.monotonic() + wait_s < deadline_s and not self._closed.wait(wait_s)

    def _ask_in_turn(self, deadline_s: float) -> Sample:
        """Ask the address that answered last, then the others, until one answers."""
        servers = self._usable(deadline_s)
        for server, until_s in _shares(servers, deadline_s):
            try:
                sample = self._ask(server.endpoint, until_s)
            except ClockError as error:
                self._note(server, error)
                last = error
            else:
                self._current = server.endpoint
                return sample
        self._resolver.forget()
        raise last

    def _usable(self, deadline_s: float) -> list[_Server]:
        found = self._resolver.endpoints(deadline_s, self._name)
        if any(endpoint.public for endpoint in found):
            self._pace.at_least(PUBLIC_MIN_S)
        servers = [self._servers.setdefault(e, _Server(e)) for e in found]
        allowed = [server for server in servers if server.denied is None]
        if not allowed:
            assert servers[0].denied is not None
            raise servers[0].denied
        now_s = time.monotonic()
        ready = [server for server in allowed if server.not_before_s <= now_s]
        if not ready:
            wait_s = min(server.not_before_s for server in allowed) - now_s
            raise ClockError(
                "backing_off", source=self._name,
                cause=f"the server wants to be asked less often; silent for {wait_s:.0f} s more",
            )
        return sorted(ready, key=lambda server: server.endpoint != self._current)

    def _note(self, server: _Server, error: ClockError) -> None:
        if error.reason in ("kod_deny", "kod_rstr"):
            server.denied = error
        elif error.reason == "kod_rate":
            self._pace.rate_limited()
            server.not_before_s = time.monotonic() + self._pace.seconds

    def _ask(self, endpoint: Endpoint, deadline_s: float) -> Sample:
        cookie = secrets.token_bytes(8)
        judge = _Judge(self._name, cookie, self._key, self.dropped)
        packet = request(cookie)
        question = packet if self._key is None else self._key.sign(packet)
        try:
            exchange = self._asking.exchange(endpoint, question, judge, deadline_s)
        except ClockError as error:
            if error.reason == "timeout" and judge.last is not None:
                raise _error(self._name, judge.last) from error
            raise _error(self._name, Refusal(error.reason, error.cause)) from error
        return self._sample(endpoint, exchange)

    def _sample(self, endpoint: Endpoint, exchange: Exchange[Reply]) -> Sample:
        if exchange.span.stepped:
            step_ns = exchange.span.slew_ns
            raise _error(self._name, Refusal("wall_stepped", f"by {step_ns} ns meanwhile"))
        measured = measure(
            exchange.answer, sent_ns=exchange.sent_ns, received_ns=exchange.received_ns,
            error_ns=exchange.error_ns, pivot_unix_s=self._pivot_unix_s,
        )
        if not isinstance(measured, Measured):
            raise _error(self._name, measured)
        self.stamps[exchange.kernel_stamps] += 1
        self.last = NtpDetails(
            address=endpoint.address, reply=exchange.answer,
            kernel_stamps=exchange.kernel_stamps, slew_ns=exchange.span.slew_ns,
        )
        return Sample(
            source=self._name, ruler_ns=exchange.received_ns, unix_ns=measured.unix_ns,
            distance_ns=measured.distance_ns, delay_ns=measured.delay_ns,
            stratum=exchange.answer.stratum, authenticated=self._key is not None,
        )


def _shares(servers: list[_Server], deadline_s: float) -> Iterator[tuple[_Server, float]]:
    """Each address gets half of the time that is left, and the last one all of it."""
    for number, server in enumerate(servers, 1):
        now_s = time.monotonic()
        half_s = now_s + (deadline_s - now_s) / 2
        yield server, deadline_s if number == len(servers) else half_s


def _error(source: str, why: Refusal) -> ClockError:
    return ClockError(
        why.reason, source=source, cause=why.cause, hint=_HINTS.get(why.reason, "")
    )
