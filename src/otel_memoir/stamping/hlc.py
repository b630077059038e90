"""The hybrid logical clock: no effect is stamped before its cause, in one number of ns.

Kulkarni and others' clock (2014) has a physical and a logical part. Here the logical part
is folded into the last digits of the nanoseconds (arXiv 2104.15099): a stamp is
``max(clock, last + 1)``, and a time that a peer tells raises ``last``. Neither ever moves
the clock itself.

Promises: the times that one object gives out strictly increase, over all threads and all
streams of the process; a time given out after a merge is later than the merged one; by
merging, it leads the clock by at most ``offset_max_ns``, whatever peers say.

There is no lock. One would take 250 ns of a stamp's 700, would be inherited taken by a
fork child, and a signal handler that emits would wait for its own thread. Instead
``last`` is a heap of one element, and ``heapq.heappushpop`` on it is "store if greater",
done in C in one step.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappushpop
from typing import TYPE_CHECKING

from otel_memoir.clock import Clock, SystemClock

if TYPE_CHECKING:
    from otel_memoir.spool import Stream

OFFSET_MAX_NS = 500_000_000
"""How far ahead of ours a peer's clock may be: CockroachDB's and YugabyteDB's default."""

TIME_MAX_NS = 2**63 - 1

TOO_FAR = "too_far"
MALFORMED = "malformed"
REASONS = (TOO_FAR, MALFORMED)
"""Why a peer's time was refused; the names under which it is counted."""

Latest = list[int]
"""The latest time given out or merged, alone in a list: a heap of one element."""

Position = tuple["Stream", int]
"""A stream, and the last sequence number that was stamped in it."""


@dataclass(frozen=True, kw_only=True)
class HybridStatus:
    """A hybrid clock at one moment.

    Attributes:
        lead_ns: How far its next time would be ahead of the clock.

        merged: Times of peers that were taken.

        disagreed: Those of them whose whole interval lay after ours, so that one of the
            two bounds is false.

        refused: Times of peers that were not taken, by reason.
    """

    lead_ns: int
    merged: int
    disagreed: int
    refused: dict[str, int]


class Count:
    """A counter that several threads may raise without a lock."""

    def __init__(self) -> None:
        # ``next`` of a count is one step in C; reading takes a number of its own.
        self._raised, self._read = itertools.count(), itertools.count()

    def add(self) -> None:
        """Count one more."""
        next(self._raised)

    @property
    def value(self) -> int:
        """How often ``add`` was called."""
        return next(self._raised) - next(self._read)


def give_out(
    latest: Latest, now_ns: int, error_bound_ns: int | None
) -> tuple[int, int | None]:
    """The next time of a clock that shows ``now_ns``: that, or one later than the latest."""
    if heappushpop(latest, now_ns) != now_ns:
        return now_ns, error_bound_ns
    return later_than(latest, now_ns, error_bound_ns)


def later_than(
    latest: Latest, now_ns: int, error_bound_ns: int | None
) -> tuple[int, int | None]:
    """The next time after the latest, where the clock is not later than that.

    Returns:
        The time, now the latest itself, and its bound: that of the clock and, on top, how
        far the time leads the clock.
    """
    while True:
        later = latest[0] + 1
        if heappushpop(latest, later) != later:
            return later, None if error_bound_ns is None else error_bound_ns + later - now_ns


class HybridClock:
    """What the stampers of a process share.

    Args:
        clock: What tells the time to those who have no clock of their own.

        offset_max_ns: How far ahead of the clock a peer's time may be.
    """

    def __init__(self, *, clock: Clock | None = None, offset_max_ns: int = OFFSET_MAX_NS) -> None:
        self.clock: Clock = clock or SystemClock()
        self.offset_max_ns = offset_max_ns
        self.latest: Latest = [0]
        self._latest_of = {0: self.latest}
        self.position: Callable[[], Position | None] = lambda: None
        self._merged, self._disagreed = Count(), Count()
        self._refused = {reason: Count() for reason in REASONS}

    def follow(self, clock: Clock, position: Callable[[], Position | None]) -> None:
        """Note which clock the process's stamps come from, and where its stream is."""
        self.clock, self.position = clock, position

    def send(self, now_ns: int, error_bound_ns: int | None) -> tuple[int, int | None]:
        """Give out a time that is later than all given out or merged before.

        Args:
            now_ns: What the clock shows.

            error_bound_ns: How far that can be from true time.

        Returns:
            A time in unix ns, and its bound.
        """
        return give_out(self.latest, now_ns, error_bound_ns)

    def merge(
        self, remote_ns: int, error_ns: int | None, now_ns: int, error_bound_ns: int | None = None
    ) -> bool:
        """Take a time that a peer told: what is stamped from now on is later than it.

        Args:
            remote_ns: The peer's time, in unix ns.

            error_ns: How far it can be from true time, as the peer says. It does not widen
                ``offset_max_ns``: else a peer would choose its own limit.

            now_ns: What our clock shows.

            error_bound_ns: How far that can be from true time.

        Returns:
            Whether it was taken. If not, nothing changed but a counter.
        """
        if not 0 < remote_ns <= TIME_MAX_NS or not 0 <= (error_ns or 0) <= TIME_MAX_NS:
            return self.refuse(MALFORMED)
        if remote_ns - now_ns > self.offset_max_ns:
            return self.refuse(TOO_FAR)
        if error_ns is not None and error_bound_ns is not None and (
            remote_ns - error_ns > now_ns + error_bound_ns
        ):
            self._disagreed.add()
        heappushpop(self.latest, remote_ns)
        self._merged.add()
        return True

    def refuse(self, reason: str) -> bool:
        """Count a peer's time that is not taken; return false."""
        self._refused[reason].add()
        return False

    def enter(self, clock_epoch: int) -> Latest:
        """What a stream that begins now shares with others, by the epoch of its clock.

        A clock begins an epoch when it had to go back. What was given out before does not
        hold its later epochs back, and a stream keeps what it entered with: it never goes
        back itself, but its owner begins a new epoch of it, which enters anew.
        """
        latest = self._latest_of.setdefault(clock_epoch, [0])
        if clock_epoch == max(self._latest_of):
            self.latest = latest
        return latest

    def status(self) -> HybridStatus:
        """What peers and steps of the clock have done to it."""
        return HybridStatus(
            lead_ns=max(0, self.latest[0] + 1 - self.clock.read()[0]),
            merged=self._merged.value, disagreed=self._disagreed.value,
            refused={reason: count.value for reason, count in self._refused.items()},
        )


process_clock = HybridClock()
"""The one of this process. A fork child goes on from its parent's: what it does comes after."""
