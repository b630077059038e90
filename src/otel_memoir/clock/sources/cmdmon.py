"""chronyd's command protocol, version 6, as far as ``tracking`` needs it (chrony, candm.h)."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from otel_memoir.clock.sources.packet import Refusal

VERSION = 6
_COMMAND, _REPLY = 1, 2
_TRACKING, _TRACKING_REPLY = 33, 5
_SUCCESS, _UNAUTHORISED, _BAD_VERSION = 0, 2, 18

_REQUEST = struct.Struct("!BBxxHHI8x")
_HEADER = struct.Struct("!BBxxHHH6xI8x")
_TRACKING_BODY = struct.Struct("!I20xHHIII9I")
REPLY_BYTES = _HEADER.size + _TRACKING_BODY.size
"""104. A request is padded to the size of its answer, or chronyd is silent: it will not be
used to send more to a forged address than it got."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracking:
    """What ``chronyc tracking`` shows.

    Attributes:
        refid: Whom it follows; 0 when nobody.

        stratum: Its own.

        leap: 0 normal, 1 and 2 a leap second is coming, 3 not synchronised.

        correction_ns: What must be added to the system clock to get its best estimate.

        root_delay_ns, root_dispersion_ns: Towards the reference clock, now.

        skew_ppm: How wrong its estimate of the frequency can be.

        frequency_ppm: By how much the system clock would gain if left alone.
    """

    refid: int
    stratum: int
    leap: int
    correction_ns: int
    root_delay_ns: int
    root_dispersion_ns: int
    skew_ppm: float
    frequency_ppm: float


def tracking_request(sequence: int) -> bytes:
    """Ask for ``tracking``; ``sequence`` is any 32-bit number and comes back."""
    return _REQUEST.pack(VERSION, _COMMAND, _TRACKING, 0, sequence).ljust(REPLY_BYTES, b"\0")


def answers(data: bytes, sequence: int) -> bool:
    """Whether a datagram answers the request with this number, well or badly."""
    if len(data) < _HEADER.size:
        return False
    version, kind, command, _, _, theirs = _HEADER.unpack_from(data)
    return (kind, command, theirs) == (_REPLY, _TRACKING, sequence) and version <= VERSION


def decode_tracking(data: bytes) -> Tracking | Refusal:
    """Read an answer that `answers` has let pass."""
    version, _, _, reply, status, _ = _HEADER.unpack_from(data)
    if version != VERSION or status == _BAD_VERSION:
        return Refusal("protocol", f"it speaks version {version} of the command protocol")
    if status == _UNAUTHORISED:
        return Refusal("denied", "it does not tell this host")
    if status != _SUCCESS or reply != _TRACKING_REPLY or len(data) < REPLY_BYTES:
        return Refusal("malformed", f"status {status}, reply {reply}, {len(data)} bytes")
    refid, stratum, leap, _, _, _, *floats = _TRACKING_BODY.unpack_from(data, _HEADER.size)
    return Tracking(
        refid=refid, stratum=stratum, leap=leap, correction_ns=_ns(floats[0]),
        root_delay_ns=_ns(floats[6]), root_dispersion_ns=_ns(floats[7]),
        skew_ppm=_value(floats[5]), frequency_ppm=_value(floats[3]),
    )


def _parts(word: int) -> tuple[int, int]:
    """A float of candm.h: 7 bits of exponent and 25 of coefficient, both signed."""
    exponent, coefficient = word >> 25, word & 0x1FFFFFF
    exponent -= (exponent & 0x40) << 1
    coefficient -= (coefficient & 0x1000000) << 1
    return coefficient, exponent - 25


def _ns(word: int) -> int:
    coefficient, exponent = _parts(word)
    scaled = coefficient * 10**9
    return scaled << exponent if exponent >= 0 else -(-scaled >> -exponent)


def _value(word: int) -> float:
    coefficient, exponent = _parts(word)
    return float(coefficient * 2.0**exponent)
