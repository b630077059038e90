"""One suite over reflections of threads, of tasks, and of both: locks, versions, rerun requests."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from locks.actors import Stage
from otel_memoir.errors import (
    DeadlockError,
    LockError,
    LockLostError,
    LockTimeoutError,
    OwnerDiedError,
    ReflectionSkippedError,
    WriteConflictError,
)
from otel_memoir.events import names
from otel_memoir.locks import LockManager
from otel_memoir.locks.effects import Effects
from otel_memoir.reflection.basis import Basis
from otel_memoir.reflection.rota import Rota
from reflection_helpers import (
    COMPLETED,
    CONFLICT,
    FAILED,
    SKIPPED,
    STARTED,
    Scene,
    Told,
    enter,
    held,
    leave,
)

KEY = "profile/u1"


@pytest.fixture(params=["threads", "tasks", "mixed"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Units of each shape."""
    with Scene(request.param) as scene:
        yield scene


# -- locks ---------------------------------------------------------------------


def test_what_a_reflection_locks_is_locked_in_its_block_and_free_after_it(scene: Scene) -> None:
    """Several keys with their modes; and it says that it started and completed."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys={KEY: "exclusive", "notes": "shared"})
    assert enter(one, reflection).get() is reflection
    assert reflection.fencing_token > 0
    assert isinstance(two.acquire(KEY, timeout=0).error(), LockTimeoutError)
    assert two.acquire("notes", "shared", timeout=0).get().held
    leave(one, reflection).get()
    assert two.acquire(KEY, timeout=0).get().held
    assert scene.told.names() == [STARTED, COMPLETED]


@pytest.mark.parametrize("keys", [KEY, [KEY], (KEY, "notes"), {KEY: "exclusive"}])
def test_keys_are_given_in_any_form_and_are_exclusive_by_default(scene: Scene, keys: Any) -> None:
    """A single key too, which is not a list of its letters."""
    (one,) = scene.actors(1)
    reflection = scene.reflect("consolidate", keys=keys)
    enter(one, reflection).get()
    modes = {key.key: key.holders[0].mode for key in scene.locks.snapshot().keys}
    assert modes[KEY] == "exclusive"
    leave(one, reflection).get()
    assert not held(scene.locks)


def test_a_reflection_without_keys_locks_nothing_and_tells_the_same(scene: Scene) -> None:
    """It can be unlocked and checked too."""
    (one,) = scene.actors(1)
    reflection = scene.reflect("consolidate")
    enter(one, reflection).get()
    assert scene.locks.snapshot().keys == ()
    unlocked = reflection.unlocked()
    enter(one, unlocked).get()
    leave(one, unlocked).get()
    leave(one, reflection).get()
    assert scene.told.names() == [STARTED, COMPLETED]


def test_a_mode_or_choice_that_does_not_exist_is_an_error_at_once(scene: Scene) -> None:
    """Before anything is told."""
    with pytest.raises(LockError, match="exclusive"):
        scene.reflect("consolidate", keys={KEY: "exclusiv"})
    with pytest.raises(LockError, match="skip"):
        scene.reflect("consolidate", keys=KEY, if_busy="skipp")  # type: ignore[arg-type]
    assert scene.told.names() == []


def test_a_reflection_is_for_one_block(scene: Scene) -> None:
    """The second time is an error, and does not end the first."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    assert isinstance(enter(two, reflection).error(), LockError)
    assert reflection.state == "running"
    leave(one, reflection).get()
    assert isinstance(enter(one, reflection).error(), LockError)
    assert scene.told.names() == [STARTED, COMPLETED]


def test_a_timeout_on_entry_is_a_failed_reflection_that_never_started(scene: Scene) -> None:
    """It reaches the caller; nothing is held."""
    one, two = scene.actors(2)
    lease = one.acquire(KEY).get()
    error = enter(two, scene.reflect("consolidate", keys=[KEY, "notes"], timeout=0.01)).error()
    assert isinstance(error, LockTimeoutError)
    (event,) = scene.told.events()
    assert (event.name, event.error_type) == (FAILED, "otel_memoir.errors.LockTimeoutError")
    assert event.outcome == "failure"
    assert event.attributes[names.REFLECTION_WRITES_APPLIED] is False
    one.release(lease).get()
    assert not held(scene.locks)


