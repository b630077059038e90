"""What a set of events comes to: each once, in one order, with what is wrong said.

``resolve`` is a function of the *set*: commutative, associative (``join``), idempotent.
Whoever has received the same events, in whatever order, parts and copies, gets the same.
So nothing here knows when an event arrived; even the last tie is broken by what is in it.
"""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass, field
from typing import Any

from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.order import total_order
from otel_memoir.stamping.validation import Gap, gaps_of, regressions_of

Subject = Callable[[StampedEvent], Hashable]
"""Of what only one event may be."""


class Policy(str, enum.Enum):
    """Which of several events of one subject stays.

    - KEEP_ALL: each of them.
    - SMALLEST_BOUND: the one whose time is known best.
    - PRIORITY: that of the preferred source, by rank.
    - FIRST_EPOCH: that of the earliest epoch: who came first is believed, not its clone.
    - LAST_WRITER: that of the latest time.

    What is then still equal is broken by the digest.
    """

    KEEP_ALL = "keep_all"
    SMALLEST_BOUND = "smallest_bound"
    PRIORITY = "priority"
    FIRST_EPOCH = "first_epoch"
    LAST_WRITER = "last_writer"


_PREFERENCE: dict[Policy, Callable[[StampedEvent], Any]] = {
    Policy.KEEP_ALL: lambda e: 0,
    Policy.SMALLEST_BOUND: lambda e: (e.error_bound_ns is None, e.error_bound_ns or 0),
    Policy.PRIORITY: lambda e: e.rank,
    Policy.FIRST_EPOCH: lambda e: e.epoch,
    Policy.LAST_WRITER: lambda e: -e.unix_ns,
}


def identity_of(event: StampedEvent) -> Hashable:
    """The subject unless told otherwise: of one number of a stream there is one record."""
    return event.identity


@dataclass(frozen=True, kw_only=True)
class Resolution:
    """What a set of events comes to.

    Attributes:
        events: Those that stay, in order.

        conflicts: Events of which only one may be, each group in the order of preference
            where the policy has one, so that the first one stayed.

        set_aside: Those that did not stay; nothing is ever dropped unseen.

        gaps: Numbers that no event has, below the highest of their epoch.

        regressions: Events whose time contradicts their sequence number.

        dismissed: Causes that could not be believed: effect and cause.

        policy: The policy.

        subject: Of what only one event may be.
    """

    events: tuple[StampedEvent, ...]
    conflicts: tuple[tuple[StampedEvent, ...], ...] = ()
    set_aside: tuple[StampedEvent, ...] = ()
    gaps: tuple[Gap, ...] = ()
    regressions: tuple[StampedEvent, ...] = ()
    dismissed: tuple[tuple[StampedEvent, StampedEvent], ...] = ()
    policy: Policy = Policy.KEEP_ALL
    subject: Subject = field(default=identity_of, compare=False, repr=False)

    def join(self, other: Resolution) -> Resolution:
        """What the union of both sets comes to, by this one's policy."""
        return resolve(
            (*self.events, *self.set_aside, *other.events, *other.set_aside),
            policy=self.policy, subject=self.subject,
        )


def resolve(
    events: Iterable[StampedEvent],
    *,
    policy: Policy = Policy.KEEP_ALL,
    subject: Subject = identity_of,
) -> Resolution:
    """Bring a set of events into one order, and settle what cannot both be.

    Args:
        events: The events; copies do no harm.

        policy: Which of several events of one subject stays.

        subject: Of what only one event may be; by default of a number of a stream. For
            "the last change of a memory wins" it would be that memory's id.
    """
    copies = _without_copies(events)
    groups: dict[Hashable, list[StampedEvent]] = defaultdict(list)
    for event in copies:
        groups[subject(event)].append(event)
    conflicts = [sorted(group, key=_key(policy)) for group in groups.values() if len(group) > 1]
    conflicts.sort(key=lambda group: min(event.total_key for event in group))
    beaten = set() if policy is Policy.KEEP_ALL else {e for g in conflicts for e in g[1:]}
    ordered = total_order(event for event in copies if event not in beaten)
    return Resolution(
        events=ordered.events,
        conflicts=tuple(map(tuple, conflicts)),
        set_aside=tuple(sorted(beaten, key=lambda event: event.total_key)),
        gaps=gaps_of(copies), regressions=regressions_of(copies), dismissed=ordered.dismissed,
        policy=policy, subject=subject,
    )


def _key(policy: Policy) -> Callable[[StampedEvent], Any]:
    preference = _PREFERENCE[policy]
    return lambda event: (preference(event), event.digest, event.total_key)


def _without_copies(events: Iterable[StampedEvent]) -> list[StampedEvent]:
    """One of each number and digest; of copies that differ in the stamp the least."""
    kept: dict[Hashable, StampedEvent] = {}
    for event in events:
        key = (event.identity, event.digest)
        before = kept.get(key)
        if before is None or event.total_key < before.total_key:
            kept[key] = event
    return list(kept.values())
