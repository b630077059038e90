"""``adjtimex(2)``, asked without changing anything: what the kernel knows of its clock."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from dataclasses import dataclass

from otel_memoir.errors import ClockError

STA_UNSYNC = 0x0040
_STA_NANO = 0x2000
TIME_OOP = 3
TIME_ERROR = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Timex:
    """The fields that tell of quality.

    Attributes:
        state: What the call returned: 0 in order, 3 a leap second is on, 5 an error.

        status: The STA_* bits.

        offset_ns: What the kernel's own loop has still to correct.

        maxerror_us: Greatest error. It grows by 500 µs in each second since it was last
            written, up to 16 s.

        esterror_us: Estimated error; what wrote it last says what it means.
    """

    state: int
    status: int
    offset_ns: int
    maxerror_us: int
    esterror_us: int

    @property
    def unsynchronised(self) -> bool:
        return bool(self.status & STA_UNSYNC) or self.state == TIME_ERROR


class _Structure(ctypes.Structure):
    # struct timex of <sys/timex.h> where long and time_t have 64 bits.
    _fields_ = (
        ("modes", ctypes.c_uint), ("offset", ctypes.c_long), ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long), ("esterror", ctypes.c_long), ("status", ctypes.c_int),
        ("constant", ctypes.c_long), ("precision", ctypes.c_long), ("tolerance", ctypes.c_long),
        ("seconds", ctypes.c_long), ("fraction", ctypes.c_long), ("tick", ctypes.c_long),
        ("ppsfreq", ctypes.c_long), ("jitter", ctypes.c_long), ("shift", ctypes.c_int),
        ("stabil", ctypes.c_long), ("jitcnt", ctypes.c_long), ("calcnt", ctypes.c_long),
        ("errcnt", ctypes.c_long), ("stbcnt", ctypes.c_long), ("tai", ctypes.c_int),
        ("reserved", ctypes.c_int * 11),
    )


def read_timex() -> Timex:
    """Ask the kernel.

    Raises:
        ClockError: There is nothing to ask (``unsupported``), or it is forbidden (``denied``).
    """
    if sys.platform != "linux" or struct.calcsize("@l") != 8:
        raise _error("unsupported", "only 64-bit Linux tells the quality of its clock")
    asked = _Structure()
    try:
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(asked))
    except (OSError, AttributeError) as error:
        raise _error("unsupported", error) from error
    if state < 0:
        raise _error("denied", os.strerror(ctypes.get_errno()))
    unit_ns = 1 if asked.status & _STA_NANO else 1000
    return Timex(
        state=state, status=asked.status, offset_ns=asked.offset * unit_ns,
        maxerror_us=asked.maxerror, esterror_us=asked.esterror,
    )


def _error(reason: str, cause: object) -> ClockError:
    return ClockError(
        reason, source="system", cause=cause,
        hint="Configure chronyd or an NTP server as a source instead.",
    )
