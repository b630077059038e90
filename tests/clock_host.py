"""What the tests of the clock share: a host in virtual time, and sources that do as told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from otel_memoir.clock import Sample, ruler_ns
from otel_memoir.errors import ClockError

S = 10**9
MS = 10**6
NOW_NS = 1_800_000_000 * S


class Host:
    """A ruler and a wall clock that stand still until they are moved; true time is known."""

    def __init__(self, *, rate: float = 0.0) -> None:
        self.true_ns = NOW_NS
        self.wall_off_ns = 0
        self._rate = rate
        self._ruler_ns = 10**15

    def ruler(self) -> int:
        """The ruler."""
        return self._ruler_ns

    def wall(self) -> int:
        """The system's clock."""
        return self.true_ns + self.wall_off_ns

    def advance(self, ns: int) -> None:
        """Let time pass."""
        self.true_ns += ns
        self._ruler_ns += ns + round(ns * self._rate)

    def suspend(self, ns: int) -> None:
        """Let time pass that the ruler does not see."""
        self.true_ns += ns


class Told:
    """A source that says true time, with an error, or nothing.

    Args:
        host: Whose true time it says; by default the system's clock is true.
    """

    def __init__(self, name: str = "told", host: Host | None = None) -> None:
        self.name = name
        self.off_ns = 0
        self.distance_ns = MS
        self.refuses = ""
        self.asked = 0
        self.answered = threading.Event()
        self.before: Callable[[], object] = lambda: None
        self._host = host

    def poll(self, timeout: float) -> Sample:
        """As a source's."""
        self.asked += 1
        self.before()
        if self.refuses:
            raise ClockError(self.refuses, source=self.name)
        host = self._host
        self.answered.set()
        return Sample(
            source=self.name, ruler_ns=host.ruler() if host else ruler_ns(),
            unix_ns=(host.true_ns if host else time.time_ns()) + self.off_ns,
            distance_ns=self.distance_ns, delay_ns=self.distance_ns, stratum=2,
        )
