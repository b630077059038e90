"""How sources are written as text, and what they need: keys, addresses of names, a pace."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clock_helpers import PATIENCE_S, refused
from otel_memoir.clock.options import ConfiguredSource, SourceOptions, configured
from otel_memoir.clock.sources import (
    HttpDateSource,
    NtpSource,
    PeerSource,
    pace,
    parse_source,
    parse_sources,
    read_key,
    resolve,
)
from otel_memoir.errors import ClockError, SettingsError
from otel_memoir.testing import NtpAnswer, ScriptedNtpServer

# -- text ---------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """Keys as chronyd has them."""
    path = tmp_path / "keys"
    path.write_text(
        "# our keys\n\n1 SHA1 HEX:0102ff\n2 sha256 ASCII:secret\n9 SHA384 a:#b\n"
        "3 MD5 old\n4 AES128 HEX:00\n5 oldest\n6 SHA1 HEX:xyz\n7 SHA1 HEX:\n"
    )
    return path


def test_sources_are_made_from_text(key_file: Path) -> None:
    """One of each kind, with its options beside it."""
    made = parse_sources(
        ["system?unknown_ms=1000", "chronyd?prefer", "chronyd://[::1]:11323",
         "ntp://10.0.0.1?key=2&trust&minpoll=3&maxpoll=5&burst=2", "ntp://time.test:1123?require",
         "http-date?minpoll=6"],
        key_file=key_file, endpoint="http://localhost:4318",
    )  # fmt: skip
    assert [one.source.name for one in made] == [
        "system", "chronyd", "chronyd://[::1]:11323", "ntp://10.0.0.1:123",
        "ntp://time.test:1123", "http-date:localhost:4318",
    ]  # fmt: skip
    assert [one.options.prefer for one in made] == [False, True, False, False, False, False]
    assert made[3].options == SourceOptions(trust=True, poll_min_s=8.0, poll_max_s=32.0)
    assert made[4].options.require
    assert made[5].options.noselect


@pytest.mark.parametrize("text", [
    "", "x", "ntp", "ntp:", "ntp://", "ntp://h/path", "ntp://h:0x1", "ntp://h:99999", "ntp://[::1",
    "ntp://h?foo", "ntp://h?prefer=1", "ntp://h?minpoll=x", "ntp://h?minpoll=9&maxpoll=4",
    "ntp://h?burst=5", "ntp://h?key=1", "ntp://h?key=1&keyfile=nowhere", "system://h", "chronyd:5",
    "system?unknown_ms=0", "http-date", "http-date?url=h",
    "http-date?url=https://h&cafile=nowhere", "system?minpoll=4&noselect=yes",
    "ntp://h?key=x&keyfile=nowhere", "ntp://h?minpoll=99999", "ntp://h?minpoll=-99999",
])  # fmt: skip
def test_what_does_not_describe_a_source_is_refused(text: str) -> None:
    """A typing error never means: no source."""
    with pytest.raises(SettingsError):
        parse_source(text)


def test_a_source_given_twice_is_refused() -> None:
    """It would have two votes."""
    with pytest.raises(SettingsError, match="twice"):
        parse_sources(["ntp://h", "ntp://h?prefer"])


def test_what_is_no_reference_by_nature_never_sets_the_time() -> None:
    """Whatever is said beside it."""
    peers, chosen = PeerSource(), SourceOptions(prefer=True)
    assert configured(peers).options.noselect
    for source in (PeerSource(options=chosen), HttpDateSource("http://h", options=chosen)):
        assert source.options == SourceOptions(prefer=True, noselect=True)
    assert configured(ConfiguredSource(peers, chosen)).options == SourceOptions(
        prefer=True, noselect=True
    )
    ntp = ConfiguredSource(NtpSource("127.0.0.1"), chosen)
    assert configured(ntp) is ntp
    assert configured(ntp.source).options == SourceOptions()
    assert parse_source("http-date?url=http://h&prefer").options.noselect


# -- keys ---------------------------------------------------------------------------


def test_keys_are_read_from_chronyds_file(key_file: Path) -> None:
    """Hexadecimal or as they stand; a key is not shown to who prints it."""
    assert read_key(key_file, 1).secret == b"\x01\x02\xff"
    second = read_key(key_file, 2)
    assert (second.kind, second.secret) == ("SHA256", b"secret")
    assert "secret=" not in repr(second)
    assert read_key(key_file, 9).secret == b"a:#b"


@pytest.mark.parametrize("number", [3, 4, 5, 6, 7, 8])
def test_a_key_that_cannot_be_used_is_refused(key_file: Path, number: int) -> None:
    """MD5 is broken, ciphers are not in the standard library, and the rest is not there."""
    with pytest.raises(SettingsError, match="read key file"):
        read_key(key_file, number)


# -- names --------------------------------------------------------------------------


class Names:
    """A name server that answers when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.answer = threading.Event()
        self.found: list[tuple[str, int]] | OSError = [("127.0.0.1", 123), ("127.0.0.2", 123)]
        monkeypatch.setattr(resolve.socket, "getaddrinfo", self._getaddrinfo)

    def _getaddrinfo(self, *given: object) -> list[tuple[object, ...]]:
        if given[-1] == socket.AI_NUMERICHOST:
            raise socket.gaierror("not a number")
        self.asked += 1
        self.answer.wait(PATIENCE_S)
        if isinstance(self.found, OSError):
            raise self.found
        return [(socket.AF_INET, socket.SOCK_DGRAM, 17, "", address) for address in self.found]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Nobody is left waiting for it."""
    made = Names(monkeypatch)
    yield made
    made.answer.set()


def test_a_name_server_that_does_not_answer_cannot_keep_a_poll(names: Names) -> None:
    """The lookup goes on, once, and the poll after its end has the addresses."""
    resolver = resolve.Resolver("time.test", 123)
    for _ in range(3):
        with pytest.raises(ClockError) as caught:
            resolver.endpoints(time.monotonic() + 0.01, "x")
        assert caught.value.reason == "dns_timeout"
    names.answer.set()
    found = resolver.endpoints(time.monotonic() + PATIENCE_S, "x")
    assert [endpoint.address for endpoint in found] == ["127.0.0.1", "127.0.0.2"]
    assert names.asked == 1


def test_a_name_that_is_none_is_said_and_looked_up_again(names: Names) -> None:
    """The address may come later."""
    names.answer.set()
    resolver = resolve.Resolver("time.test", 123)
    good, names.found = names.found, socket.gaierror("no such name")
    with pytest.raises(ClockError) as caught:
        resolver.endpoints(time.monotonic() + PATIENCE_S, "x")
    assert caught.value.reason == "dns_failed"
    assert "no such name" in str(caught.value)
    names.found = good
    assert resolver.endpoints(time.monotonic() + PATIENCE_S, "x")


def test_addresses_are_kept_while_a_new_lookup_fails(names: Names) -> None:
    """Old ones are better than none."""
    names.answer.set()
    resolver = resolve.Resolver("time.test", 123)
    found = resolver.endpoints(time.monotonic() + PATIENCE_S, "x")
    names.found = socket.gaierror("no such name")
    resolver.forget()
    assert resolver.endpoints(time.monotonic() + PATIENCE_S, "x") == found
    assert names.asked == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork: run it on Linux or macOS")
def test_a_lookup_that_a_fork_cut_off_is_begun_again(names: Names) -> None:
    """The parent's thread does not live in the child."""
    resolver = resolve.Resolver("time.test", 123)
    with pytest.raises(ClockError):
        resolver.endpoints(time.monotonic() + 0.01, "x")
    child = os.fork()
    if child == 0:
        names.answer = threading.Event()
        names.answer.set()
        found = resolver.endpoints(time.monotonic() + PATIENCE_S, "x")
        os._exit(len(found))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2


