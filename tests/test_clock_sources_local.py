"""Sources that need no NTP server: chronyd's protocol, the kernel, HTTP, peers."""

from __future__ import annotations

import ctypes
import email.utils
import socket
import struct
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from clock_helpers import PATIENCE_S, SHORT_S, Stepping, offset_ns, refused
from otel_memoir.clock.sources import (
    ChronydSource,
    HttpDateSource,
    PeerSource,
    SystemClockSource,
    cmdmon,
    kernel,
    parse_source,
)
from otel_memoir.clock.sources.exchange import Clocks
from otel_memoir.clock.sources.timex import STA_UNSYNC, TIME_ERROR, TIME_OOP, Timex, read_timex
from otel_memoir.errors import SettingsError
from otel_memoir.testing import FakeClock, ScriptedCollector
from test_destination import Certificates

NS = 10**9


# -- chronyd's command protocol ------------------------------------------------------


class Responder:
    """A UDP socket on loopback that answers each datagram with what a function makes of it."""

    def __init__(self, answer: Callable[[bytes], list[bytes]]) -> None:
        self._answer = answer
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._run, name="responder", daemon=True)

    def __enter__(self) -> Responder:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", ("127.0.0.1", self.port))
        self._thread.join(PATIENCE_S)
        self._socket.close()

    def _run(self) -> None:
        while True:
            question, client = self._socket.recvfrom(2048)
            if not question:
                return
            for data in self._answer(question):
                self._socket.sendto(data, client)


def packed(value: float) -> int:
    """A float of chronyd's protocol (util.c, UTI_FloatHostToNetwork), for small values."""
    exponent = 0
    while value and abs(value) < 1 << 23:
        value, exponent = value * 2, exponent - 1
    return ((exponent + 25) & 0x7F) << 25 | round(value) & 0x1FFFFFF


def tracking_answer(question: bytes, **changed: int | float) -> bytes:
    """What a synchronised chronyd answers, with some fields changed."""
    say = {
        "version": 6, "reply": 5, "status": 0, "refid": 0x0A000001, "stratum": 3, "leap": 0,
        "correction": -0.002, "delay": 0.01, "dispersion": 0.001, **changed,
    }  # fmt: skip
    head = struct.pack(
        "!BBxxHHH6xI8x", say["version"], 2, 33, say["reply"], say["status"],
        int.from_bytes(question[8:12], "big") ^ int(changed.get("sequence", 0)),
    )
    floats = [say["correction"], 0.0, 0.0, 1.5, 0.0, 0.25, say["delay"], say["dispersion"], 16.0]
    body = struct.pack(
        "!I20xHHIII9I", say["refid"], say["stratum"], say["leap"], 0, 0, 0, *map(packed, floats)
    )
    return head + body


def test_chronyds_answer_becomes_a_sample() -> None:
    """The distance is ClockBound's: correction, half the delay, dispersion."""
    with Responder(lambda question: [tracking_answer(question)]) as server:
        source = ChronydSource(port=server.port)
        sample = source.poll(PATIENCE_S)
    assert abs(offset_ns(sample) + 2_000_000) < 1_000_000
    assert 8_000_000 <= sample.distance_ns < 8_000_000 + 10_000_000
    assert source.last is not None
    assert (source.last.frequency_ppm, source.last.skew_ppm) == (1.5, 0.25)
    assert sample.stratum == 3


@pytest.mark.parametrize(("reason", "changed"), [
    ("unsynchronised", {"leap": 3}), ("unsynchronised", {"refid": 0}),
    ("local_reference", {"refid": 0x7F7F0101}), ("stratum", {"stratum": 0}),
    ("stratum", {"stratum": 16}), ("malformed", {"reply": 4}), ("malformed", {"status": 3}),
    ("denied", {"status": 2}), ("protocol", {"version": 5}), ("protocol", {"status": 18}),
    ("malformed", {"dispersion": -0.5}), ("root_distance", {"delay": 32.0}),
])  # fmt: skip
def test_a_chronyd_that_is_of_no_use_is_refused_by_reason(
    reason: str, changed: dict[str, float]
) -> None:
    """It has answered: no need to wait."""
    with Responder(lambda question: [tracking_answer(question, **changed)]) as server:
        source = ChronydSource(port=server.port)
        assert refused(source, PATIENCE_S).reason == reason
        assert source.failures == {reason: 1}