def test_a_deadlock_on_entry_is_a_failed_reflection(scene: Scene) -> None:
    """The one that is refused; the other goes on."""
    one, two = scene.actors(2)
    first, second = (scene.reflect(name, keys=name) for name in "ab")
    enter(one, first).get()
    enter(two, second).get()
    inner = scene.reflect("inner", keys="b", priority=1)
    waits = enter(one, inner)
    scene.sleeps(one)
    refused = enter(two, scene.reflect("refused", keys="a")).error()
    assert isinstance(refused, DeadlockError)
    leave(two, second, refused).get()
    waits.get()
    leave(one, inner).get()
    leave(one, first).get()
    failed = scene.told.events(FAILED)
    assert [one.error_type for one in failed] == ["otel_memoir.errors.DeadlockError"] * 2
    assert len(scene.told.events(COMPLETED)) == 2


def test_reflections_nest_in_one_unit(scene: Scene) -> None:
    """What the outer holds is no obstacle to the inner, nor is it let go with it."""
    one, two = scene.actors(2)
    outer = scene.reflect("outer", keys=KEY)
    inner = scene.reflect("inner", keys="profile", if_busy="skip")
    enter(one, outer).get()
    enter(one, inner).get()
    leave(one, inner).get()
    assert isinstance(two.acquire(KEY, timeout=0).error(), LockTimeoutError)
    leave(one, outer).get()
    assert not held(scene.locks)
    assert scene.told.names() == [STARTED, STARTED, COMPLETED, COMPLETED]


def test_a_greater_priority_goes_first(scene: Scene) -> None:
    """As for any lock."""
    holder, low, high = scene.actors(3)
    lease = holder.acquire(KEY).get()
    later = scene.reflect("low", keys=KEY)
    sooner = scene.reflect("high", keys=KEY, priority=60)
    waits = enter(low, later)
    scene.sleeps(low)
    goes = enter(high, sooner)
    scene.sleeps(high)
    holder.release(lease).get()
    goes.get()
    assert not waits.done()
    leave(high, sooner).get()
    waits.get()
    leave(low, later).get()


def test_an_error_of_the_block_reaches_the_caller_and_is_told(scene: Scene) -> None:
    """With whether something of it was written."""
    (one,) = scene.actors(1)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    reflection.wrote("m1")
    assert leave(one, reflection, ZeroDivisionError("a secret")).get() is None
    (event,) = scene.told.events(FAILED)
    assert (event.error_type, event.outcome) == ("ZeroDivisionError", "partial")
    assert event.attributes[names.REFLECTION_WRITES_APPLIED] is True
    assert event.attributes[names.OUTPUT_RECORD_IDS] == ("m1",)
    assert "secret" not in str(event.to_attributes())
    assert not held(scene.locks)


def test_what_was_read_and_written_is_told_at_the_end(scene: Scene) -> None:
    """Each write counts."""
    (one,) = scene.actors(1)
    reflection = scene.reflect("consolidate", keys="notes")
    enter(one, reflection).get()
    reflection.read("notes/a")
    reflection.wrote("notes/b")
    reflection.wrote("notes/b", "notes/c")
    leave(one, reflection).get()
    (event,) = scene.told.events(COMPLETED)
    assert event.attributes[names.REFLECTION_INSIGHTS] == 3
    assert event.attributes[names.INPUT_RECORD_IDS] == ("notes/a",)
    assert event.attributes[names.OUTPUT_RECORD_IDS] == ("notes/b", "notes/c")
    assert event.outcome is None  # which means success


