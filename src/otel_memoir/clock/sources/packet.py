"""NTP packets: what is asked, what is answered, and every check of RFC 5905 between them.

ntplib reads and writes the fields. It checks none of them, and its timestamps are floats
with steps of 477 ns, so timestamps are taken from the bytes as integers.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import ntplib

VERSION = 4
PACKET_BYTES = 48
NTP_TO_UNIX_S = 2_208_988_800
"""Seconds from 1900, where NTP's first era begins, to 1970."""
PIVOT_UNIX_S = 1_767_225_600
"""2026-01-01, before which this was not written: of the possible eras of a timestamp the
nearest to it is meant, 1958 to 2094."""
DISTANCE_MAX_NS = 16 * 10**9
DRIFT_PPM = 500
"""How wrong the ruler's own rate may be while nobody has measured it (the kernel's own
assumption, MAXFREQ)."""

_CLIENT, _SERVER = 3, 4
_UNSYNCHRONISED = 3
_ERA_S = 1 << 32


class Refusal(NamedTuple):
    """Why a packet cannot be used: the name it is counted under, and words."""

    reason: str
    cause: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The fields of an answer.

    Attributes:
        root_delay_ns: Round trip from the server to its reference clock, rounded up.

        root_dispersion_ns: The server's own error, rounded up.

        precision_ns: Resolution of the server's clock, rounded up.

        refid: Whom the server follows; at stratum 0 the kiss code.

        origin: What the server says was the transmit timestamp of the question.

        receive, transmit: 64-bit NTP timestamps; the era is not in them.
    """

    leap: int
    version: int
    mode: int
    stratum: int
    root_delay_ns: int
    root_dispersion_ns: int
    precision_ns: int
    refid: int
    origin: bytes
    receive: int
    transmit: int

    @property
    def kiss_code(self) -> str:
        """RATE, DENY, RSTR, …; empty when this is no kiss of death (RFC 5905, 7.4)."""
        code = self.refid.to_bytes(4, "big").rstrip(b"\0")
        return code.decode() if self.stratum == 0 and code.isalpha() and code.isascii() else ""

    @property
    def served_ns(self) -> int:
        """How long the server had the question; negative when its stamps are in disorder."""
        span = (self.transmit - self.receive) % (1 << 64)
        return _fraction_ns(span - (1 << 64) if span >> 63 else span)


def request(cookie: bytes) -> bytes:
    """A question. ``cookie`` stands where the time of sending does: 8 random bytes that an
    answer must repeat, and the server learns nothing about our clock.
    """
    return bytes(ntplib.NTPPacket(version=VERSION, mode=_CLIENT).to_data()[:40]) + cookie


def decode(data: bytes) -> Reply | Refusal:
    """Read a packet's fields."""
    if len(data) < PACKET_BYTES:
        return Refusal("truncated", f"{len(data)} bytes are not a packet")
    packet = ntplib.NTPStats()
    packet.from_data(data)
    return Reply(
        leap=packet.leap, version=packet.version, mode=packet.mode, stratum=packet.stratum,
        root_delay_ns=_short_ns(data[4:8]), root_dispersion_ns=_short_ns(data[8:12]),
        precision_ns=_precision_ns(packet.precision), refid=packet.ref_id, origin=data[24:32],
        receive=int.from_bytes(data[32:40], "big"), transmit=int.from_bytes(data[40:48], "big"),
    )


_CHECKS: tuple[tuple[str, Callable[[Reply], bool], str], ...] = (
    ("version", lambda r: 3 <= r.version <= 4, "it is neither version 3 nor 4"),
    ("mode", lambda r: r.mode == _SERVER, "it is not from a server"),
    ("kod_rate", lambda r: r.kiss_code != "RATE", "the server wants to be asked less often"),
    ("kod_deny", lambda r: r.kiss_code != "DENY", "the server denies us service"),
    ("kod_rstr", lambda r: r.kiss_code != "RSTR", "the server's rules keep us out"),
    ("kod", lambda r: not r.kiss_code, "it is a kiss of death of another kind"),
    ("unsynchronised", lambda r: r.leap != _UNSYNCHRONISED, "the server is not synchronised"),
    ("stratum", lambda r: 1 <= r.stratum <= 15, "its stratum is not 1 to 15"),
    ("no_transmit_time", lambda r: r.transmit != 0, "the time of sending is missing"),
    ("times_disordered", lambda r: r.served_ns >= 0, "it was sent before the question came"),
    (
        "root_distance",
        lambda r: r.root_delay_ns // 2 + r.root_dispersion_ns + r.precision_ns < DISTANCE_MAX_NS,
        "the server is 16 s or more from its reference",
    ),
)


def refusal(reply: Reply, local_refid: int) -> Refusal | None:
    """Judge an answer that repeats our cookie; ``local_refid`` is who we are to the server."""
    for reason, holds, cause in _CHECKS:
        if not holds(reply):
            return Refusal(reason, cause)
    # At stratum 1 the refid is the name of a clock, not an address.
    if reply.stratum > 1 and reply.refid == local_refid:
        return Refusal("loop", "the server follows the very address that asks it")
    return None


def refid_of(address: str) -> int:
    """What an address is called in a refid: itself, or of IPv6 the head of its MD5."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    packed = ip.packed
    if ip.version == 6:
        packed = hashlib.md5(packed, usedforsecurity=False).digest()
    return int.from_bytes(packed[:4], "big")


class Measured(NamedTuple):
    """The server's time when the answer came, how wrong it can be, and the round trip."""

    unix_ns: int
    distance_ns: int
    delay_ns: int


def measure(
    reply: Reply, *, sent_ns: int, received_ns: int, error_ns: int, pivot_unix_s: int
) -> Measured | Refusal:
    """The on-wire computation of RFC 5905, section 8, on the ruler.

    Args:
        reply: An answer that has passed every check.

        sent_ns: The ruler when the question left.

        received_ns: The ruler when the answer came.

        error_ns: How wrong these two can be.

        pivot_unix_s: Of the possible eras, the nearest to this is meant.
    """
    server_receive_ns = _unix_ns(reply.receive, pivot_unix_s)
    server_transmit_ns = server_receive_ns + reply.served_ns
    away_ns = received_ns - sent_ns
    delay_ns = away_ns - reply.served_ns
    slack_ns = reply.precision_ns + error_ns + away_ns * DRIFT_PPM // 10**6 + 1
    if delay_ns < -slack_ns:
        return Refusal("negative_delay", "the server had it for longer than it was away")
    delay_ns = max(delay_ns, 0)
    ahead_ns = (server_receive_ns - sent_ns + server_transmit_ns - received_ns) // 2
    distance_ns = (delay_ns + reply.root_delay_ns + 1) // 2 + reply.root_dispersion_ns + slack_ns
    return Measured(received_ns + ahead_ns, distance_ns, delay_ns)


def _unix_ns(stamp: int, pivot_unix_s: int) -> int:
    seconds = (stamp >> 32) - NTP_TO_UNIX_S
    seconds += (pivot_unix_s - seconds + _ERA_S // 2) // _ERA_S * _ERA_S
    return seconds * 10**9 + _fraction_ns(stamp & 0xFFFFFFFF)


def _fraction_ns(units: int) -> int:
    return (units * 10**9 + (1 << 31)) >> 32


def _short_ns(field: bytes) -> int:
    """A 16.16 field in nanoseconds, rounded up: it is part of a bound."""
    return -(-int.from_bytes(field, "big") * 10**9 >> 16)


def _precision_ns(exponent: int) -> int:
    return 10**9 << exponent if exponent >= 0 else max(1, -(-(10**9) >> -exponent))
