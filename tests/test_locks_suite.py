"""One suite over every shape of lock: threads, tasks of one loop, of several, and both."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from locks.actors import SHAPES, Stage
from otel_memoir.errors import (
    DeadlockError,
    LockError,
    LockTimeoutError,
    OwnerDiedError,
)
from otel_memoir.locks import modes


@pytest.fixture(autouse=True)
def nobody_looks_by_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is lost hangs a test, and is not made good by the waiter's patience."""
    monkeypatch.setattr("otel_memoir.locks.parking.PATIENCE_S", 3600.0)


@pytest.fixture(params=SHAPES)
def stage(request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Units of each shape."""
    with Stage(request.param) as stage:
        yield stage


def test_an_exclusive_lock_is_held_by_one_and_handed_over(stage: Stage) -> None:
    """The second gets it when the first lets go, and not before."""
    one, two = stage.actors(2)
    lease = one.acquire("k").get()
    asked = two.acquire("k")
    stage.sleeps(two)
    assert not asked.done()
    one.release(lease).get()
    assert asked.get().held
    assert not lease.held


def test_a_fencing_token_is_greater_than_all_before_it(stage: Stage) -> None:
    """Of whatever key."""
    one, two = stage.actors(2)
    tokens = []
    for actor, key in ((one, "a"), (two, "b"), (one, "a/x"), (two, "b")):
        lease = actor.acquire(key).get()
        tokens.append(lease.fencing_token)
        actor.release(lease).get()
    assert tokens == sorted(set(tokens))


def test_readers_share_and_a_writer_waits_for_all_of_them(stage: Stage) -> None:
    """The last reader hands over."""
    one, two, three = stage.actors(3)
    first, second = one.acquire("k", "shared").get(), two.acquire("k", "shared").get()
    asked = three.acquire("k")
    stage.sleeps(three)
    one.release(first).get()
    assert not asked.done()
    two.release(second).get()
    assert asked.get().held


def test_a_reader_does_not_overtake_a_writer_who_waits(stage: Stage) -> None:
    """First in, first out: otherwise writers starve."""
    one, two, three = stage.actors(3)
    first = one.acquire("k", "shared").get()
    writer = two.acquire("k")
    stage.sleeps(two)
    reader = three.acquire("k", "shared")
    stage.sleeps(three)
    one.release(first).get()
    lease = writer.get()
    assert not reader.done()
    two.release(lease).get()
    assert reader.get().held


def test_readers_go_on_beside_an_update_lock_and_another_update_waits(stage: Stage) -> None:
    """So two who read in order to write never wait for each other to stop reading."""
    one, two, three = stage.actors(3)
    update = one.acquire("k", "update").get()
    reader = two.acquire("k", "shared").get()
    other = three.acquire("k", "update")
    stage.sleeps(three)
    up = one.upgrade(update)
    stage.sleeps(one)
    two.release(reader).get()
    up.get()
    assert update.mode_name == "exclusive"
    one.release(update).get()
    assert other.get().mode_name == "update"


def test_all_in_a_queue_that_fit_are_served_though_one_between_them_has_to_wait(
    stage: Stage
) -> None:
    """A reader behind a second update lock."""
    one, two, three, four = stage.actors(4)
    lease = one.acquire("k").get()
    asked = []
    for actor, mode in ((two, "update"), (three, "update"), (four, "shared")):
        asked.append(actor.acquire("k", mode))
        stage.sleeps(actor)
    one.release(lease).get()
    assert asked[0].get().held and asked[2].get().held
    assert not asked[1].done()


def test_a_lock_on_a_store_waits_for_every_lock_below_it(stage: Stage) -> None:
    """By the intent that those below have taken by themselves."""
    one, two = stage.actors(2)
    below = one.acquire("store/collection/record").get()
    asked = two.acquire("store", "shared")
    stage.sleeps(two)
    assert one.acquire("store/collection/other").get().held
    one.release(below).get()
    assert not asked.done()
    one.end()
    assert isinstance(asked.error(), OwnerDiedError)


def test_records_of_a_collection_are_locked_beside_each_other(stage: Stage) -> None:
    """Intents do not conflict."""
    one, two = stage.actors(2)
    assert one.acquire("s/c/1").get().held
    assert two.acquire("s/c/2", timeout=0).get().held


def test_who_holds_a_key_gets_it_again_however_many_wait(stage: Stage) -> None:
    """Re-entrancy, also for shared behind a writer who waits."""
    one, two = stage.actors(2)
    first = one.acquire("k", "shared").get()
    writer = two.acquire("k")
    stage.sleeps(two)
    again = one.acquire("k", "shared", timeout=0).get()
    one.release(first).get()
    assert not writer.done()
    one.release(again).get()
    assert writer.get().held


def test_an_upgrade_goes_ahead_of_the_queue(stage: Stage) -> None:
    """Queued at the tail it would wait for those who wait for it."""
    one, two, three = stage.actors(3)
    mine, other = one.acquire("k", "shared").get(), two.acquire("k", "shared").get()
    writer = three.acquire("k")
    stage.sleeps(three)
    up = one.upgrade(mine)
    stage.sleeps(one)
    two.release(other).get()
    up.get()
    assert not writer.done()
    one.release(mine).get()
    assert writer.get().held


def test_a_downgrade_lets_readers_in_and_no_writer(stage: Stage) -> None:
    """Nobody gets in between."""
    one, two, three = stage.actors(3)
    mine = one.acquire("k").get()
    reader = two.acquire("k", "shared")
    stage.sleeps(two)
    writer = three.acquire("k")
    stage.sleeps(three)
    one.downgrade(mine).get()
    assert mine.mode_name == "shared"
    assert reader.get().held
    assert not writer.done()


def test_a_lock_of_several_keys_is_all_or_nothing(stage: Stage) -> None:
    """What could be had is let go when the rest cannot."""
    one, two = stage.actors(2)
    lease = one.acquire("s/b").get()
    error = two.acquire_all({"s/c": "exclusive", "s/a": "shared", "s/b": "update"}, timeout=0)
    assert isinstance(error.error(), LockTimeoutError)
    assert one.acquire("s", timeout=0).get().held
    one.release(lease).get()


def test_locks_of_several_keys_in_any_order_do_not_deadlock(stage: Stage) -> None:
    """They are taken in one order whatever the order of the keys."""
    one, two, three = stage.actors(3)
    hurdle = three.acquire("s/a").get()
    first = one.acquire_all({"s/a": "exclusive", "s/b": "exclusive"})
    stage.sleeps(one)
    second = two.acquire_all({"s/b": "exclusive", "s/a": "exclusive"})
    stage.sleeps(two)
    three.release(hurdle).get()
    one.release(first.get()).get()
    assert second.get().held


def test_a_timeout_names_the_holders_and_leaves_the_queue(stage: Stage) -> None:
    """And those behind are served."""
    one, two, three = stage.actors(3)
    lease = one.acquire("k", "shared").get()
    error = two.acquire("k", timeout=0.01).error()
    assert isinstance(error, LockTimeoutError)
    assert isinstance(error, TimeoutError)
    assert error.holders == (one.unit,)
    assert three.acquire("k", "shared", timeout=0).get().held
    one.release(lease).get()


def test_a_waiter_whose_time_is_over_lets_those_behind_it_through(stage: Stage) -> None:
    """A shared request that queued behind it could have been granted all the time."""
    one, two, three = stage.actors(3)
    one.acquire("k", "shared").get()
    writer = two.acquire("k", timeout=0.05)
    reader = three.acquire("k", "shared")
    assert isinstance(writer.error(), LockTimeoutError)
    assert reader.get().held


def test_two_who_wait_for_each_other_are_a_deadlock_and_one_is_refused(stage: Stage) -> None:
    """When the circle is closed, and the other goes on."""
    one, two = stage.actors(2)
    first, second = one.acquire("a").get(), two.acquire("b").get()
    waits = one.acquire("b")
    stage.sleeps(one)
    refused = two.acquire("a")
    error = refused.error()
    assert isinstance(error, DeadlockError)
    assert error.report.victim.unit == two.unit
    assert set(error.report.units) == {one.unit, two.unit}
    assert {one.key for one in error.report.participants} == {"a", "b"}
    two.release(second).get()
    assert waits.get().held
    one.release(first).get()


def test_two_who_upgrade_a_shared_lock_are_a_deadlock_at_once(stage: Stage) -> None:
    """Neither can get what it asks for while the other stays."""
    one, two = stage.actors(2)
    first, second = one.acquire("k", "shared").get(), two.acquire("k", "shared").get()
    up = one.upgrade(first)
    stage.sleeps(one)
    assert isinstance(two.upgrade(second).error(), DeadlockError)
    assert second.held
    two.release(second).get()
    up.get()


def test_a_greater_priority_goes_first_and_equal_ones_in_order(stage: Stage) -> None:
    """FIFO within a priority."""
    one, *others = stage.actors(4)
    lease = one.acquire("k").get()
    answers = []
    for actor, priority in zip(others, (0, 0, 1)):
        answers.append(actor.acquire("k", priority=priority))
        stage.sleeps(actor)
    one.release(lease).get()
    order = []
    for _ in answers:
        number = next(n for n in (2, 0, 1) if n not in order)
        order.append(number)
        others[number].release(answers[number].get()).get()
    assert order == [2, 0, 1]


@pytest.mark.parametrize("late_s, order", [(2, (1, 0)), (4, (0, 1))])
def test_who_waited_long_enough_is_not_overtaken_by_a_greater_priority(
    late_s: int, order: tuple[int, int]
) -> None:
    """All age alike: a step of priority is worth a second of waiting, and no more."""
    now_ns = [0]
    with Stage("threads", monotonic_ns=lambda: now_ns[0], aging_s=1.0) as stage:
        one, *others = stage.actors(3)
        lease = one.acquire("k").get()
        answers = []
        for actor, priority, now_s in zip(others, (0, 3), (0, late_s)):
            now_ns[0] = now_s * 10**9
            answers.append(actor.acquire("k", priority=priority))
            stage.sleeps(actor)
        one.release(lease).get()
        for number in order:
            others[number].release(answers[number].get()).get()


def test_the_locks_of_a_unit_that_ends_are_not_waited_for_for_ever(stage: Stage) -> None:
    """Who waits is told once; then the key is free."""
    one, two = stage.actors(2)
    one.acquire("k").get()
    asked = two.acquire("k")
    stage.sleeps(two)
    one.end()
    assert isinstance(asked.error(), OwnerDiedError)
    assert two.acquire("k", timeout=0).get().held


def test_the_next_to_ask_is_told_when_nobody_waited_as_the_owner_died(stage: Stage) -> None:
    """What the lock protects may be half written all the same."""
    one, two = stage.actors(2)
    one.acquire("s/c/r").get()
    one.end()
    assert isinstance(two.acquire("s", "shared").error(), OwnerDiedError)
    assert two.acquire("s", "shared", timeout=0).get().held


def test_a_reader_that_ends_harms_nobody(stage: Stage) -> None:
    """It left nothing half written."""
    one, two = stage.actors(2)
    one.acquire("k", "shared").get()
    asked = two.acquire("k")
    stage.sleeps(two)
    one.end()
    assert asked.get().held


def test_only_its_owner_lets_a_lock_go(stage: Stage) -> None:
    """The error names both."""
    one, two = stage.actors(2)
    lease = one.acquire("k").get()
    error = two.release(lease).error()
    assert isinstance(error, LockError)
    assert one.unit in str(error) and two.unit in str(error)
    assert lease.held


def test_a_lock_is_let_go_once(stage: Stage) -> None:
    """The second release is not the next holder's."""
    one, two = stage.actors(2)
    lease = one.acquire("k").get()
    one.release(lease).get()
    other = two.acquire("k").get()
    one.release(lease).get()
    assert other.held
    assert isinstance(one.acquire("k", timeout=0).error(), LockTimeoutError)


def test_without_conflicts_two_hold_an_exclusive_lock(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control of the exclusion that the suite relies on."""
    for module in ("core", "engine", "queueing"):
        monkeypatch.setattr(f"otel_memoir.locks.{module}.CONFLICT_FIELDS", (0,) * len(modes.ONE))
    one, two = stage.actors(2)
    assert one.acquire("k").get().held
    assert two.acquire("k", timeout=0).get().held
