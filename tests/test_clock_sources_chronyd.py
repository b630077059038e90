"""Sources against real chronyd servers on loopback."""

from __future__ import annotations

import calendar
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from chrony import FAKETIME, Chained, Chronyd, needs_chronyd, needs_faketime, upstream
from clock_helpers import PATIENCE_S, SHORT_S, best_of, busy, offset_ns, refused, until
from otel_memoir.clock.sample import Sample, ruler_ns
from otel_memoir.clock.sources import ChronydSource, NtpSource, read_key
from otel_memoir.clock.sources import packet as packets
from otel_memoir.clock.sources.bracket import read_bracket
from otel_memoir.errors import ClockError

pytestmark = needs_chronyd

NS = 10**9
KEYS = ("1 SHA1 HEX:" + "1a2b3c4d" * 5, "2 SHA256 HEX:" + "5e6f7081" * 8, "3 SHA512 a-secret")
ON_TIME_NS = 20_000_000
"""A distance that the best of ten polls does not exceed on a loaded machine."""


@pytest.fixture
def server() -> Iterator[Chronyd]:
    """A server whose time is the system's."""
    with Chronyd() as running:
        yield running


@pytest.fixture(scope="module")
def reference() -> Iterator[Chronyd]:
    """A server for others to follow."""
    with upstream() as running:
        yield running


def ntp(server: Chronyd, **given: object) -> NtpSource:
    """A source that asks this server."""
    return NtpSource(server.address, port=server.port, **given)  # type: ignore[arg-type]


def tracking(server: Chronyd) -> ChronydSource:
    """A source that asks this chronyd over its command port."""
    return ChronydSource(port=server.command_port)


def assert_says(sample: Sample, ahead_s: float) -> None:
    """The sample's interval holds the time that the server was told to have."""
    assert abs(offset_ns(sample) - round(ahead_s * NS)) <= sample.distance_ns
    assert sample.distance_ns < ON_TIME_NS


def test_a_server_on_time_is_measured_within_its_distance(server: Chronyd) -> None:
    """The plain case, with both of the kernel's stamps."""
    source = ntp(server)
    assert_says(best_of(source), 0.0)
    assert source.stamps[2] == 10
    with pytest.raises(AssertionError):
        assert_says(best_of(source), 0.1)


def test_the_stamps_of_python_serve_where_the_kernels_are_not_wanted(server: Chronyd) -> None:
    """The fall-back of other systems."""
    source = ntp(server, kernel_stamps=False)
    assert_says(best_of(source), 0.0)
    assert source.stamps[0] == 10


@pytest.mark.parametrize("kernel_stamps", [True, False])
def test_no_sample_is_off_by_more_than_its_distance_while_python_is_busy(
    server: Chronyd, kernel_stamps: bool
) -> None:
    """A stamp that comes late makes the delay longer, and so the distance."""
    source = ntp(server, kernel_stamps=kernel_stamps)
    with busy():
        for _ in range(25):
            sample = source.poll(PATIENCE_S)
            assert abs(offset_ns(sample)) <= sample.distance_ns + 1_000_000


@needs_faketime
def test_a_process_with_a_wrong_wall_clock_gets_the_same_sample(server: Chronyd) -> None:
    """Its kernel's stamps are of the right clock and are not used; the ruler is the same."""
    code = (
        "import sys; from otel_memoir.clock.sources import NtpSource; "
        "source = NtpSource('127.0.0.1', port=int(sys.argv[1])); sample = source.poll(20.0); "
        "print(sample.unix_ns - sample.ruler_ns, sample.distance_ns, *source.stamps)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(server.port)], capture_output=True, text=True,
        timeout=PATIENCE_S, check=True, env={
            **os.environ, "LD_PRELOAD": str(FAKETIME), "FAKETIME": "-3600s",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        },
    )  # fmt: skip
    ahead_ns, distance_ns, stamps = map(int, done.stdout.split())
    now = read_bracket(ruler_ns, time.time_ns)
    assert abs(ahead_ns - (now.wall_ns - now.ruler_ns)) <= distance_ns + 1_000_000
    assert stamps == 0


@pytest.mark.parametrize("ahead_s", [0.05, -0.0123, 0.0003, 0.4])
def test_a_small_offset_comes_out_exact(reference: Chronyd, ahead_s: float) -> None:
    """A chained server is ahead by what it was told, to a tenth of a millisecond."""
    with Chained(reference, ahead_s) as server:
        sample = best_of(ntp(server))
        assert_says(sample, ahead_s)
        assert sample.stratum == 4


