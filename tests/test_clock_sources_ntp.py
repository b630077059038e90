"""What an NTP server can send that must not be believed, each from a scripted one."""

from __future__ import annotations

import calendar
import socket
import time
from collections.abc import Iterator

import ntplib
import pytest

from clock_helpers import PATIENCE_S, SHORT_S, Stepping, offset_ns, refused, until
from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.sample import ruler_ns
from otel_memoir.clock.sources import Key, NtpSource
from otel_memoir.clock.sources import packet as packets
from otel_memoir.clock.sources.bracket import Bracket, Span
from otel_memoir.clock.sources.exchange import Clocks, _stamped, _wait
from otel_memoir.clock.sources.ntp import _Judge
from otel_memoir.errors import ClockError, SettingsError
from otel_memoir.testing import NtpAnswer, ScriptedNtpServer

NS = 10**9
KEY = Key(number=7, kind="SHA256", secret=b"s3cret")
LONG_AGO_NS = calendar.timegm((2026, 1, 1, 0, 0, 0)) * NS

BAD_FIELDS = {
    "mode 3, a client's": ("mode", NtpAnswer(mode=3)),
    "mode 5, a broadcast": ("mode", NtpAnswer(mode=5)),
    "version 2": ("version", NtpAnswer(version=2)),
    "version 5": ("version", NtpAnswer(version=5)),
    "a kiss of death, RATE": ("kod_rate", NtpAnswer.kiss("RATE")),
    "a kiss of death, DENY": ("kod_deny", NtpAnswer.kiss("DENY")),
    "a kiss of death, RSTR": ("kod_rstr", NtpAnswer.kiss("RSTR")),
    "a kiss of death, INIT": ("kod", NtpAnswer.kiss("INIT")),
    "leap 3": ("unsynchronised", NtpAnswer(leap=3)),
    "stratum 0": ("stratum", NtpAnswer(stratum=0, refid=bytes(4))),
    "stratum 16": ("stratum", NtpAnswer(stratum=16)),
    "no transmit time": ("no_transmit_time", NtpAnswer(receive_ns=-1, transmit_ns=-1)),
    "sent before it came": (
        "times_disordered", NtpAnswer(receive_ns=LONG_AGO_NS + NS, transmit_ns=LONG_AGO_NS)
    ),
    "a huge root delay": ("root_distance", NtpAnswer(root_delay_s=65535.0)),
    "a huge root dispersion": ("root_distance", NtpAnswer(root_dispersion_s=16.0)),
    "a clock that ticks every 18 hours": ("root_distance", NtpAnswer(precision=16)),
    "a loop": ("loop", NtpAnswer(stratum=2, refid=bytes((127, 0, 0, 1)))),
    "held for longer than it was away": (
        "negative_delay", NtpAnswer(receive_ns=LONG_AGO_NS, transmit_ns=LONG_AGO_NS + NS)
    ),
}  # fmt: skip
NOISE = {
    "a forged origin": ("bogus_origin", NtpAnswer(origin="forged", offset_s=-1000.0)),
    "a zero origin": ("bogus_origin", NtpAnswer(origin="zero")),
    "a forged kiss of death": ("bogus_origin", NtpAnswer(
        origin="forged", stratum=0, leap=3, refid=b"DENY")),
    "a truncated packet": ("truncated", NtpAnswer(length=47)),
    "nothing but a datagram": ("truncated", NtpAnswer(length=0)),
}  # fmt: skip


@pytest.fixture
def server() -> Iterator[ScriptedNtpServer]:
    """A server that answers well until it is told otherwise."""
    with ScriptedNtpServer() as running:
        yield running


