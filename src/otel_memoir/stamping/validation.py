"""Is a stream whole, in order and only there once?

``StreamValidator`` says of each event, as it arrives, what is wrong with it; what it says
depends on the order of arrival, and must. ``gaps_of`` and ``regressions_of`` say what is
wrong with a set of events, however they arrived.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import NamedTuple

from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.hlc import OFFSET_MAX_NS

DIGESTS_KEPT_MAX = 1024
"""Of how many records of an epoch the digest is kept, to tell a copy from a conflict."""


class Verdict(str, enum.Enum):
    """What is to be said of an event.

    - OK: the next of its stream.
    - LATE: it fills a gap.
    - DUPLICATE: it was there before.
    - CONFLICT: another record was there before with its number; a clone, or a fork.
    - GAP: numbers before it are missing, so far.
    - TIME_REGRESSION: its time is not later than that of the number before.
    - STALE_EPOCH: its stream has begun a later epoch; a zombie, or a straggler.
    - FUTURE: its time is further ahead than any clock should be.
    """

    OK = "ok"
    LATE = "late"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    GAP = "gap"
    TIME_REGRESSION = "time_regression"
    STALE_EPOCH = "stale_epoch"
    FUTURE = "future"


class Finding(NamedTuple):
    """A verdict; ``missing`` is how many numbers a gap has."""

    verdict: Verdict
    missing: int = 0


class Gap(NamedTuple):
    """Consecutive numbers of an epoch of a stream that are not there."""

    stream: str
    epoch: int
    first: int
    last: int

    @property
    def missing(self) -> int:
        """How many numbers that are."""
        return self.last - self.first + 1


@dataclass(eq=False)
class _Epoch:
    """What is known of one epoch of one stream.

    Attributes:
        highest: The highest number seen.

        holes: What is missing below it, as (first, last), sorted.

        last_ns: The time of the highest number.

        digests: The digests of the records seen last, by number.
    """

    highest: int = 0
    holes: list[tuple[int, int]] = field(default_factory=list)
    last_ns: int = 0
    digests: OrderedDict[int, str] = field(default_factory=OrderedDict)

    def remember(self, sequence: int, digest: str) -> None:
        self.digests[sequence] = digest
        if len(self.digests) > DIGESTS_KEPT_MAX:
            self.digests.popitem(last=False)

    def fill(self, sequence: int) -> bool:
        """Take a number out of the holes; return whether it was in one."""
        at = bisect_right(self.holes, (sequence, _HIGHEST)) - 1
        if at < 0 or not self.holes[at][0] <= sequence <= self.holes[at][1]:
            return False
        first, last = self.holes[at]
        left = [(first, sequence - 1), (sequence + 1, last)]
        self.holes[at : at + 1] = [hole for hole in left if hole[0] <= hole[1]]
        return True


_HIGHEST = 2**64


class StreamValidator:
    """Looks at events as they arrive, of any number of streams.

    Args:
        offset_max_ns: How far ahead of the caller's ``now_ns`` a time may be.
    """

    def __init__(self, *, offset_max_ns: int = OFFSET_MAX_NS) -> None:
        self._offset_max_ns = offset_max_ns
        self._epochs: dict[tuple[str, int], _Epoch] = {}
        self._newest: dict[str, int] = {}

    def check(self, event: StampedEvent, *, now_ns: int | None = None) -> tuple[Finding, ...]:
        """Say what is to be said of an event, and remember it.

        Args:
            event: The event.

            now_ns: The time, in unix ns; without it nothing is in the future.

        Returns:
            One or more verdicts; OK stands alone.
        """
        found = [*self._place(event), *self._time(event, now_ns)]
        newest = self._newest.setdefault(event.stream, event.epoch)
        if event.epoch < newest:
            found.append(Finding(Verdict.STALE_EPOCH))
        self._newest[event.stream] = max(newest, event.epoch)
        self._note(event)
        return tuple(found) or (Finding(Verdict.OK),)

    def _epoch(self, event: StampedEvent) -> _Epoch:
        return self._epochs.setdefault((event.stream, event.epoch), _Epoch())

    def _place(self, event: StampedEvent) -> Iterator[Finding]:
        known = self._epoch(event)
        if event.sequence > known.highest:
            missing = event.sequence - known.highest - 1
            if missing:
                yield Finding(Verdict.GAP, missing)
        elif known.fill(event.sequence):
            yield Finding(Verdict.LATE)
        else:
            # Of a record that is too long ago its digest is forgotten: then it is a copy.
            before = known.digests.get(event.sequence, event.digest)
            same = before == event.digest
            yield Finding(Verdict.DUPLICATE if same else Verdict.CONFLICT)

    def _time(self, event: StampedEvent, now_ns: int | None) -> Iterator[Finding]:
        known = self._epoch(event)
        if event.sequence > known.highest > 0 and event.unix_ns <= known.last_ns:
            yield Finding(Verdict.TIME_REGRESSION)
        if now_ns is not None and event.unix_ns - now_ns > self._offset_max_ns:
            yield Finding(Verdict.FUTURE)

    def _note(self, event: StampedEvent) -> None:
        known = self._epoch(event)
        known.digests.setdefault(event.sequence, event.digest)
        known.remember(event.sequence, known.digests[event.sequence])
        if event.sequence > known.highest:
            if event.sequence > known.highest + 1:
                known.holes.append((known.highest + 1, event.sequence - 1))
            known.highest, known.last_ns = event.sequence, event.unix_ns

    def gaps(self) -> tuple[Gap, ...]:
        """What is missing now below the highest number of each epoch."""
        return tuple(
            Gap(stream, epoch, first, last)
            for (stream, epoch), known in sorted(self._epochs.items())
            for first, last in known.holes
        )

    def forget(self, stream: str) -> None:
        """Forget a stream that has ended: what is known of it takes memory."""
        self._newest.pop(stream, None)
        for key in [key for key in self._epochs if key[0] == stream]:
            del self._epochs[key]


# -- of a set -----------------------------------------------------------------


def gaps_of(events: Iterable[StampedEvent]) -> tuple[Gap, ...]:
    """What is missing below the highest number of each epoch: the complement of a set."""
    numbers: dict[tuple[str, int], set[int]] = defaultdict(set)
    for event in events:
        numbers[event.stream, event.epoch].add(event.sequence)
    return tuple(
        Gap(stream, epoch, earlier + 1, later - 1)
        for (stream, epoch), there in sorted(numbers.items())
        for earlier, later in _neighbours(there)
        if later - earlier > 1
    )


def _neighbours(numbers: set[int]) -> Iterator[tuple[int, int]]:
    ordered = [0, *sorted(number for number in numbers if number > 0)]
    return pairwise(ordered)


def regressions_of(events: Iterable[StampedEvent]) -> tuple[StampedEvent, ...]:
    """The events of a set whose time is not later than that of a lower number of their epoch."""
    lines: dict[tuple[str, int], list[StampedEvent]] = defaultdict(list)
    for event in set(events):
        lines[event.stream, event.epoch].append(event)
    return tuple(event for _, line in sorted(lines.items()) for event in _regressions(line))


def _regressions(line: list[StampedEvent]) -> Iterator[StampedEvent]:
    """As ``regressions_of``, for one epoch. Two records with one number say nothing of time."""
    latest_ns = min(event.unix_ns for event in line) - 1
    line.sort(key=lambda event: (event.sequence, event.total_key))
    for _, same in groupby(line, key=lambda event: event.sequence):
        events = list(same)
        yield from [event for event in events if event.unix_ns <= latest_ns]
        latest_ns = max(latest_ns, *(event.unix_ns for event in events))


def explain(
    gaps: Iterable[Gap], told: Iterable[tuple[Gap, str]]
) -> tuple[tuple[Gap, str], ...]:
    """Say of each part of some gaps why it is missing.

    Args:
        gaps: What is missing.

        told: Ranges of which somebody has told why they are missing.

    Returns:
        The gaps, cut where the reason changes, each with it; empty where nobody told.
    """
    reasons: dict[tuple[str, int], list[tuple[Gap, str]]] = defaultdict(list)
    for gap, cause in sorted(set(told)):
        reasons[gap.stream, gap.epoch].append((gap, cause))
    return tuple(
        part for gap in gaps for part in _cut(gap, reasons.get((gap.stream, gap.epoch), ()))
    )


def _cut(gap: Gap, told: Iterable[tuple[Gap, str]]) -> Iterator[tuple[Gap, str]]:
    next_ = gap.first
    for reason, cause in told:
        first, last = max(next_, reason.first), min(gap.last, reason.last)
        if first > last:
            continue
        if first > next_:
            yield gap._replace(first=next_, last=first - 1), ""
        yield gap._replace(first=first, last=last), cause
        next_ = last + 1
    if next_ <= gap.last:
        yield gap._replace(first=next_), ""