def test_a_short_answer_of_chronyd_is_malformed() -> None:
    """A head without a body, and a body cut by a byte."""
    for length in (28, cmdmon.REPLY_BYTES - 1):
        with Responder(lambda question, n=length: [tracking_answer(question)[:n]]) as server:
            assert refused(ChronydSource(port=server.port), PATIENCE_S).reason == "malformed"


def test_a_foreign_answer_is_waited_out() -> None:
    """Another number, another command, a request, and noise; the right one comes last."""

    def answer(question: bytes) -> list[bytes]:
        foreign = tracking_answer(question, sequence=1)
        return [foreign, question, b"", b"x" * 27, tracking_answer(question)]

    with Responder(answer) as server:
        assert ChronydSource(port=server.port).poll(PATIENCE_S)
    with Responder(lambda question: [tracking_answer(question, sequence=1)]) as server:
        assert refused(ChronydSource(port=server.port)).reason == "timeout"


def test_a_wall_clock_that_is_set_meanwhile_spoils_chronyds_answer() -> None:
    """Nobody knows of which of the two clocks it speaks."""
    with Responder(lambda question: [tracking_answer(question)]) as server:
        source = ChronydSource(port=server.port, clocks=Clocks(wall=Stepping(5, NS)))
        assert refused(source, PATIENCE_S).reason == "wall_stepped"
        assert source.poll(PATIENCE_S)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 0.05, -0.0123, 1e-9, -3e-7, 16.0, 500.0])
def test_chronyds_floats_are_read_to_the_nanosecond(value: float) -> None:
    """24 bits of them, rounded up because they are part of a bound."""
    assert cmdmon._value(packed(value)) == pytest.approx(value, rel=2**-22)
    assert cmdmon._ns(packed(value)) == pytest.approx(value * NS, rel=2**-22, abs=1)


# -- the kernel ---------------------------------------------------------------------


def timex(**changed: int) -> Timex:
    """What the kernel says while chronyd with ``rtcsync`` maintains it."""
    fields = {"state": 0, "status": 0, "offset_ns": 0, "maxerror_us": 2000, "esterror_us": 10}
    return Timex(**{**fields, **changed})


def system(given: Timex, **options: int | None) -> SystemClockSource:
    """The system clock, where the kernel says this of it."""
    return SystemClockSource(timex=lambda: given, **options)  # type: ignore[arg-type]


MAINTAINED = {
    "chronyd or ntpd": (timex(), 2_001_000),
    "chronyd without rtcsync": (timex(state=TIME_ERROR, status=STA_UNSYNC), 2_001_000),
    "ntpd with a correction going on": (timex(offset_ns=-700_000), 2_701_000),
    "a leap second that is on": (timex(state=TIME_OOP), 1_002_001_000),
}
UNMAINTAINED = {
    "a container, or after a step": ("unsynchronised", timex(
        state=TIME_ERROR, status=STA_UNSYNC, maxerror_us=16_000_000, esterror_us=16_000_000)),
    "timesyncd, just now": ("no_bound", timex(maxerror_us=0, esterror_us=0)),
    "timesyncd, a minute ago": ("no_bound", timex(maxerror_us=30_000, esterror_us=0)),
    "phc2sys": ("no_bound", timex(maxerror_us=500, esterror_us=16_000_000)),
    "a daemon that died 9 hours ago": ("unsynchronised", timex(maxerror_us=16_000_000)),
}  # fmt: skip


@pytest.mark.parametrize(("given", "distance_ns"), MAINTAINED.values(), ids=MAINTAINED)
def test_a_bound_that_a_daemon_maintains_is_the_distance(given: Timex, distance_ns: int) -> None:
    """``maxerror`` and what is still to be corrected; the offset is 0."""
    sample = system(given).poll(PATIENCE_S)
    assert distance_ns <= sample.distance_ns < distance_ns + 1_000_000
    assert abs(offset_ns(sample)) < 1_000_000


@pytest.mark.parametrize(("reason", "given"), UNMAINTAINED.values(), ids=UNMAINTAINED)
def test_a_bound_that_nobody_maintains_is_none(reason: str, given: Timex) -> None:
    """Nor is ``esterror`` ever one; what was configured stands in, if anything was."""
    source = system(given)
    assert refused(source).reason == reason
    assert source.failures == {reason: 1}
    sample = system(given, unknown_ns=NS).poll(PATIENCE_S)
    assert NS <= sample.distance_ns < 2 * NS


