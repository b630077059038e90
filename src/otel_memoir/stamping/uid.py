"""Ids of emissions: UUID version 7 (RFC 9562, section 5.7)."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

_VERSION_7 = 0x7 << 76
_VARIANT = 0b10 << 62
_RANDOM_A = 0xFFF << 64
_RANDOM_B = (1 << 62) - 1

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
        self._chunks: Iterator[bytes] = iter(())

    def draw(self) -> int:
        """The next 80 random bits. Taking one from a list's iterator is one step."""
        if self._pid != os.getpid():
            self._refill()
        while True:
            for chunk in self._chunks:
                return int.from_bytes(chunk, "big")
            self._refill()

    def _refill(self) -> None:
        drawn = os.urandom(_NOISE_BYTES * _CHUNKS)
        self._chunks = iter(
            [drawn[at : at + _NOISE_BYTES] for at in range(0, len(drawn), _NOISE_BYTES)]
        )
        self._pid = os.getpid()


_noise = _Noise()


def new_uid(unix_ns: int | None = None) -> str:
    """A fresh id: 48 bits of milliseconds, then 74 random bits from the system."""
    milliseconds = (time.time_ns() if unix_ns is None else unix_ns) // 1_000_000
    noise = _noise.draw()
    value = (
        (milliseconds & 0xFFFFFFFFFFFF) << 80
        | _VERSION_7 | noise & _RANDOM_A | _VARIANT | noise & _RANDOM_B
    )
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
