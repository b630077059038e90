"""Counting the holders of a key, and the rules of its queue."""

from __future__ import annotations

from otel_memoir.locks.modes import BIT, CONFLICT_BITS, CONFLICT_FIELDS, ONE
from otel_memoir.locks.parts import Entry, Order, Unit, Wait


def add(owner: Unit, entry: Entry, mode: int) -> None:
    """An owner holds a key once more."""
    entry.holders[owner] = entry.holders.get(owner, 0) + ONE[mode]
    entry.total += ONE[mode]


def take_back(owner: Unit, entry: Entry, mode: int) -> None:
    """An owner holds a key once less."""
    one = ONE[mode]
    entry.total -= one
    left = entry.holders[owner] - one
    if left:
        entry.holders[owner] = left
    else:
        del entry.holders[owner]


def may_pass(wait: Wait, entry: Entry, mode: int) -> bool:
    """Whether a request is to be granted now: nobody holds, and nobody ahead asks, against it."""
    own = entry.holders.get(wait.owner, 0)
    if (entry.total - own) & CONFLICT_FIELDS[mode]:
        return False
    if own:
        return True  # one who holds the key does not queue for more of it behind others
    bits = CONFLICT_BITS[mode]
    for ahead in entry.queue:
        if ahead is wait or ahead.order > wait.order:
            break
        if bits & BIT[ahead.mode] and ahead.owner is not wait.owner:
            return False
    return True


def order_of(wait: Wait, entry: Entry, aging_ns: int) -> Order:
    """Where a request stands in a queue, now and for ever.

    Args:
        aging_ns: How much earlier one step of priority lets it have come.
    """
    rank = wait.arrival_ns - wait.worth * aging_ns
    return (0 if wait.owner in entry.holders else 1, rank, wait.stamp)


def insert(wait: Wait, entry: Entry) -> None:
    """Put a wait where its order says."""
    wait.entry = entry
    place = len(entry.queue)
    while place and wait.order < entry.queue[place - 1].order:
        place -= 1
    entry.queue.insert(place, wait)


def enqueue(wait: Wait, entry: Entry, aging_ns: int) -> None:
    """Put a wait where its order has to be now."""
    wait.order = order_of(wait, entry, aging_ns)
    insert(wait, entry)