def test_without_the_look_at_esterror_timesyncd_would_promise_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: it would give a bound of a microsecond."""
    monkeypatch.setattr(kernel, "unmaintained", lambda given: None)
    assert system(timex(maxerror_us=0, esterror_us=0)).poll(1.0).distance_ns < 1_000_000


@pytest.mark.parametrize("unknown_ns", [0, -1])
def test_no_distance_of_zero_can_be_configured(unknown_ns: int) -> None:
    """Nobody's clock is right to 0."""
    with pytest.raises(SettingsError, match="unknown_ns"):
        SystemClockSource(unknown_ns=unknown_ns)


@pytest.mark.skipif(sys.platform != "linux", reason="adjtimex is Linux's: run it on Linux")
def test_the_kernel_is_read_as_the_c_library_reads_it() -> None:
    """``ntp_gettime`` is another call with another structure."""

    class NtpTimeval(ctypes.Structure):
        _fields_ = (
            ("seconds", ctypes.c_long), ("fraction", ctypes.c_long),
            ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long),
            ("tai", ctypes.c_long), ("reserved", ctypes.c_long * 4),
        )  # fmt: skip

    other = NtpTimeval()
    state = ctypes.CDLL(None).ntp_gettime(ctypes.byref(other))
    read = read_timex()
    assert read.state == state
    assert read.esterror_us == other.esterror
    assert 0 <= read.maxerror_us - other.maxerror <= 1_000_000


def test_a_system_without_adjtimex_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """macOS, with what to do instead."""
    monkeypatch.setattr(sys, "platform", "darwin")
    source = SystemClockSource()
    error = refused(source)
    assert error.reason == "unsupported"
    assert error.hint
    assert SystemClockSource(unknown_ns=NS).poll(1.0).distance_ns >= NS


# -- HTTP Date ----------------------------------------------------------------------


class HttpServer:
    """A TCP server on loopback that answers the first request with these bytes.

    Args:
        pieces: Sent one after the other; each waits for ``piece_wait_s`` first.
    """

    def __init__(self, *pieces: bytes, piece_wait_s: float = 0.0) -> None:
        self._pieces = pieces
        self._wait_s = piece_wait_s
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}/v1/logs"
        self.request = b""
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)

    def __enter__(self) -> HttpServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._thread.join(PATIENCE_S)
        self._listener.close()

    def _run(self) -> None:
        connection, _ = self._listener.accept()
        with connection:
            self.request = connection.recv(4096)
            for piece in self._pieces:
                if self._stopped.wait(self._wait_s):
                    return
                try:
                    connection.sendall(piece)
                except OSError:
                    return


def head(*lines: str, status: str = "405 Method Not Allowed") -> bytes:
    """An answer without a body."""
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode()


def date(ahead_s: float = 0.0) -> str:
    """The header of a server whose clock is ahead."""
    return "Date: " + email.utils.formatdate(time.time() + ahead_s, usegmt=True)


@pytest.mark.parametrize("ahead_s", [0.0, 3600.0, -86400.0])
def test_the_date_of_any_answer_is_a_sample_of_a_second_and_a_half(ahead_s: float) -> None:
    """Half a second of resolution, half a second of cached headers, half the way."""
    with HttpServer(head(date(ahead_s))) as server:
        sample = HttpDateSource(server.url).poll(PATIENCE_S)
    assert abs(offset_ns(sample) - round(ahead_s * NS)) <= sample.distance_ns
    assert NS <= sample.distance_ns <= NS + sample.delay_ns
    assert server.request.startswith(b"HEAD /v1/logs HTTP/1.1\r\nHost: 127.0.0.1:")


def test_a_real_otlp_server_tells_the_date() -> None:
    """A HEAD request is an error to it, and an error has a date too."""
    with ScriptedCollector() as collector:
        sample = HttpDateSource(collector.endpoint).poll(PATIENCE_S)
    assert abs(offset_ns(sample)) <= sample.distance_ns
    assert collector.requests == []


def test_https_is_judged_by_the_authority_that_was_given(tmp_path: Path) -> None:
    """A server that an unknown authority signed is no source."""
    ours = Certificates(tmp_path)
    with ScriptedCollector(certificate=ours.server, key=ours.server_key) as collector:
        source = parse_source(f"http-date?url={collector.endpoint}&cafile={ours.ca}").source
        sample = source.poll(PATIENCE_S)
        assert refused(HttpDateSource(collector.endpoint), PATIENCE_S).reason == "tls"
    assert abs(offset_ns(sample)) <= sample.distance_ns


