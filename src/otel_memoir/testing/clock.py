"""Clocks that stand still until they are moved."""

from __future__ import annotations

import threading


class FakeClock:
    """A wall clock and a monotonic clock that stand still until they are moved.

    Args:
        wall_unix_ns: What the wall clock shows at first, in nanoseconds since 1970.
    """

    def __init__(self, wall_unix_ns: int = 1_700_000_000 * 10**9) -> None:
        self._lock = threading.Lock()
        self._wall_ns = wall_unix_ns
        self._monotonic_ns = 10**12

    def wall_ns(self) -> int:
        """What ``time.time_ns`` would say."""
        with self._lock:
            return self._wall_ns

    def monotonic_s(self) -> float:
        """What ``time.monotonic`` would say."""
        with self._lock:
            return self._monotonic_ns / 1e9

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        with self._lock:
            self._wall_ns += round(seconds * 1e9)
            self._monotonic_ns += round(seconds * 1e9)

    def jump(self, seconds: float) -> None:
        """Set the wall clock forward, or with a negative number back. No time passes."""
        with self._lock:
            self._wall_ns += round(seconds * 1e9)