@needs_faketime
@pytest.mark.parametrize("ahead_s", [2.5, -2.0, 3600.0])
def test_a_large_offset_comes_out_exact(ahead_s: float) -> None:
    """So is a server with another clock altogether."""
    with Chronyd(faketime=f"{ahead_s:+}s") as server:
        assert_says(best_of(ntp(server)), ahead_s)


@needs_faketime
def test_a_server_in_the_next_era_is_not_136_years_behind() -> None:
    """NTP counts from 0 again on 7 February 2036."""
    with Chronyd(faketime="@2036-03-01 00:00:00") as server:
        begin_s = time.monotonic()
        sample = ntp(server).poll(PATIENCE_S)
        then_s = calendar.timegm((2036, 3, 1, 0, 0, 0))
        assert then_s - 1 <= sample.unix_ns / NS <= then_s + time.monotonic() - begin_s + 60
        far = ntp(server, pivot_unix_s=calendar.timegm((1950, 1, 1, 0, 0, 0)))
        assert far.poll(PATIENCE_S).unix_ns < 0


@needs_faketime
def test_a_server_that_steps_is_followed_by_the_next_sample() -> None:
    """Nothing of the old time is kept."""
    with Chronyd(faketime="+5s") as server:
        source = ntp(server, kernel_stamps=False)
        assert_says(best_of(source), 5.0)
        server.step("-7s")
        assert until(lambda: abs(offset_ns(source.poll(PATIENCE_S)) + 7 * NS) < ON_TIME_NS)


@needs_faketime
def test_a_delay_below_zero_is_refused() -> None:
    """Such a chronyd says that it had the question for longer than it was away."""
    with Chronyd(faketime="+0.3s") as server:
        assert refused(ntp(server), PATIENCE_S).reason == "negative_delay"


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_signed_answer_is_authenticated(tmp_path: Path, number: int) -> None:
    """SHA1 as it is, the longer ones cut to 20 bytes."""
    path = tmp_path / "keys"
    path.write_text("\n".join(KEYS))
    with Chronyd(keys=KEYS) as server:
        sample = ntp(server, key=read_key(path, number)).poll(PATIENCE_S)
    assert sample.authenticated
    assert abs(offset_ns(sample)) <= sample.distance_ns


def test_a_wrong_key_is_silence_with_a_hint(tmp_path: Path) -> None:
    """chronyd does not answer a question whose signature is wrong."""
    path = tmp_path / "keys"
    path.write_text("1 SHA1 HEX:00000000\n")
    with Chronyd(keys=KEYS) as server:
        error = refused(ntp(server, key=read_key(path, 1)))
        assert error.reason == "timeout"
        assert "key" in error.hint
        assert not ntp(server).poll(PATIENCE_S).authenticated


def test_ipv6_serves_as_well() -> None:
    """The same over ::1."""
    with Chronyd(address="::1") as server:
        source = ntp(server)
        assert_says(best_of(source), 0.0)
        assert source.name == f"ntp://[::1]:{server.port}"


def test_a_name_is_served_by_whichever_of_its_addresses_answers(server: Chronyd) -> None:
    """``localhost`` is ::1 and 127.0.0.1, and only one of them has a server."""
    source = NtpSource("localhost", port=server.port)
    assert_says(best_of(source), 0.0)
    assert source.last is not None
    assert source.last.address == "127.0.0.1"


def test_silence_is_over_by_the_deadline() -> None:
    """A server that allows nobody says nothing at all."""
    with Chronyd(allow=False) as server:
        source = ntp(server)
        begin_s = time.monotonic()
        assert refused(source, SHORT_S).reason == "timeout"
        assert SHORT_S <= time.monotonic() - begin_s < PATIENCE_S
        assert source.failures == {"timeout": 1}


def test_an_unsynchronised_server_is_refused(server: Chronyd) -> None:
    """It says so itself."""
    with Chronyd("stratumweight 0") as unsynchronised:
        assert refused(ntp(unsynchronised), PATIENCE_S).reason == "unsynchronised"
        error = refused(tracking(unsynchronised), PATIENCE_S)
        assert error.reason == "unsynchronised"


def test_a_rate_limit_is_a_timeout_and_not_a_failure_for_ever() -> None:
    """This chronyd leaves questions unanswered; it cannot send a kiss of death."""
    with Chronyd("local stratum 3", "ratelimit interval 3 burst 2 leak 4") as server:
        source = ntp(server)
        reasons = []
        for _ in range(12):
            try:
                source.poll(0.1)
            except ClockError as error:
                reasons.append(error.reason)
        assert set(reasons) == {"timeout"}


