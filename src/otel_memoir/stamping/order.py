"""Which of two events came first, and one order of many.

Of two events, the first rule that applies decides:

1. same stream and epoch: the sequence number;
2. same stream: the epoch;
3. one is a known cause of the other: the cause is first;
4. their intervals of true time are disjoint: time, for certain;
5. else they are *concurrent*: broken by a total key, with a confidence.

Rule 5 does not chain (a beside b, b beside c, a before c), so many events are not sorted
pair by pair. ``total_order`` looks for true times that fit all rules at once:

- Sequence and epoch hold always. A cause that contradicts them, or other causes, is
  *dismissed*: of a cycle no cause can be believed, so all causes within it go.
- Causes narrow intervals: a cause is not later than its effect's latest time. An interval
  that a cause contradicts is not believed on that point, and does not narrow others: causes
  go before time.
- A time that does not increase with the sequence numbers around it is not believed: what
  is kept of a stream's times is the longest increasing part. One wrong timestamp then
  moves one event; by "not below the last" it would move all that follow it.

Where there is a history that fits all stamps, the order is that of such a history: no rule
from 1 to 4 is broken. Otherwise only 4 is.
"""

from __future__ import annotations

import enum
import math
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import NamedTuple

from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.graph import components, topological

_EVER = 2**100
"""Later than any time in ns."""


class Rule(str, enum.Enum):
    """What decided the order of two events."""

    SAME = "same"
    SEQUENCE = "sequence"
    EPOCH = "epoch"
    CAUSE = "cause"
    TIME = "time"
    CONCURRENT = "concurrent"


class Comparison(NamedTuple):
    """The order of two events.

    Attributes:
        order: Below 0: the first one came first. Above: the second one. 0: they are one.

        rule: What decided.

        confidence: How probable that order is: 1 but for concurrent events.
    """

    order: int
    rule: Rule
    confidence: float = 1.0


def compare(a: StampedEvent, b: StampedEvent) -> Comparison:
    """Which of two events came first. ``compare(b, a)`` is the mirror image."""
    if a == b:
        return Comparison(0, Rule.SAME)
    if a.stream == b.stream and a.epoch != b.epoch:
        return Comparison(_sign(a.epoch, b.epoch), Rule.EPOCH)
    if a.stream == b.stream and a.sequence != b.sequence:
        return Comparison(_sign(a.sequence, b.sequence), Rule.SEQUENCE)
    causes = (b.uid in a.causes) - (a.uid in b.causes)
    if causes:
        return Comparison(causes, Rule.CAUSE)
    for first, second, order in ((a, b, -1), (b, a, 1)):
        if _latest(first) < _earliest(second):
            return Comparison(order, Rule.TIME)
    order = -1 if a.total_key < b.total_key else 1
    return Comparison(order, Rule.CONCURRENT, _confidence(a, b))


def _sign(a: int, b: int) -> int:
    return (a > b) - (a < b)


def _earliest(event: StampedEvent) -> int:
    return -_EVER if event.error_bound_ns is None else event.unix_ns - event.error_bound_ns


def _latest(event: StampedEvent) -> int:
    return _EVER if event.error_bound_ns is None else event.unix_ns + event.error_bound_ns


def _confidence(a: StampedEvent, b: StampedEvent) -> float:
    """How probable it is that the one with the earlier time was first.

    Errors are taken as normal, with a bound as two standard deviations.
    """
    if a.error_bound_ns is None or b.error_bound_ns is None:
        return 0.5
    spread_ns = math.hypot(a.error_bound_ns / 2, b.error_bound_ns / 2)
    if spread_ns == 0:
        return 0.5
    return 0.5 * (1 + math.erf(abs(a.unix_ns - b.unix_ns) / spread_ns / math.sqrt(2)))


# -- many events --------------------------------------------------------------


@dataclass(frozen=True)
class Ordered:
    """Events in one order.

    Attributes:
        events: Each of them once.

        dismissed: The causes that could not be believed: effect and cause.
    """

    events: tuple[StampedEvent, ...]
    dismissed: tuple[tuple[StampedEvent, StampedEvent], ...] = ()


