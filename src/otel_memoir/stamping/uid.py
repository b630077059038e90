"""Ids of emissions: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

# The variant is the two highest bits of its digit; the other two are random.
_VARIANT = dict(zip("0123456789abcdef", "89ab" * 4))

_NOISE_BYTES = 10
_CHUNKS = 400


class _Noise:
    """Random bytes of the system, drawn in bulk.

    Each call of ``os.urandom`` lets other threads run: among 16 emitters it took 8 µs
    instead of 0.5. Not ``random``, whose state a fork child inherits where fork hooks
    are not called (uWSGI): two children would give the same ids. The pid is compared
    for the same reason.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._chunks: Iterator[str] = iter(())

    def draw(self) -> str:
        """The next 20 random hex digits. Taking them from a list's iterator is one step."""
        if self._pid != os.getpid():
            self._refill()
        while True:
            for chunk in self._chunks:
                return chunk
            self._refill()

    def _refill(self) -> None:
        drawn, size = os.urandom(_NOISE_BYTES * _CHUNKS).hex(), 2 * _NOISE_BYTES
        self._chunks = iter([drawn[at : at + size] for at in range(0, len(drawn), size)])
        self._pid = os.getpid()


_noise = _Noise()
_latest = (0, "00000000-0000-7")


def new_uid(unix_ns: int | None = None) -> str:
    """A fresh id: 48 bits of milliseconds, then 74 random bits from the system."""
    global _latest
    milliseconds = (time.time_ns() if unix_ns is None else unix_ns) // 1_000_000
    known, head = _latest
    if known != milliseconds:
        digits = f"{milliseconds & 0xFFFFFFFFFFFF:012x}"
        head = f"{digits[:8]}-{digits[8:]}-7"
        _latest = milliseconds, head
    noise = _noise.draw()
    return f"{head}{noise[:3]}-{_VARIANT[noise[3]]}{noise[4:7]}-{noise[7:19]}"