def test_a_server_that_follows_us_is_a_loop(server: Chronyd) -> None:
    """Its upstream has the address from which we ask."""
    with Chained(server, 0.0) as follower:
        assert refused(ntp(follower), PATIENCE_S).reason == "loop"


def test_distance_grows_while_a_server_has_lost_its_own() -> None:
    """Root dispersion is in the packet, and is part of the distance."""
    with upstream() as lost, Chained(lost, 0.0, "maxclockerror 10000") as server:
        source, asked = ntp(server), tracking(server)
        first_ns = source.poll(PATIENCE_S).distance_ns
        first_asked_ns = asked.poll(PATIENCE_S).distance_ns
        lost.stop()
        assert until(lambda: source.poll(PATIENCE_S).distance_ns > first_ns + 2 * ON_TIME_NS)
        assert asked.poll(PATIENCE_S).distance_ns > first_asked_ns + ON_TIME_NS


def test_tracking_equals_what_chronyc_shows(reference: Chronyd) -> None:
    """Both ask the same chronyd; its root dispersion grows between the two questions."""
    with Chained(reference, 0.05) as server:
        source = tracking(server)

        def equal() -> bool:
            source.poll(PATIENCE_S)
            shown, ours = server.tracking(), source.last
            assert ours is not None
            # 25 bits of coefficient are 2 ns of 50 ms.
            return (
                f"{ours.refid:08X}" == shown["refid"]
                and ours.stratum == int(shown["stratum"])
                and abs(ours.correction_ns - float(shown["correction"]) * NS) < 1000
                and abs(ours.root_delay_ns - float(shown["root_delay"]) * NS) < 1000
                and abs(ours.root_dispersion_ns - float(shown["root_dispersion"]) * NS) < 10**6
                and abs(ours.skew_ppm - float(shown["skew"])) < 0.01
                and abs(ours.frequency_ppm - float(shown["frequency"])) < 0.01
            )

        # It polls 64 times a second, and any of them changes the numbers.
        assert until(equal)


def test_tracking_and_ntp_of_one_chronyd_tell_the_same_time(reference: Chronyd) -> None:
    """The sign of the correction: this chronyd knows the system clock to be 0.05 s slow."""
    with Chained(reference, 0.05) as server:
        asked, served = best_of(tracking(server)), best_of(ntp(server))
        assert abs(offset_ns(asked) - 50_000_000) < 1_000_000
        assert abs(offset_ns(asked) - offset_ns(served)) < 1_000_000
        assert 50_000_000 <= asked.distance_ns < 50_000_000 + ON_TIME_NS
        assert asked.stratum == 4


def test_a_chronyd_that_follows_only_itself_is_no_source(server: Chronyd) -> None:
    """In ``local`` mode it says that its error is 0."""
    error = refused(tracking(server), PATIENCE_S)
    assert error.reason == "local_reference"
    assert error.hint


def test_no_chronyd_is_refused_at_once_with_a_hint(server: Chronyd) -> None:
    """Nothing listens at the command port of one that has ended."""
    source = tracking(server)
    server.stop()
    error = refused(source, PATIENCE_S)
    assert error.reason == "refused"
    assert "cmdport" in error.hint
    assert source.failures == {"refused": 1}


def test_a_server_that_has_ended_is_refused_at_once(server: Chronyd) -> None:
    """ICMP says so; ntplib waits for its timeout."""
    source = ntp(server)
    source.poll(PATIENCE_S)
    server.stop()
    assert refused(source, PATIENCE_S).reason == "refused"


def test_the_best_of_a_burst_is_taken(server: Chronyd) -> None:
    """Four questions, one sample."""
    source = ntp(server, burst=4, burst_interval_s=0.01)
    sample = source.poll(PATIENCE_S)
    assert source.stamps.total() == 4
    assert abs(offset_ns(sample)) <= sample.distance_ns


@pytest.mark.parametrize("reason", ["unsynchronised", "stratum"])
def test_without_both_of_its_checks_an_unsynchronised_server_would_count(
    monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    """Negative control: either check alone refuses it, and nothing else does."""
    checks = [c for c in packets._CHECKS if c[0] not in ("unsynchronised", "stratum")]
    kept = [c for c in packets._CHECKS if c[0] == reason]
    with Chronyd("stratumweight 0") as server:
        monkeypatch.setattr(packets, "_CHECKS", (*checks, *kept))
        assert refused(ntp(server), PATIENCE_S).reason == reason
        monkeypatch.setattr(packets, "_CHECKS", tuple(checks))
        assert ntp(server).poll(PATIENCE_S)
