"""Proof of lost updates, from the events of memory records alone.

A change that knows its predecessor names it: the parent's uid, the version it makes, the
hash of what was there before. Where two changes name the same predecessor, the one that was
written last did not know of the other, and undid it. No store has to be asked.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Literal, NamedTuple

from otel_memoir.events import names
from otel_memoir.events.model import MemoryEvent

Evidence = Literal["same parent", "same version", "same hash before"]

_CHANGES = frozenset({
    names.EVENT_RECORD_CREATED, names.EVENT_RECORD_UPDATED, names.EVENT_RECORD_DELETED,
    names.EVENT_RECORD_SUPERSEDED, names.EVENT_RECORD_MOVED, names.EVENT_RECORD_PROMOTED,
})
_REMOVALS = frozenset({
    names.EVENT_RECORD_DELETED, names.EVENT_RECORD_EXPIRED, names.EVENT_RECORD_ERASED,
    names.EVENT_STORE_CLEARED, names.EVENT_STORE_DELETED,
})
_MADE = (None, "success", "partial")


class LostUpdate(NamedTuple):
    """Changes of one memory record of which at most one can have survived whole.

    Attributes:
        tenant_id, store_id, record_id: The memory record.

        evidence: What they have in common.

        common: The parent's uid, the version, or the hash.

        uids: The changes, sorted by uid.
    """

    tenant_id: str | None
    store_id: str | None
    record_id: str
    evidence: Evidence
    common: str
    uids: tuple[str, ...]


def lost_updates(events: Iterable[MemoryEvent]) -> tuple[LostUpdate, ...]:
    """Prove lost updates.

    Args:
        events: Events of any memory records, in any order, also several times (an event is
            known by its uid). Events without a uid prove nothing.

    Returns:
        What is proven, sorted; the same for every order of the events. A store that merges
        changes by itself may have kept both; the events cannot tell.

        - *same parent*: two changes of the version that one event made. Proof by itself.
        - *same version*: more changes made the same version number than the memory record
          can have had lives, which is one more than removals of it.
        - *same hash before*: a state was changed more often than it can have been there,
          which is once for each event that made it, and once before the first event. Where
          events created the memory record more often than others removed it, their first
          one did, and there was no state before it.

        The latter two hold if no event of the memory record is missing, which sequence
        numbers and gap events tell.
    """
    made = [one for one in {e.uid: e for e in events if e.uid}.values() if one.outcome in _MADE]
    found: list[LostUpdate] = []
    for changes in _by_record(made).values():
        removals = _removals(made, changes[0])
        creations = sum(event.name == names.EVENT_RECORD_CREATED for event in changes)
        found += _groups(changes, "same parent", lambda event: event.parent_uid)
        found += _groups(changes, "same version", _version, 1 + removals)
        found += _same_hash(changes, before_the_first=int(creations <= removals))
    return tuple(sorted(found, key=lambda one: tuple(map(str, one))))


def _by_record(
    events: Iterable[MemoryEvent],
) -> Mapping[tuple[str | None, ...], list[MemoryEvent]]:
    found: dict[tuple[str | None, ...], list[MemoryEvent]] = defaultdict(list)
    for event in events:
        if event.name in _CHANGES and event.record_id:
            found[event.tenant_id, event.store_id, event.record_id].append(event)
    return found


def _removals(events: Iterable[MemoryEvent], of: MemoryEvent) -> int:
    """How many events removed this memory record, or may have."""
    return sum(
        event.name in _REMOVALS
        and (event.tenant_id, event.store_id) == (of.tenant_id, of.store_id)
        and event.record_id in (None, of.record_id)
        for event in events
    )


def _version(event: MemoryEvent) -> str | None:
    # What a deletion says is the version that it removed.
    deleted = event.name == names.EVENT_RECORD_DELETED
    return None if deleted or event.record_version is None else str(event.record_version)


def _groups(
    changes: list[MemoryEvent],
    evidence: Evidence,
    of: Callable[[MemoryEvent], str | None],
    allowed: int = 1,
) -> list[LostUpdate]:
    groups: dict[str, list[MemoryEvent]] = defaultdict(list)
    for event in changes:
        if (common := of(event)) is not None:
            groups[common].append(event)
    return [
        _lost(part, evidence, common)
        for common, group in groups.items()
        for part in _beginnings(group)
        if len(part) > allowed
    ]


def _beginnings(group: list[MemoryEvent]) -> list[list[MemoryEvent]]:
    """Parts of a group whose hashes do not say that they saw different states."""
    hashes = sorted({event.before_hash for event in group if event.before_hash is not None})
    if len(hashes) <= 1:
        return [group]
    return [[event for event in group if event.before_hash == one] for one in hashes]


def _same_hash(changes: list[MemoryEvent], *, before_the_first: int) -> list[LostUpdate]:
    moved = [event for event in changes if event.before_hash != event.after_hash]
    made = Counter(event.after_hash for event in moved)
    taken: dict[str, list[MemoryEvent]] = defaultdict(list)
    for event in moved:
        if event.before_hash is not None:
            taken[event.before_hash].append(event)
    return [
        _lost(group, "same hash before", common)
        for common, group in taken.items()
        if len(group) > made[common] + before_the_first
    ]


def _lost(group: list[MemoryEvent], evidence: Evidence, common: str) -> LostUpdate:
    one = group[0]
    uids = tuple(sorted(event.uid or "" for event in group))
    return LostUpdate(one.tenant_id, one.store_id, one.record_id or "", evidence, common, uids)
