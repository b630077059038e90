"""Lost updates are proven from events alone, and nothing is proven that did not happen."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from events.making import PATIENT
from otel_memoir.events import LostUpdate, MemoryEvent, lost_updates, names

CREATED, UPDATED, DELETED = (
    names.EVENT_RECORD_CREATED, names.EVENT_RECORD_UPDATED, names.EVENT_RECORD_DELETED)


def change(uid: str, name: str = UPDATED, **said: Any) -> MemoryEvent:
    """A change of one memory record."""
    return MemoryEvent(name, uid=uid, **{"store_id": "s", "record_id": "r", **said})


def proven(*events: MemoryEvent) -> list[tuple[str, str, tuple[str, ...]]]:
    """Evidence, what is common, and the changes."""
    return [(lost.evidence, lost.common, lost.uids) for lost in lost_updates(events)]


def test_two_changes_of_the_same_version_prove_a_lost_update() -> None:
    """The memory library read once, and two of its writers wrote."""
    assert lost_updates([
        change("c", CREATED), change("a", parent_uid="c"), change("b", parent_uid="c"),
    ]) == (LostUpdate(None, "s", "r", "same parent", "c", ("a", "b")),)


def test_two_changes_of_the_same_content_prove_it_where_there_are_no_parents() -> None:
    """As concurrent updates of mem0 leave it: each says that it was tea. One changed nothing."""
    assert proven(
        change("c", CREATED, after_hash="tea"), change("a", before_hash="tea", after_hash="mate"),
        change("b", before_hash="tea", after_hash="coffee"),
        change("n", before_hash="tea", after_hash="tea"),
    ) == [("same hash before", "tea", ("a", "b"))]


def test_where_the_first_event_may_be_missing_it_takes_a_third_change() -> None:
    """It may have been tea before, and again later."""
    update = change("u", before_hash="mate", after_hash="tea")
    two = [change("a", before_hash="tea", after_hash="mate"),
           change("b", before_hash="tea", after_hash="coffee")]
    assert proven(update, *two) == []
    third = change("d", before_hash="tea", after_hash="water")
    assert proven(update, *two, third) == [("same hash before", "tea", ("a", "b", "d"))]


def test_two_changes_that_make_the_same_version_prove_it() -> None:
    """A version is made once in a life."""
    assert proven(change("c", CREATED, record_version=1), change("a", record_version=2),
                  change("b", record_version=2)) == [("same version", "2", ("a", "b"))]


@pytest.mark.parametrize("events", [
    [change("c", CREATED), change("a", parent_uid="c"), change("b", parent_uid="a")],
    [change("a", parent_uid="c"), change("b", parent_uid="c", record_id="r2")],
    [change("a", parent_uid="c"), change("b", parent_uid="c", store_id="s2")],
    [change("a", parent_uid="c"), change("b", parent_uid="c", tenant_id="t2")],
    [change("a", parent_uid="c"), change("a", parent_uid="c")],
    [change("a", parent_uid="c"), change("b", parent_uid="c", outcome="failure")],
    [change("a", parent_uid="c"), change("b", parent_uid="c", outcome="unknown")],
    [change("a", parent_uid="c"), change("b", names.EVENT_WRITE_CONFLICT, parent_uid="c")],
    [change("a", parent_uid="c"), change("b", names.EVENT_RECORD_READ, parent_uid="c")],
    [change("a", parent_uid="c", before_hash="1"), change("b", parent_uid="c", before_hash="2")],
    # Tea, coffee, tea, mate: it was tea twice.
    [change("c", CREATED, after_hash="tea"), change("a", before_hash="tea", after_hash="coffee"),
     change("b", before_hash="coffee", after_hash="tea"),
     change("d", before_hash="tea", after_hash="mate")],
    # It may have been tea before the first event, and tea again after a removal.
    [change("a", before_hash="tea", after_hash="coffee"), change("x", DELETED),
     change("c", CREATED, after_hash="tea"), change("b", before_hash="tea", after_hash="mate")],
    [change("a", before_hash="tea", after_hash="tea"), change("b", before_hash="tea",
                                                              after_hash="tea")],
    [change("a", record_version=2), change("x", DELETED), change("b", record_version=2)],
    [change("a", record_version=2), change("b", record_version=2),
     MemoryEvent(names.EVENT_STORE_CLEARED, uid="x", store_id="s")],
    [change("a", record_version=2), change("b", DELETED, record_version=2)],
    [MemoryEvent(UPDATED, record_id="r", parent_uid="c"), change("b", parent_uid="c")],
    [],
])
def test_where_nothing_need_be_lost_nothing_is_proven(events: list[MemoryEvent]) -> None:
    """Another record, store or tenant; the same event twice; changes that were not made."""
    assert lost_updates(events) == ()


def test_of_changes_that_saw_different_states_only_those_that_saw_the_same_are_named() -> None:
    """The hashes say more than the parent."""
    assert proven(
        change("a", parent_uid="c", before_hash="1"), change("b", parent_uid="c", before_hash="2"),
        change("d", parent_uid="c", before_hash="2"),
    ) == [("same hash before", "2", ("b", "d")), ("same parent", "c", ("b", "d"))]


def history(seed: int, *, racing: bool) -> tuple[list[MemoryEvent], bool]:
    """Changes of a store with versions, some of them made of a version read too early.

    Returns:
        Its events, and whether a change was lost.
    """
    dice = random.Random(seed)
    state = ("u0", 1, "h0")
    events = [change("u0", CREATED, record_version=1, after_hash="h0")]
    lost, known = False, [state]
    for number in range(1, dice.randint(2, 12)):
        base = dice.choice(known) if racing else state
        lost = lost or base != state
        state = (f"u{number}", base[1] + 1, f"h{dice.randint(0, 4)}")
        events.append(change(state[0], parent_uid=base[0], record_version=state[1],
                             before_hash=base[2], after_hash=state[2]))
        known.append(state)
    return events, lost


@settings(PATIENT, max_examples=300)
@given(st.integers())
def test_a_store_that_serves_one_after_the_other_is_never_accused(seed: int) -> None:
    """Also where a content comes back again and again."""
    events, lost = history(seed, racing=False)
    assert not lost
    assert lost_updates(events) == ()


@settings(PATIENT, max_examples=300)
@given(st.integers())
def test_a_store_that_lets_changes_race_is_found_out(seed: int) -> None:
    """Every history in which a change was made of an old version, and no other."""
    events, lost = history(seed, racing=True)
    assert bool(lost_updates(events)) == lost


@settings(PATIENT, max_examples=100)
@given(st.integers(), st.randoms())
def test_the_proof_is_the_same_for_every_order_and_any_duplicates(
    seed: int, dice: random.Random
) -> None:
    """Delivery is at least once, and from several spools."""
    events, _ = history(seed, racing=True)
    shuffled = events + dice.choices(events, k=3)
    dice.shuffle(shuffled)
    assert lost_updates(shuffled) == lost_updates(events)