def total_order(events: Iterable[StampedEvent]) -> Ordered:
    """Order a set of events: a function of the set, whatever order they come in.

    Takes O(n log n) for n events that name a bounded number of causes each.
    """
    nodes = sorted(set(events), key=lambda event: event.total_key)
    lines = _lines(nodes)
    before: list[set[int]] = [set() for _ in nodes]
    for line in lines.values():
        for earlier, later in pairwise(line):
            before[later].add(earlier)
    dismissed = _add_causes(nodes, before)
    times = _times(nodes, lines, before)
    order = sorted(range(len(nodes)), key=lambda n: (times[n], n))
    return Ordered(
        tuple(nodes[n] for n in order),
        tuple((nodes[effect], nodes[cause]) for effect, cause in dismissed),
    )


def _lines(nodes: Sequence[StampedEvent]) -> dict[str, list[int]]:
    """The events of each stream, in the order of epochs and sequence numbers."""
    lines: dict[str, list[int]] = defaultdict(list)
    for number, event in enumerate(nodes):
        lines[event.stream].append(number)
    for line in lines.values():
        line.sort(key=lambda n: (nodes[n].epoch, nodes[n].sequence, nodes[n].digest, n))
    return lines


def _add_causes(nodes: Sequence[StampedEvent], before: list[set[int]]) -> list[tuple[int, int]]:
    """Let causes be before their effects, but those of a cycle; return these, sorted."""
    by_uid: dict[str, list[int]] = defaultdict(list)
    for number, event in enumerate(nodes):
        by_uid[event.uid].append(number)
    claimed = {
        (effect, cause)
        for effect, event in enumerate(nodes) for uid in event.causes
        for cause in by_uid.get(uid, ()) if cause != effect
    }
    with_causes = [set(found) for found in before]
    for effect, cause in claimed:
        with_causes[effect].add(cause)
    component = components(with_causes)
    dismissed = sorted(pair for pair in claimed if component[pair[0]] == component[pair[1]])
    for effect, cause in claimed.difference(dismissed):
        before[effect].add(cause)
    return dismissed


def _times(
    nodes: Sequence[StampedEvent], lines: Mapping[str, Sequence[int]], before: list[set[int]]
) -> list[int]:
    """A time for each event, later than that of all before it, inside its interval if it can."""
    times, earliest, latest = _believed(nodes, lines)
    order = topological(before)
    for n in reversed(order):
        for p in before[n]:
            if latest[n] - 1 >= earliest[p]:
                latest[p] = min(latest[p], latest[n] - 1)
    for n in order:
        times[n] = max([min(times[n], latest[n]), *(times[p] + 1 for p in before[n])])
    return times


def _believed(
    nodes: Sequence[StampedEvent], lines: Mapping[str, Sequence[int]]
) -> tuple[list[int], list[int], list[int]]:
    """Time, earliest and latest of each event; one that is not believed could be at any time."""
    times = [event.unix_ns for event in nodes]
    earliest, latest = [_earliest(e) for e in nodes], [_latest(e) for e in nodes]
    for line in lines.values():
        for _, numbers in groupby(line, key=lambda n: nodes[n].epoch):
            epoch = list(numbers)
            kept = _longest_increase(times, epoch)
            for n in kept.symmetric_difference(epoch):
                earliest[n], latest[n] = -_EVER, _EVER
            _fill_in(times, epoch, kept)
    return times, earliest, latest


def _longest_increase(times: Sequence[int], epoch: Sequence[int]) -> set[int]:
    """The most events of an epoch whose times increase with their numbers."""
    ends: list[int] = []  # the least time in which an increase of each length ends
    at: list[int] = []
    parent: dict[int, int] = {}
    for n in epoch:
        length = bisect_left(ends, times[n])
        if length:
            parent[n] = at[length - 1]
        ends[length : length + 1] = [times[n]]
        at[length : length + 1] = [n]
    kept = at[-1:]
    while kept[-1] in parent:
        kept.append(parent[kept[-1]])
    return set(kept)


def _fill_in(times: list[int], epoch: Sequence[int], kept: set[int]) -> None:
    """Give the events that are not believed a time beside that of a neighbour who is."""
    first = next(i for i, n in enumerate(epoch) if n in kept)
    for i in range(first - 1, -1, -1):
        times[epoch[i]] = times[epoch[i + 1]] - 1
    for i in range(first + 1, len(epoch)):
        if epoch[i] not in kept:
            times[epoch[i]] = times[epoch[i - 1]] + 1
