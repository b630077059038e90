"""A watch tells who may have written while one did not look."""

from __future__ import annotations

import pytest

from otel_memoir import LockManager
from otel_memoir.locks.keys import related


def written(locks: LockManager, key: str, mode: str = "exclusive") -> int:
    """Hold a key for a moment; its fencing token."""
    with locks.hold(key, mode) as lease:
        return lease.fencing_token


def test_a_watch_notes_the_last_who_held_a_key_exclusively() -> None:
    """By key; readers and other keys are not noted."""
    locks = LockManager()
    watch = locks.watch(["notes", "profile/u1"])
    written(locks, "profile/u1", "shared")
    written(locks, "profile/u1", "update")
    written(locks, "profile/u2")
    assert watch.written == {}
    written(locks, "profile/u1")
    token = written(locks, "profile/u1")
    assert watch.written == {"profile/u1": token}
    below = written(locks, "notes/a/b")
    assert watch.written == {"profile/u1": token, "notes": below}


def test_a_lease_counts_from_its_end() -> None:
    """Until then its holder is in the way of all who come back."""
    locks = LockManager()
    watch = locks.watch(["k"])
    with locks.hold("k") as lease:
        assert watch.written == {}
    assert watch.written == {"k": lease.fencing_token}


def test_a_watch_that_is_closed_notes_no_more_and_others_go_on() -> None:
    """Nothing of it is left in the manager."""
    locks = LockManager()
    first, second = locks.watch(["k"]), locks.watch(["k"])
    locks.unwatch(first)
    locks.unwatch(first)
    token = written(locks, "k")
    assert first.written == {} and second.written == {"k": token}
    locks.unwatch(second)
    assert locks._engine.watches == ()


@pytest.mark.parametrize(("key", "other", "are"), [
    ("a", "a", True), ("a", "a/b", True), ("a/b", "a", True), ("a/b", "a/c", False),
    ("a", "ab", False), ("a/b", "a/bc", False),
])  # fmt: skip
def test_keys_are_related_where_one_is_below_the_other(key: str, other: str, are: bool) -> None:
    """And not where they only begin alike."""
    assert related(key, other) is are


def test_who_is_bound_locks_for_another() -> None:
    """``owner_id`` tells for whom; for everybody else it is ``unit_id``."""
    locks = LockManager()
    assert locks.owner_id() == locks.unit_id()
    assert locks.bind(locks.owner_id)() == locks.unit_id()