@pytest.mark.parametrize(("reason", "answer"), [
    ("no_date", head("Server: x")), ("cached", head(date(), "Age: 10")),
    ("bad_date", head("Date: yesterday")), ("bad_date", head("Date: Mon, 99 Xxx 2026 00:00:00")),
    ("unreachable", b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), ("unreachable", b""),
    ("unreachable", b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000),
])  # fmt: skip
def test_an_answer_without_a_date_of_this_moment_is_refused(reason: str, answer: bytes) -> None:
    """A cache's is old, and what is not HTTP has none."""
    with HttpServer(answer) as server:
        source = HttpDateSource(server.url)
        assert refused(source, PATIENCE_S).reason == reason
        assert source.failures == {reason: 1}


def test_a_server_that_drips_is_left_at_the_deadline() -> None:
    """Each byte would start a socket's own timeout again."""
    with HttpServer(*[b"H"] * 1000, piece_wait_s=0.1) as server:
        begin_s = time.monotonic()
        assert refused(HttpDateSource(server.url), SHORT_S).reason == "timeout"
        assert time.monotonic() - begin_s < PATIENCE_S


def test_no_http_server_is_refused_at_once() -> None:
    """Nothing listens on port 1."""
    assert refused(HttpDateSource("http://127.0.0.1:1"), PATIENCE_S).reason == "refused"


@pytest.mark.parametrize("url", ["", "ftp://x", "localhost:4318", "http://", "http://h\r\nX: y",
                                 "http://h:99999", "http://h/a b"])
def test_what_is_no_url_is_refused_when_it_is_configured(url: str) -> None:
    """With an example of one that is."""
    with pytest.raises(SettingsError, match="http://localhost:4318"):
        HttpDateSource(url)


# -- peers --------------------------------------------------------------------------


class Ruler:
    """A ruler that stands still until it is moved."""

    def __init__(self) -> None:
        self.clock = FakeClock()

    def __call__(self) -> int:
        return round(self.clock.monotonic_s() * 1e9)


def test_a_peer_is_held_against_us_until_its_word_expires() -> None:
    """The bound grows with age; after the expiry there is none."""
    ruler = Ruler()
    peers = PeerSource(expiry_s=60.0, transit_max_s=4.0, ruler=ruler)
    assert refused(peers).reason == "no_peers"
    peers.tell("a", 1000 * NS, 5_000_000)
    first = peers.poll(1.0)
    assert (first.unix_ns, first.distance_ns) == (1002 * NS, 2_005_000_001)
    ruler.clock.advance(10.0)
    later = peers.poll(1.0)
    assert later.unix_ns - first.unix_ns == 10 * NS
    assert later.distance_ns - first.distance_ns == 5_000_000
    ruler.clock.advance(51.0)
    assert refused(peers).reason == "no_peers"
    assert peers.earliest_ns() is None


def test_true_time_lies_in_a_peers_interval_however_long_it_was_on_its_way() -> None:
    """Up to the longest time that it may be."""
    for transit_s in (0.0, 1.0, 4.0):
        peers = PeerSource(transit_max_s=4.0, ruler=Ruler())
        peers.tell("a", 1000 * NS, 0)
        sample = peers.poll(1.0)
        true_ns = round((1000 + transit_s) * NS)
        assert abs(sample.unix_ns - true_ns) <= sample.distance_ns
        assert (peers.earliest_ns() or 0) <= true_ns


def test_the_surest_peer_is_heard_and_the_latest_earliest_time_counts() -> None:
    """Of one peer only its last word counts."""
    peers = PeerSource(ruler=Ruler())
    peers.tell("unsure", 2000 * NS, 100 * NS)
    peers.tell("sure", 1990 * NS, NS)
    peers.tell("sure", 1950 * NS, NS)
    peers.tell("ignorant", 9999 * NS, None)
    peers.tell("broken", 9999 * NS, -1)
    assert peers.poll(1.0).unix_ns < 1960 * NS
    assert peers.earliest_ns() == 1949 * NS - 1
    assert peers.untold == {"no_bound": 2}


def test_a_thousand_peers_take_the_room_of_sixty_four() -> None:
    """The one that was heard longest ago is forgotten."""
    ruler = Ruler()
    peers = PeerSource(ruler=ruler)
    for number in range(1000):
        ruler.clock.advance(0.001)
        peers.tell(str(number), number * NS, NS)
    assert set(peers._words) == {str(number) for number in range(936, 1000)}