def test_an_address_needs_no_name_server(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of either family, and no thread for it."""
    monkeypatch.undo()
    for address, family in (("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)):
        (endpoint,) = resolve.Resolver(address, 123).endpoints(0.0, "x")
        assert (endpoint.address, endpoint.family) == (address, family)


def test_the_address_that_answered_last_is_asked_first(names: Names) -> None:
    """The one that did not is only asked again when this one fails."""
    names.answer.set()
    with ScriptedNtpServer() as first, ScriptedNtpServer() as second:
        names.found = [(first.host, first.port), (second.host, second.port)]
        source = NtpSource("time.test")
        first.script([NtpAnswer(leap=3)])
        for _ in range(3):
            assert source.poll(PATIENCE_S)
        assert (len(first.questions), len(second.questions)) == (1, 3)
        second.script([NtpAnswer.kiss("DENY")])
        for _ in range(2):
            assert source.poll(PATIENCE_S)
        assert (len(first.questions), len(second.questions)) == (3, 4)
        assert not source.failures


def test_an_address_that_is_silent_leaves_time_for_the_next(names: Names) -> None:
    """Half of what is left each."""
    names.answer.set()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.3", 0))
        port = silent.getsockname()[1]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind(("127.0.0.4", 0))
            names.found = [("127.0.0.3", port), other.getsockname()]
            source = NtpSource("time.test", quick_start=False)
            assert refused(source).reason == "timeout"
            assert select_ready(silent) and select_ready(other)


def select_ready(sock: socket.socket) -> bool:
    """Whether a datagram is there."""
    sock.setblocking(False)
    try:
        return bool(sock.recv(100))
    except BlockingIOError:
        return False


# -- pace ---------------------------------------------------------------------------


def paces(told: list[bool], **given: bool) -> list[float]:
    """The hints after each outcome."""
    asked = pace.Pace(16.0, 64.0, **{"quick_start": False, **given})
    hints = []
    for answered in told:
        asked.polled(answered=answered)
        hints.append(asked.seconds)
    return hints


def test_the_interval_doubles_by_eight_answers_in_a_row_up_to_the_most() -> None:
    """And likewise by misses; a change goes back to the least."""
    hints = paces([True] * 30)
    assert hints[6] == 16.0 and hints[7] == 32.0 and hints[15] == 64.0 and hints[29] == 64.0
    assert paces([True] * 30 + [False])[-1] == 16.0
    assert paces([True] * 30 + [False] * 17)[-1] == 64.0


def test_the_first_four_polls_follow_each_other_quickly() -> None:
    """Then there is something to vote on."""
    assert paces([True] * 5, quick_start=True) == [2.0, 2.0, 2.0, 16.0, 16.0]


def test_a_public_server_is_not_asked_more_than_once_a_minute(names: Names) -> None:
    """Whatever was configured; others pay for it. Nothing is sent in this test."""
    names.answer.set()
    names.found = [("1.1.1.1", 123)]
    source = NtpSource("time.test", options=SourceOptions(poll_min_s=1.0, poll_max_s=8.0))
    source._usable(time.monotonic() + PATIENCE_S)
    source._pace.polled(answered=True)
    for _ in range(4):
        source._pace.polled(answered=True)
    assert source.poll_hint_s == 64.0