def test_a_reflection_whose_lease_was_taken_away_ends_failed(scene: Scene) -> None:
    """Though its block ended well: what it wrote may be stale. The caller is told."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY, ttl=0.0)
    enter(one, reflection).get()
    robber = two.acquire(KEY).get()
    assert isinstance(one.do(reflection.check).error(), LockLostError)
    assert isinstance(leave(one, reflection).error(), LockLostError)
    assert robber.held
    (event,) = scene.told.events(FAILED)
    assert event.error_type == "otel_memoir.errors.LockLostError"
    assert scene.told.names() == [STARTED, FAILED]


@pytest.mark.parametrize("beats", [True, False])
def test_a_heartbeat_keeps_the_lease_and_without_one_it_is_lost(beats: bool) -> None:
    """It lasts its term from the last heartbeat; there is none while it thinks."""
    now_s = [0.0]
    with Stage("threads", monotonic_ns=lambda: int(now_s[0] * 1e9)) as stage:
        told = Told(stage.locks)
        one, two = stage.actors(2)
        reflection = told.reflect("consolidate", keys=KEY, ttl=10.0)
        enter(one, reflection).get()
        now_s[0] = 8.0
        if beats:
            one.do(reflection.heartbeat).get()
        now_s[0] = 15.0
        taken = two.acquire(KEY, timeout=0.01)
        assert isinstance(taken.error(), LockTimeoutError) == beats
        assert isinstance(one.do(reflection.check).error(), LockLostError) != beats
        if beats:
            enter(one, reflection.unlocked()).get()
            assert isinstance(one.do(reflection.heartbeat).error(), LockError)
        leave(one, reflection).error()
        assert told.names() == [STARTED, COMPLETED if beats else FAILED]


def test_the_line_of_code_that_reflects_is_where_the_lock_was_acquired(scene: Scene) -> None:
    """A report of a deadlock names it, and no line of ours."""
    (one,) = scene.actors(1)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    places = {holder.acquired_at for key in scene.locks.snapshot().keys for holder in key.holders}
    assert len(places) == 1 and "test_reflection.py" in places.pop()
    leave(one, reflection).get()


# -- release, think, take again --------------------------------------------------


class Store:
    """A store of memories with versions, as an application has it."""

    def __init__(self) -> None:
        self.texts: dict[str, str] = {KEY: "tea"}
        self.versions: dict[str, int] = {KEY: 1}

    def write(self, key: str, text: str) -> None:
        """Change a memory."""
        self.texts[key] = text
        self.versions[key] = self.versions.get(key, 0) + 1

    def version_of(self, key: str) -> int:
        """How often it was written."""
        return self.versions[key]


def think(scene: Scene, actor: Any, reflection: Any, meanwhile: Any) -> BaseException | None:
    """Let go, have something done meanwhile, and come back; the error of coming back."""
    unlocked = reflection.unlocked()
    enter(actor, unlocked).get()
    meanwhile()
    return leave(actor, unlocked).error()


def writes(actor: Any, store: Store, text: str) -> None:
    """Another unit writes a memory, under its lock."""
    lease = actor.acquire(KEY, timeout=0).get()
    store.write(KEY, text)
    actor.release(lease).get()


def test_others_get_the_locks_while_a_reflection_thinks_and_it_has_them_again_after(
    scene: Scene
) -> None:
    """In the same modes, with a greater token. A reader does not make its thoughts stale."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys={KEY: "update"})
    enter(one, reflection).get()
    token = reflection.fencing_token

    def meanwhile() -> None:
        two.release(two.acquire(KEY, "update", timeout=0).get()).get()

    assert think(scene, one, reflection, meanwhile) is None
    assert reflection.fencing_token > token
    assert isinstance(two.acquire(KEY, "update", timeout=0).error(), LockTimeoutError)
    assert two.acquire(KEY, "shared", timeout=0).get().held
    leave(one, reflection).get()


@pytest.mark.parametrize("known_by", ["locks", "store"])
def test_a_write_back_of_what_became_stale_meanwhile_is_refused(
    scene: Scene, known_by: str
) -> None:
    """By the lock manager's own knowledge, or by the store's versions. Nothing is overwritten."""
    one, two = scene.actors(2)
    store = Store()
    version_of = store.version_of if known_by == "store" else None
    reflection = scene.reflect("consolidate", keys=KEY, version_of=version_of)
    enter(one, reflection).get()
    token = reflection.fencing_token
    error = think(scene, one, reflection, lambda: writes(two, store, "coffee"))
    assert isinstance(error, WriteConflictError)
    ((key, expected, found),) = error.conflicts
    assert key == KEY and KEY in str(error)
    assert (expected, found) == ((1, 2) if known_by == "store" else (token, token + 1))
    leave(one, reflection, error).get()
    assert store.texts[KEY] == "coffee"
    assert scene.told.names() == [STARTED, CONFLICT, FAILED]
    conflict, failed = scene.told.events(CONFLICT, FAILED)
    assert f"{conflict.store_id}/{conflict.record_id}" == KEY
    assert conflict.agent_name == "planner"
    assert conflict.attributes[names.CONFLICT_EXPECTED_VERSION] == expected
    assert conflict.attributes[names.CONFLICT_ACTUAL_VERSION] == found
    assert conflict.attributes[names.CONFLICT_ACTION] == "dropped"
    assert conflict.attributes[names.REFLECTION_ID] == reflection.id
    assert failed.error_type == "otel_memoir.errors.WriteConflictError"
    assert not held(scene.locks)


