"""The kernel's own stamps on packets: when one really left, and when one really came.

With four busy Python threads, a stamp that Python takes is late by up to 45 ms, because the
thread waits for the interpreter lock. The kernel's stamps are taken in the network stack.
"""

from __future__ import annotations

import platform
import socket
import struct
import sys
from collections.abc import Iterable

# <asm-generic/socket.h>; alpha, mips, parisc and sparc have other numbers.
_SO_TIMESTAMPING = 37
_NUMBERED_OTHERWISE = ("alpha", "mips", "parisc", "sparc")
# <linux/net_tstamp.h>
_TX_SOFTWARE, _RX_SOFTWARE, _SOFTWARE, _TSONLY = 1 << 1, 1 << 3, 1 << 4, 1 << 11
_FLAGS = _TX_SOFTWARE | _RX_SOFTWARE | _SOFTWARE | _TSONLY
_TIMESPEC = struct.Struct("@ll")

ANCILLARY_BYTES = 512
Ancillary = Iterable["tuple[int, int, bytes]"]


def enable(sock: socket.socket) -> bool:
    """Ask for stamps on a socket; return whether there will be any."""
    if sys.platform != "linux" or struct.calcsize("@l") != 8:
        return False
    if platform.machine().startswith(_NUMBERED_OTHERWISE):
        return False
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPING, _FLAGS)
    except OSError:
        return False
    return True


def stamp_of(ancillary: Ancillary) -> int | None:
    """The software stamp that came with a packet, CLOCK_REALTIME in nanoseconds."""
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == _SO_TIMESTAMPING:
            seconds, nanoseconds = _TIMESPEC.unpack_from(data)
            if seconds or nanoseconds:
                return int(seconds * 10**9 + nanoseconds)
    return None


def sent_stamp(sock: socket.socket) -> int | None:
    """The stamp of what was sent, if the kernel has put it into the error queue by now."""
    if sys.platform != "linux":
        return None
    while True:
        try:
            _, ancillary, _, _ = sock.recvmsg(
                0, ANCILLARY_BYTES, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT
            )
        except OSError:
            return None
        stamp = stamp_of(ancillary)
        if stamp is not None:
            return stamp