def ntp(server: ScriptedNtpServer, **given: object) -> NtpSource:
    """A source that asks this server."""
    return NtpSource(server.host, port=server.port, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(("reason", "answer"), BAD_FIELDS.values(), ids=BAD_FIELDS)
def test_a_bad_answer_is_refused_by_its_own_reason(
    server: ScriptedNtpServer, reason: str, answer: NtpAnswer
) -> None:
    """It repeats our cookie, so the server has spoken: no need to wait for another."""
    server.script([answer])
    source = ntp(server)
    begin_s = time.monotonic()
    assert refused(source, PATIENCE_S).reason == reason
    assert time.monotonic() - begin_s < PATIENCE_S
    assert source.failures == {reason: 1}


@pytest.mark.parametrize(("reason", "answer"), NOISE.values(), ids=NOISE)
def test_noise_is_waited_out(server: ScriptedNtpServer, reason: str, answer: NtpAnswer) -> None:
    """Anybody could have sent it: the server's own answer, which comes later, counts."""
    server.script([(answer, answer, NtpAnswer())])
    source = ntp(server)
    sample = source.poll(PATIENCE_S)
    assert abs(offset_ns(sample)) <= sample.distance_ns
    assert source.dropped == {reason: 2}


@pytest.mark.parametrize(("reason", "answer"), NOISE.values(), ids=NOISE)
def test_nothing_but_noise_is_said_at_the_deadline(
    server: ScriptedNtpServer, reason: str, answer: NtpAnswer
) -> None:
    """The reason is the noise, not a timeout: somebody is at work there."""
    server.respond = lambda question: answer
    source = ntp(server)
    assert until(lambda: refused(source).reason == reason)


@pytest.mark.parametrize(
    "answer", [a for _, a in (*BAD_FIELDS.values(), *NOISE.values()) if a.length is None],
    ids=[n for n, (_, a) in (*BAD_FIELDS.items(), *NOISE.items()) if a.length is None],
)  # fmt: skip
def test_the_packet_codec_alone_believes_it_all(
    server: ScriptedNtpServer, answer: NtpAnswer
) -> None:
    """Negative control: ``ntplib.request`` gives an offset for each of these packets."""
    server.script([answer])
    stats = ntplib.NTPClient().request(server.host, port=server.port, version=4, timeout=PATIENCE_S)
    assert isinstance(stats.offset, float)


@pytest.mark.parametrize(
    ("reason", "answer"),
    [row for row in BAD_FIELDS.values() if row[0] not in ("loop", "negative_delay")],
    ids=[name for name, row in BAD_FIELDS.items() if row[0] not in ("loop", "negative_delay")],
)
def test_each_check_is_the_only_one_that_refuses_its_packet(
    server: ScriptedNtpServer, monkeypatch: pytest.MonkeyPatch, reason: str, answer: NtpAnswer
) -> None:
    """Negative control: with the one check out, the packet passes or a later check names it."""
    server.script([answer])
    kept = tuple(check for check in packets._CHECKS if check[0] != reason)
    monkeypatch.setattr(packets, "_CHECKS", kept)
    try:
        ntp(server).poll(PATIENCE_S)
    except ClockError as error:
        assert error.reason != reason


def test_without_the_check_of_the_cookie_a_forged_answer_counts(
    server: ScriptedNtpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: 1000 s into the past."""
    monkeypatch.setattr(_Judge, "_noise", lambda self, data, reply: None)
    server.script([NtpAnswer(origin="forged", offset_s=-1000.0)])
    assert offset_ns(ntp(server).poll(PATIENCE_S)) < -900 * NS


def test_an_answer_from_another_port_is_never_seen(server: ScriptedNtpServer) -> None:
    """The socket is connected: the kernel drops it."""
    server.script([NtpAnswer(other_port=True)])
    assert refused(ntp(server)).reason == "timeout"


def test_silence_is_a_timeout(server: ScriptedNtpServer) -> None:
    """And the next poll is answered."""
    server.script([NtpAnswer.silence()])
    source = ntp(server)
    assert refused(source).reason == "timeout"
    assert source.poll(PATIENCE_S)
    assert source.failures == {"timeout": 1}


@pytest.mark.parametrize("answer", [NtpAnswer(origin="forged", flood_s=PATIENCE_S),
                                    NtpAnswer(length=3, flood_s=PATIENCE_S)])
def test_a_flood_does_not_keep_a_poll_beyond_its_deadline(
    server: ScriptedNtpServer, answer: NtpAnswer
) -> None:
    """ntplib starts its timeout again with each packet that is not for it."""
    server.script([answer])
    source = ntp(server)
    begin_s = time.monotonic()
    refused(source, SHORT_S)
    assert time.monotonic() - begin_s < PATIENCE_S / 2
    assert source.dropped.total() > 10


def test_a_late_answer_does_not_count_for_the_next_question(server: ScriptedNtpServer) -> None:
    """Each question has its own port and its own cookie."""
    server.script([NtpAnswer(reply_delay_s=2 * SHORT_S, offset_s=50.0), NtpAnswer()])
    source = ntp(server)
    assert refused(source, SHORT_S).reason == "timeout"
    sample = source.poll(PATIENCE_S)
    assert abs(offset_ns(sample)) <= sample.distance_ns
    assert server.questions[0][40:48] != server.questions[1][40:48]


def test_a_question_tells_nothing_but_the_cookie(server: ScriptedNtpServer) -> None:
    """Version 4, mode 3, and no word about our clock (data minimisation)."""
    ntp(server).poll(PATIENCE_S)
    (question,) = server.questions
    assert question[0] == 4 << 3 | 3
    assert question[1:40] == bytes(39)
    assert question[40:] != bytes(8)


@pytest.mark.parametrize("answer", [
    NtpAnswer(request_delay_s=0.2), NtpAnswer(reply_delay_s=0.2),
    NtpAnswer(request_delay_s=0.05, reply_delay_s=0.2, offset_s=-3.0),
])  # fmt: skip
def test_an_unequal_way_to_and_fro_stays_within_the_distance(
    server: ScriptedNtpServer, answer: NtpAnswer
) -> None:
    """The error is half the difference, and the distance half the sum."""
    server.script([answer])
    sample = ntp(server).poll(PATIENCE_S)
    error_ns = offset_ns(sample) - round(answer.offset_s * NS)
    assert abs(error_ns) > 50_000_000
    assert abs(error_ns) <= sample.distance_ns
    assert sample.delay_ns >= 190_000_000


def test_root_delay_and_dispersion_are_part_of_the_distance(server: ScriptedNtpServer) -> None:
    """Half of the one and all of the other, rounded up."""
    server.script([NtpAnswer(root_delay_s=0.5, root_dispersion_s=0.125)])
    sample = ntp(server).poll(PATIENCE_S)
    own_ns = sample.distance_ns - 375_000_000
    assert sample.delay_ns // 2 <= own_ns <= sample.delay_ns // 2 + 10_000_000


@pytest.mark.parametrize("year", [2027, 2035, 2037, 2090])
def test_either_era_is_read_right(server: ScriptedNtpServer, year: int) -> None:
    """Across 7 February 2036 and beyond, nearest to when this was written."""
    then_ns = calendar.timegm((year, 6, 1, 0, 0, 0)) * NS
    server.script([NtpAnswer(receive_ns=then_ns, transmit_ns=then_ns)])
    sample = ntp(server).poll(PATIENCE_S)
    assert abs(sample.unix_ns - then_ns) <= sample.distance_ns + sample.delay_ns


def test_an_exchange_may_straddle_the_eras(server: ScriptedNtpServer) -> None:
    """The question came in one era and is answered in the next."""
    turn_ns = (2**32 - packets.NTP_TO_UNIX_S) * NS
    server.script([NtpAnswer(
        receive_ns=turn_ns - 1_000_000, transmit_ns=turn_ns + 1_000_000,
        request_delay_s=0.05,
    )])  # fmt: skip
    sample = ntp(server).poll(PATIENCE_S)
    assert abs(sample.unix_ns - turn_ns) <= sample.distance_ns + sample.delay_ns


# -- keys -------------------------------------------------------------------------


def signed(key: Key, question: bytes) -> NtpAnswer:
    """A signed answer: the packet is made first, and its MAC put behind it."""
    answer = NtpAnswer(receive_ns=time.time_ns(), transmit_ns=time.time_ns())
    data = answer.packet(question, 0, 0)
    return NtpAnswer(
        receive_ns=answer.receive_ns, transmit_ns=answer.transmit_ns, trailer=key.sign(data)[48:]
    )


def test_an_answer_signed_with_the_same_key_counts(server: ScriptedNtpServer) -> None:
    """The control of the next one."""
    server.respond = lambda question: signed(KEY, question)
    assert ntp(server, key=KEY).poll(PATIENCE_S).authenticated


@pytest.mark.parametrize("respond", [
    lambda question: NtpAnswer(),
    lambda question: NtpAnswer(trailer=bytes(4)),
    lambda question: NtpAnswer(trailer=bytes(24)),
    lambda question: signed(Key(number=8, kind="SHA256", secret=b"s3cret"), question),
    lambda question: signed(Key(number=7, kind="SHA1", secret=b"s3cret"), question),
    lambda question: signed(Key(number=7, kind="SHA256", secret=b"other"), question),
    lambda question: NtpAnswer.kiss("DENY"),
], ids=["unsigned", "crypto-NAK", "zeros", "number", "kind", "secret", "unsigned kiss"])
def test_an_answer_that_is_not_signed_with_our_key_is_noise(
    server: ScriptedNtpServer, respond: object
) -> None:
    """Nor can a kiss of death that is not signed switch a server off."""
    server.respond = respond  # type: ignore[assignment]  # one of the lambdas above
    source = ntp(server, key=KEY)
    assert until(lambda: refused(source).reason == "bad_mac")
    server.respond = lambda question: signed(KEY, question)
    assert source.poll(PATIENCE_S).authenticated


# -- kisses of death ----------------------------------------------------------------


def test_a_server_that_wants_less_is_left_alone_for_a_while(server: ScriptedNtpServer) -> None:
    """RATE: 64 s at least, in which no question is sent at all."""
    server.script([NtpAnswer.kiss("RATE")])
    source = ntp(server, options=SourceOptions(poll_min_s=16.0, poll_max_s=32.0))
    assert source.poll_hint_s == 2.0
    assert refused(source, PATIENCE_S).reason == "kod_rate"
    assert source.poll_hint_s == 64.0
    assert refused(source, PATIENCE_S).reason == "backing_off"
    assert len(server.questions) == 1


@pytest.mark.parametrize("code", ["DENY", "RSTR"])
def test_a_server_that_denies_us_is_never_asked_again(
    server: ScriptedNtpServer, code: str
) -> None:
    """RFC 5905, 7.4: the association must be given up."""
    server.script([NtpAnswer.kiss(code)])
    source = ntp(server)
    assert refused(source, PATIENCE_S).reason == f"kod_{code.lower()}"
    assert refused(source, PATIENCE_S).reason == f"kod_{code.lower()}"
    assert len(server.questions) == 1


# -- clocks -------------------------------------------------------------------------


@pytest.mark.parametrize("step_ns", [-NS, NS])
def test_a_wall_clock_that_is_set_meanwhile_spoils_the_exchange(
    server: ScriptedNtpServer, step_ns: int
) -> None:
    """The kernel's stamps are of that clock; they are refused, not used."""
    source = ntp(server, clocks=Clocks(wall=Stepping(5, step_ns)))
    assert refused(source, PATIENCE_S).reason == "wall_stepped"
    assert source.poll(PATIENCE_S)


def test_a_slewed_wall_clock_is_counted_into_the_distance(server: ScriptedNtpServer) -> None:
    """A millisecond in fifty cannot be told from a fast slew, so it counts as an error."""
    server.script([NtpAnswer(reply_delay_s=0.05)])
    source = ntp(server, clocks=Clocks(wall=Stepping(5, 1_000_000)))
    sample = source.poll(PATIENCE_S)
    assert source.last is not None
    assert abs(source.last.slew_ns - 1_000_000) < 500_000
    assert sample.distance_ns >= sample.delay_ns // 2 + abs(source.last.slew_ns)


def test_stamps_of_a_clock_that_we_are_not_shown_are_not_used(server: ScriptedNtpServer) -> None:
    """Under libfaketime the kernel's stamps are an hour off: Python's own are taken."""
    source = ntp(server, clocks=Clocks(wall=lambda: time.time_ns() - 3600 * NS))
    sample = source.poll(PATIENCE_S)
    assert source.stamps == {0: 1}
    assert abs(offset_ns(sample)) <= sample.distance_ns


def test_a_sample_knows_nothing_of_the_wall_clock(server: ScriptedNtpServer) -> None:
    """With a wall clock an hour slow the sample is the same, on the ruler."""
    slow = ntp(server, clocks=Clocks(wall=lambda: time.time_ns() - 3600 * NS)).poll(PATIENCE_S)
    right = ntp(server).poll(PATIENCE_S)
    apart_ns = (slow.unix_ns - slow.ruler_ns) - (right.unix_ns - right.ruler_ns)
    assert abs(apart_ns) <= slow.distance_ns + right.distance_ns
    assert slow.ruler_ns < right.ruler_ns < ruler_ns()


def test_stamps_of_the_kernel_stand_in_for_our_own() -> None:
    """On the ruler, where the wall clock ran 1 % faster; one alone serves as well."""
    span = Span(
        Bracket(ruler_ns=1_000_000, wall_ns=500_000_000, width_ns=100),
        Bracket(ruler_ns=2_000_000, wall_ns=501_010_000, width_ns=300),
    )
    own = (1_000_100, 1_999_900)
    both = _stamped("answer", span, own, (500_101_000, 500_909_000), "127.0.0.1")
    assert (both.sent_ns, both.received_ns, both.kernel_stamps) == (1_100_000, 1_900_000, 2)
    assert both.error_ns == 10_200
    for kernel, times in (
        ((500_101_000, None), (1_100_000, own[1])), ((None, 500_909_000), (own[0], 1_900_000)),
        ((499_000_000, 500_909_000), (own[0], 1_900_000)),
        ((500_909_000, 500_101_000), own), ((None, None), own),
    ):  # fmt: skip
        one = _stamped("answer", span, own, kernel, "127.0.0.1")
        assert (one.sent_ns, one.received_ns) == times


def test_what_is_ready_at_the_deadline_is_not_taken_any_more() -> None:
    """Else a flood that is never drained would go on for ever."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.sendto(b"x", sock.getsockname())
        _wait(sock, time.monotonic() + PATIENCE_S)
        with pytest.raises(TimeoutError):
            _wait(sock, time.monotonic())


# -- bursts, addresses, names -------------------------------------------------------


def test_of_a_burst_the_quickest_answer_counts(server: ScriptedNtpServer) -> None:
    """Distance decides, not order."""
    server.script([
        NtpAnswer(reply_delay_s=0.5), NtpAnswer(root_dispersion_s=0.001),
        NtpAnswer(reply_delay_s=0.6),
    ])  # fmt: skip
    sample = ntp(server, burst=3, burst_interval_s=0.01).poll(PATIENCE_S)
    assert sample.delay_ns < 500_000_000
    assert len(server.questions) == 3


def test_a_burst_ends_with_the_first_question_that_fails(server: ScriptedNtpServer) -> None:
    """What was answered before counts; a kiss of death ends the questions at once."""
    server.script([NtpAnswer(), NtpAnswer.kiss("RATE")])
    source = ntp(server, burst=4, burst_interval_s=0.01)
    assert source.poll(PATIENCE_S)
    assert len(server.questions) == 2
    assert refused(source, PATIENCE_S).reason == "backing_off"


def test_a_burst_does_not_outlive_its_deadline(server: ScriptedNtpServer) -> None:
    """The second question would be asked after it."""
    assert ntp(server, burst=4, burst_interval_s=3600.0).poll(PATIENCE_S)
    assert len(server.questions) == 1


def test_closing_ends_the_wait_between_the_questions_of_a_burst(
    server: ScriptedNtpServer,
) -> None:
    """The poll gives what it has."""
    source = ntp(server, burst=4, burst_interval_s=PATIENCE_S / 2)
    source.close()
    begin_s = time.monotonic()
    assert source.poll(2 * PATIENCE_S)
    assert time.monotonic() - begin_s < PATIENCE_S / 2


@pytest.mark.parametrize("burst", [0, 5])
def test_a_burst_has_one_to_four_questions(burst: int) -> None:
    """More is an attack."""
    with pytest.raises(SettingsError, match="burst"):
        NtpSource("127.0.0.1", burst=burst)


def test_the_scripted_server_listens_at_ipv6_as_well() -> None:
    """And forges there too."""
    with ScriptedNtpServer(host="::1") as server:
        source = ntp(server)
        assert source.poll(PATIENCE_S)
        server.respond = lambda question: NtpAnswer(origin="forged")
        assert until(lambda: refused(source).reason == "bogus_origin")