def test_without_the_version_check_the_stale_write_back_overwrites(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: this is the lost update of the agent-memory libraries."""
    monkeypatch.setattr(Basis, "settle", lambda self, versions: ())
    one, two = scene.actors(2)
    store = Store()
    reflection = scene.reflect("consolidate", keys=KEY, version_of=store.version_of)
    enter(one, reflection).get()
    thought = f"likes {store.texts[KEY]}"
    assert think(scene, one, reflection, lambda: writes(two, store, "coffee")) is None
    store.write(KEY, thought)
    leave(one, reflection).get()
    assert store.texts[KEY] == "likes tea"  # the coffee is lost


def test_after_a_conflict_a_reflection_can_refresh_and_go_on(scene: Scene) -> None:
    """The locks are held: it reads again, thinks again, and writes."""
    one, two = scene.actors(2)
    store = Store()
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    error = think(scene, one, reflection, lambda: writes(two, store, "coffee"))
    assert isinstance(error, WriteConflictError)
    assert isinstance(two.acquire(KEY, timeout=0).error(), LockTimeoutError)
    assert isinstance(one.do(reflection.check).error(), WriteConflictError)
    one.do(reflection.refresh).get()
    one.do(reflection.check).get()
    assert think(scene, one, reflection, lambda: None) is None
    reflection.wrote(KEY)
    leave(one, reflection).get()
    assert scene.told.names() == [STARTED, CONFLICT, COMPLETED]


def test_a_conflict_that_is_caught_and_not_refreshed_stays(scene: Scene) -> None:
    """Also through another time without locks."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    assert think(scene, one, reflection, lambda: writes(two, Store(), "coffee"))
    assert isinstance(think(scene, one, reflection, lambda: None), WriteConflictError)
    assert len(scene.told.events(CONFLICT)) == 1
    leave(one, reflection).get()


@pytest.mark.parametrize(("key", "stale"), [
    ("profile", True), (KEY, True), (f"{KEY}/food", True), ("profile/u2", False),
    ("profile/u", False), ("notes", False),
])  # fmt: skip
def test_a_write_above_or_below_a_key_makes_it_stale_and_one_beside_it_does_not(
    scene: Scene, key: str, stale: bool
) -> None:
    """What a lock of a store covers, a version of it covers too."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys={KEY: "shared"})
    enter(one, reflection).get()

    def meanwhile() -> None:
        two.release(two.acquire_all({key: "exclusive", "other": "shared"}).get()).get()

    assert (think(scene, one, reflection, meanwhile) is not None) == stale
    leave(one, reflection).get()


def test_a_lock_that_was_upgraded_and_downgraded_meanwhile_counts_as_a_write(scene: Scene) -> None:
    """However it is let go in the end."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()

    def meanwhile() -> None:
        lease = two.acquire(KEY, "update").get()
        two.upgrade(lease).get()
        two.downgrade(lease).get()
        two.release(lease).get()

    assert isinstance(think(scene, one, reflection, meanwhile), WriteConflictError)
    leave(one, reflection).get()


def test_a_writer_whose_lease_ran_out_counts(scene: Scene) -> None:
    """It may have written before that, and fence off nothing."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    error = think(scene, one, reflection, lambda: two.acquire(KEY, ttl=0.0).get())
    assert isinstance(error, WriteConflictError)
    leave(one, reflection).get()


def test_a_writer_that_is_waited_for_when_coming_back_counts(scene: Scene) -> None:
    """It holds the lock until then."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    unlocked = reflection.unlocked()
    enter(one, unlocked).get()
    lease = two.acquire(KEY).get()
    back = leave(one, unlocked)
    scene.sleeps(one)
    two.release(lease).get()
    assert isinstance(back.error(), WriteConflictError)
    leave(one, reflection).get()


def test_with_a_version_function_only_a_change_of_version_counts(scene: Scene) -> None:
    """Who had the lock and did not write made nothing stale; who wrote without a lock did."""
    one, two = scene.actors(2)
    store = Store()
    reflection = scene.reflect("consolidate", keys=KEY, version_of=store.version_of)
    enter(one, reflection).get()
    assert think(scene, one, reflection, lambda: two.release(two.acquire(KEY).get()).get()) is None
    error = think(scene, one, reflection, lambda: store.write(KEY, "coffee"))
    assert isinstance(error, WriteConflictError)
    leave(one, reflection).get()


def test_the_version_that_came_with_what_was_read_counts(scene: Scene) -> None:
    """And only what was said to be read is compared."""
    (one,) = scene.actors(1)
    store = Store()
    store.write("profile/u2", "milk")
    reflection = scene.reflect("consolidate", keys="profile", version_of=store.version_of)
    enter(one, reflection).get()
    reflection.read(KEY, 1)
    assert think(scene, one, reflection, lambda: store.write("profile/u2", "oats")) is None
    reflection.read(KEY, 0)
    error = think(scene, one, reflection, lambda: None)
    assert isinstance(error, WriteConflictError)
    assert [tuple(one) for one in error.conflicts] == [(KEY, 0, 1)]
    leave(one, reflection).get()


def test_a_lease_lost_while_versions_are_asked_for_is_told_before_thinking(scene: Scene) -> None:
    """Else what the robber wrote would count as what was read."""
    (one,) = scene.actors(1)

    def rob(key: str) -> int:
        engine, effects = scene.locks._engine, Effects()
        (lease,) = {lease for entry in engine.table.entries.values()
                    for owner in entry.holders for lease in owner.leases}  # fmt: skip
        with engine.mutex:
            engine.take_away(lease, "it was robbed", effects)
        return 1

    reflection = scene.reflect("consolidate", keys=KEY, version_of=rob)
    enter(one, reflection).get()
    error = enter(one, reflection.unlocked()).error()
    assert isinstance(error, LockLostError)
    leave(one, reflection, error).get()
    assert not held(scene.locks)


def test_what_it_wrote_itself_is_not_stale_to_it(scene: Scene) -> None:
    """The version that it read is not that of what it wrote since."""
    (one,) = scene.actors(1)
    store = Store()
    reflection = scene.reflect("consolidate", keys=KEY, version_of=store.version_of)
    enter(one, reflection).get()
    reflection.read(KEY, 1)
    store.write(KEY, "coffee")
    reflection.wrote(KEY, "profile/u2")
    assert think(scene, one, reflection, lambda: None) is None
    error = think(scene, one, reflection, lambda: store.write(KEY, "mate"))
    assert isinstance(error, WriteConflictError)
    assert [tuple(one) for one in error.conflicts] == [(KEY, 2, 3)]
    leave(one, reflection).get()


def test_versions_that_are_no_numbers_are_compared_and_not_told(scene: Scene) -> None:
    """They may be content: the error has them, neither its text nor the event does."""
    (one,) = scene.actors(1)
    versions: list[Any] = [["likes tea"]]  # nor can they be hashed
    reflection = scene.reflect("c", keys=KEY, version_of=lambda key: versions[-1])
    enter(one, reflection).get()
    error = think(scene, one, reflection, lambda: versions.append(["likes coffee"]))
    assert isinstance(error, WriteConflictError)
    assert error.conflicts == ((KEY, ["likes tea"], ["likes coffee"]),)
    leave(one, reflection, error).get()
    told = str(error) + str([event.to_attributes() for event in scene.told.events()])
    assert "likes" not in told and KEY in told


def test_after_a_refresh_what_was_read_before_does_not_count(scene: Scene) -> None:
    """Its version is that of then."""
    (one,) = scene.actors(1)
    store = Store()
    reflection = scene.reflect("consolidate", keys=KEY, version_of=store.version_of)
    enter(one, reflection).get()
    reflection.read(KEY, 1)
    error = think(scene, one, reflection, lambda: store.write(KEY, "coffee"))
    assert isinstance(error, WriteConflictError)
    one.do(reflection.refresh).get()
    assert think(scene, one, reflection, lambda: None) is None
    leave(one, reflection).get()


def test_each_wait_takes_from_the_timeout_and_thinking_does_not(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock that is given; here each look at it takes six seconds."""
    asked: list[float | None] = []
    seconds = itertools.count(0.0, 6.0)
    real = LockManager.hold_all

    def hold_all(self: LockManager, modes: Any, *, timeout: float | None, priority: int) -> Any:
        asked.append(timeout)
        return real(self, modes, timeout=timeout, priority=priority)

    monkeypatch.setattr(LockManager, "hold_all", hold_all)
    told = Told(LockManager(), monotonic_s=lambda: next(seconds))
    with told.reflect("consolidate", keys=KEY, timeout=10.0) as reflection:
        for _ in range(2):
            with reflection.unlocked():
                pass
    assert asked == [10.0, 4.0, 0.0]


def test_what_stays_of_the_timeout_is_for_taking_the_locks_again(scene: Scene) -> None:
    """Here nothing: so the locks are not held, and the reflection ends failed."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY, timeout=0)
    enter(one, reflection).get()
    unlocked = reflection.unlocked()
    enter(one, unlocked).get()
    lease = two.acquire(KEY).get()
    error = leave(one, unlocked).error()
    assert isinstance(error, LockTimeoutError)
    for use in (reflection.check, reflection.refresh, reflection.unlocked().__enter__):
        assert isinstance(one.do(use).error(), LockError)
    leave(one, reflection, error).get()
    assert lease.held
    two.release(lease).get()
    assert scene.told.names() == [STARTED, FAILED]
    assert not held(scene.locks)


def test_an_owner_that_dies_while_one_thinks_is_told_when_coming_back(scene: Scene) -> None:
    """What it protected may be half written."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()

    def meanwhile() -> None:
        two.acquire(KEY).get()
        two.end()

    error = think(scene, one, reflection, meanwhile)
    assert isinstance(error, OwnerDiedError)
    leave(one, reflection, error).get()
    assert not held(scene.locks)


def test_an_error_of_the_thinking_reaches_the_caller_with_the_locks_held(scene: Scene) -> None:
    """So that the block can go on; and what became stale stays refused."""
    one, two = scene.actors(2)
    reflection = scene.reflect("consolidate", keys=KEY)
    enter(one, reflection).get()
    unlocked = reflection.unlocked()
    enter(one, unlocked).get()
    writes(two, Store(), "coffee")
    assert leave(one, unlocked, ZeroDivisionError()).get() is None
    assert isinstance(two.acquire(KEY, timeout=0).error(), LockTimeoutError)
    assert isinstance(one.do(reflection.check).error(), WriteConflictError)
    leave(one, reflection).get()


def test_a_version_function_that_fails_leaves_nothing_unchecked(scene: Scene) -> None:
    """Its error reaches the caller, who cannot write on."""
    (one,) = scene.actors(1)
    answers: list[Any] = [1]
    reflection = scene.reflect("c", keys=KEY, version_of=lambda key: answers.pop())
    enter(one, reflection).get()
    error = think(scene, one, reflection, lambda: None)
    assert isinstance(error, IndexError)
    assert isinstance(one.do(reflection.check).error(), LockError)
    leave(one, reflection, error).get()
    assert not held(scene.locks)


# -- two at once -----------------------------------------------------------------


def test_who_would_skip_does_not_wait_but_asks_the_one_under_way_to_run_again(
    scene: Scene
) -> None:
    """The block is not entered; the other finds the request, and who made it."""
    one, two = scene.actors(2)
    again: list[Any] = []
    first = scene.reflect("consolidate", keys=KEY, on_rerun=again.append)
    enter(one, first).get()
    second = scene.reflect("consolidate", keys=["profile", "notes"], if_busy="skip")
    error = enter(two, second).error()
    assert isinstance(error, ReflectionSkippedError)
    assert error.holders == (first.id,)
    assert first.rerun_requested and again == []
    assert [tuple(one) for one in first.rerun_requests] == [
        (second.id, "consolidate", ("profile", "notes"))
    ]
    leave(one, first).get()
    assert again == [first]
    started, skipped, completed = scene.told.events()
    assert (started.name, skipped.name, completed.name) == (STARTED, SKIPPED, COMPLETED)
    assert skipped.reason == "lock_held"
    assert skipped.attributes[names.REFLECTION_ID] == second.id
    assert skipped.attributes[names.REFLECTION_HOLDER_IDS] == (first.id,)
    assert skipped.attributes[names.LOCK_HOLDERS] == (one.unit,)
    assert skipped.attributes[names.REFLECTION_RERUN_REQUESTED] is True
    assert completed.attributes[names.REFLECTION_RERUN_REQUESTED] is True
    assert not held(scene.locks)


def test_one_that_thinks_without_locks_is_under_way_too(scene: Scene) -> None:
    """Else the second would write, and make the long thoughts of the first stale."""
    one, two = scene.actors(2)
    first = scene.reflect("consolidate", keys=KEY)
    enter(one, first).get()
    second = scene.reflect("consolidate", keys=KEY, if_busy="skip")

    def meanwhile() -> None:
        assert isinstance(enter(two, second).error(), ReflectionSkippedError)

    assert think(scene, one, first, meanwhile) is None
    leave(one, first).get()
    assert first.rerun_requested


def test_one_that_waits_for_its_locks_is_under_way_too(scene: Scene) -> None:
    """It will read what is there now."""
    holder, one, two = scene.actors(3)
    lease = holder.acquire(KEY).get()
    first = scene.reflect("consolidate", keys=KEY)
    waits = enter(one, first)
    scene.sleeps(one)
    error = enter(two, scene.reflect("consolidate", keys=KEY, if_busy="skip")).error()
    assert isinstance(error, ReflectionSkippedError)
    holder.release(lease).get()
    waits.get()
    leave(one, first).get()
    assert first.rerun_requested


def test_a_lock_that_no_reflection_holds_is_waited_for(scene: Scene) -> None:
    """Its holder would not do the work: skipped, it would be lost."""
    one, two = scene.actors(2)
    lease = one.acquire(KEY).get()
    reflection = scene.reflect("consolidate", keys=KEY, if_busy="skip")
    waits = enter(two, reflection)
    scene.sleeps(two)
    one.release(lease).get()
    waits.get()
    leave(two, reflection).get()
    assert scene.told.names() == [STARTED, COMPLETED]


def test_a_lock_that_no_reflection_holds_is_waited_for_as_long_as_the_timeout_says(
    scene: Scene
) -> None:
    """With 0 nothing is waited for at all."""
    one, two = scene.actors(2)
    one.acquire(KEY).get()
    late = scene.reflect("consolidate", keys=KEY, if_busy="skip", timeout=0)
    assert isinstance(enter(two, late).error(), LockTimeoutError)
    assert scene.told.names() == [FAILED]


def test_reflections_on_other_memories_or_that_only_read_are_not_asked(scene: Scene) -> None:
    """Both run beside each other."""
    one, two = scene.actors(2)
    first = scene.reflect("consolidate", keys={KEY: "shared", "notes/a": "exclusive"})
    second = scene.reflect(
        "consolidate", keys={"profile": "shared", "notes/b": "exclusive"}, if_busy="skip"
    )
    enter(one, first).get()
    enter(two, second).get()
    leave(two, second).get()
    leave(one, first).get()
    assert not first.rerun_requested
    assert scene.told.names() == [STARTED, STARTED, COMPLETED, COMPLETED]


def test_all_that_are_under_way_on_its_memories_are_asked(scene: Scene) -> None:
    """Each does a part of the work only."""
    one, two, three = scene.actors(3)
    first, second = scene.reflect("c", keys="a"), scene.reflect("c", keys="b")
    enter(one, first).get()
    enter(two, second).get()
    error = enter(three, scene.reflect("c", keys=["a", "b"], if_busy="skip")).error()
    assert isinstance(error, ReflectionSkippedError)
    assert set(error.holders) == {first.id, second.id}
    assert first.rerun_requested and second.rerun_requested
    leave(one, first).get()
    leave(two, second).get()


def test_agents_that_share_a_lock_manager_see_each_others_reflections(scene: Scene) -> None:
    """Each has ``Reflections`` of its own."""
    one, two = scene.actors(2)
    other = type(scene.told)(scene.locks, agent_name="librarian")
    first = other.reflect("consolidate", keys=KEY)
    enter(one, first).get()
    error = enter(two, scene.reflect("consolidate", keys=KEY, if_busy="skip")).error()
    assert isinstance(error, ReflectionSkippedError)
    leave(one, first).get()


def test_one_that_fails_is_asked_all_the_same(scene: Scene) -> None:
    """Its scheduler is called however it ended."""
    one, two = scene.actors(2)
    again: list[Any] = []
    first = scene.reflect("consolidate", keys=KEY, on_rerun=again.append)
    enter(one, first).get()
    enter(two, scene.reflect("consolidate", keys=KEY, if_busy="skip")).error()
    leave(one, first, ZeroDivisionError()).get()
    assert again == [first]
    (event,) = scene.told.events(FAILED)
    assert event.attributes[names.REFLECTION_RERUN_REQUESTED] is True


def test_a_request_in_the_moment_of_the_end_is_made_or_not_needed(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the first has left, it is asked and sees that; after that, the second runs itself."""
    again: list[Any] = []
    asked: list[Any] = []
    real = Rota.leave

    def leave_between(self: Rota, me: Any) -> None:
        if me is first:
            asked.append(enter(two, before).error())
        real(self, me)
        if me is first:
            enter(three, after).get()

    with Scene("threads") as scene:
        one, two, three = scene.actors(3)
        first = scene.reflect("consolidate", keys=KEY, on_rerun=again.append)
        before, after = (scene.reflect("consolidate", keys=KEY, if_busy="skip") for _ in "ba")
        monkeypatch.setattr(Rota, "leave", leave_between)
        enter(one, first).get()
        leave(one, first).get()
        assert isinstance(asked[0], ReflectionSkippedError)
        assert again == [first] and first.rerun_requests[0].id == before.id
        assert after.state == "running"
        leave(three, after).get()


def test_among_threads_every_request_is_heard() -> None:
    """Eight at once on two keys: each that was asked says so at its end, and no other."""
    with Scene("threads") as scene:
        actors = scene.actors(8)
        start = threading.Barrier(8)

        def reflect_often(key: str) -> None:
            start.wait(60)
            for _ in range(50):
                reflection = scene.reflect("c", keys=key, if_busy="skip")
                with (
                    contextlib.suppress(ReflectionSkippedError), reflection, reflection.unlocked()
                ):
                    pass

        answers = [
            actor.do(partial(reflect_often, "ab"[number % 2]))
            for number, actor in enumerate(actors)
        ]
        assert [answer.error() for answer in answers] == [None] * 8
        skipped, completed = scene.told.events(SKIPPED), scene.told.events(COMPLETED)
        assert len(skipped) + len(completed) == 8 * 50
        asked = {one for event in skipped
                 for one in event.attributes[names.REFLECTION_HOLDER_IDS]}  # fmt: skip
        heard = {event.attributes[names.REFLECTION_ID] for event in completed
                 if event.attributes[names.REFLECTION_RERUN_REQUESTED]}  # fmt: skip
        assert asked == heard
        assert asked, "nobody was in anybody's way"
        assert not held(scene.locks)


def consolidated(scene: Scene) -> set[str]:
    """What is taken in by reflections of two units that each have a note to take in.

    The second comes when the first has read already, and is skipped; the first runs as often
    as it is asked to.
    """
    one, two = scene.actors(2)
    inbox, taken = ["first"], set()
    while True:
        reflection = scene.reflect("consolidate", keys="notes", if_busy="skip")
        enter(one, reflection).get()
        read = list(inbox)
        if "second" not in inbox:
            inbox.append("second")
            other = scene.reflect("consolidate", keys="notes", if_busy="skip")
            assert isinstance(enter(two, other).error(), ReflectionSkippedError)
        taken |= set(read)
        leave(one, reflection).get()
        if not reflection.rerun_requested:
            return taken


def test_with_the_request_the_work_of_the_second_is_done(scene: Scene) -> None:
    """By the first, when it runs again."""
    assert consolidated(scene) == {"first", "second"}


def test_without_the_request_the_work_of_the_second_is_lost(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.reflection.Reflection.rerun_requested", False)
    assert consolidated(scene) == {"first"}
