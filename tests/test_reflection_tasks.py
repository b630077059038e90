"""Reflections of tasks: cancelled at every await, among many at random, in children of gather."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry import trace

from otel_memoir import LockManager
from otel_memoir.errors import LockError, ReflectionSkippedError, WriteConflictError
from otel_memoir.reflection import Reflection
from otel_memoir.reflection.basis import Basis
from otel_memoir.reflection.rota import rota_of
from reflection_helpers import COMPLETED, ENDS, SKIPPED, STARTED, Told, held

KEY = "profile/u1"


async def turns(count: int = 2) -> None:
    """Let the others run."""
    for _ in range(count):
        await asyncio.sleep(0)


class CancelledAt(Awaitable[Any]):
    """Awaits a coroutine, and cancels it where it gives up control for the n-th time."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], at: int) -> None:
        self._coroutine, self._at = coroutine, at

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            waits_for = self._coroutine.send(None)
            for _ in range(self._at - 1):
                yield waits_for
                waits_for = self._coroutine.send(None)
            if waits_for is not None:
                waits_for._asyncio_future_blocking = False
            while True:
                waits_for = self._coroutine.throw(asyncio.CancelledError())
                raise AssertionError("it goes on though it was cancelled")
        except StopIteration as done:
            return done.value


async def version_of(key: str) -> int:
    """A store that has to be asked."""
    await turns(1)
    return 1


async def reflecting(told: Told) -> str:
    """Waits for its locks twice, for versions twice, and for a model."""
    keys = [KEY, "notes"]
    async with told.reflect("c", keys=keys, if_busy="skip", version_of=version_of) as reflection:
        await turns()
        async with reflection.unlocked():
            await turns()
        reflection.wrote(KEY)
        await turns(1)
    return "done"


async def rival(locks: LockManager) -> None:
    """Is in the way, again and again."""
    for _ in range(4):
        async with locks.hold("profile"):
            await turns(3)


def cancelled_at(number: int) -> tuple[list[str], Told, bool]:
    """A reflection that is cancelled at its n-th await: its harm, and whether it has so many."""

    async def main() -> bool:
        other = asyncio.create_task(rival(told.locks))
        await turns(1)
        reached = True
        with contextlib.suppress(asyncio.CancelledError):
            reached = await CancelledAt(reflecting(told), number) != "done"
        left.append(trace.get_current_span())
        await asyncio.wait_for(other, 60)
        return reached

    told, left = Told(LockManager()), list[Any]()
    reached = asyncio.run(main())
    return harm_of(told, left[0]), told, reached


def harm_of(told: Told, left: trace.Span) -> list[str]:
    """What a reflection left behind, or told too often or never."""
    ends, starts, spans = told.events(*ENDS), told.events(STARTED), told.spans()
    found = {
        "held": held(told.locks), "under way": bool(rota_of(told.locks)._under_way),
        "ends": len(ends) != 1, "starts": len(starts) > 1, "spans": len(spans) != 1,
        "current": left is not trace.INVALID_SPAN,
    }
    return [what for what, is_so in found.items() if is_so]


def test_a_cancellation_at_any_await_leaves_nothing_held_and_one_end() -> None:
    """While it waits for locks, asks for versions, thinks, and waits again."""
    number, ends = 0, []
    reached = True
    while reached:
        number += 1
        harm, told, reached = cancelled_at(number)
        assert harm == [], number
        (end,) = told.events(*ENDS)
        ends.append((end.name, end.reason, bool(told.events(STARTED)), end.outcome))
    assert number > 10
    assert ends[-1][0] == COMPLETED
    assert {end[:2] for end in ends[:-1]} == {(SKIPPED, "cancelled")}
    assert [end[2] for end in ends] == sorted(end[2] for end in ends)
    assert not ends[0][2]
    assert ends[-2][3] == "partial" and ends[0][3] == "failure"


def test_without_the_end_of_what_did_not_begin_a_cancellation_would_be_seen(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Reflection, "_end", lambda self, error: None)
    harm, _, _ = cancelled_at(1)
    assert harm == ["ends", "spans", "current"]


def test_a_child_that_is_bound_reflects_inside_its_parent_and_another_is_skipped() -> None:
    """It acts for the parent, so the parent's locks are no obstacle."""
    told = Told(LockManager())

    async def child() -> None:
        async with told.reflect("child", keys=KEY, if_busy="skip"):
            await turns()

    async def main() -> Reflection:
        async with told.reflect("parent", keys="profile") as parent:
            await asyncio.gather(told.locks.bind(child)(), told.locks.bind(child)())
            with pytest.raises(ReflectionSkippedError):
                await asyncio.create_task(child())
        return parent

    parent = asyncio.run(main())
    assert len(parent.rerun_requests) == 1
    assert told.names().count(COMPLETED) == 3
    outer = next(span for span in told.spans() if span.parent is None)
    assert all(span.parent == outer.context for span in told.spans() if span is not outer)
    assert not held(told.locks)


def test_a_generator_that_nobody_ends_lets_go_when_it_is_thrown_away() -> None:
    """It was called off."""
    told = Told(LockManager())

    def generator() -> Generator[None, None, None]:
        with told.reflect("c", keys=KEY):
            yield

    begun = generator()
    next(begun)
    begun.close()
    (event,) = told.events(*ENDS)
    assert (event.name, event.reason) == (SKIPPED, "cancelled")
    assert not held(told.locks)


# -- many at random --------------------------------------------------------------


class Counters:
    """A store whose memories count how often they were written."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.writes = 0

    def write(self, key: str, value: int) -> None:
        """Write what was made of what was read."""
        self.values[key] = value
        self.writes += 1


async def one_of_many(told: Told, store: Counters, dice: random.Random) -> None:
    """Reads, thinks without locks, and writes what it made of what it read."""
    keys = dice.sample(["a", "b", "c/1", "c/2"], dice.randint(1, 3))
    reflection = told.reflect(
        "c", keys=keys, if_busy=dice.choice(["wait", "skip"]), priority=dice.randint(0, 2)
    )
    with contextlib.suppress(ReflectionSkippedError, WriteConflictError, ZeroDivisionError):
        async with reflection:
            while True:
                read = {key: store.values.get(key, 0) for key in keys}
                try:
                    async with reflection.unlocked():
                        await turns(dice.randint(0, 5))
                    break
                except WriteConflictError:
                    if dice.random() < 0.3:
                        raise
                    reflection.refresh()
            if dice.random() < 0.1:
                raise ZeroDivisionError
            for key in keys:
                store.write(key, read[key] + 1)
                reflection.wrote(key)


def many(seed: int, count: int = 12) -> tuple[Told, Counters]:
    """Many reflections at once, some of them cancelled."""
    dice, told, store = random.Random(seed), Told(LockManager()), Counters()

    async def main() -> None:
        tasks = [asyncio.create_task(one_of_many(told, store, dice)) for _ in range(count)]
        for task in dice.sample(tasks, 2):
            await turns(dice.randint(1, 6))
            task.cancel()
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 60)
        unexpected = [one.exception() for one in tasks if not one.cancelled()]
        assert [error for error in unexpected if error is not None] == []

    asyncio.run(main())
    return told, store


EXAMPLES = int(os.environ.get("MEMOIR_TEST_EXAMPLES", "15"))
PATIENT = settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


@PATIENT
@given(st.integers())
def test_among_many_no_update_is_lost_and_each_ends_once(seed: int) -> None:
    """Each write made one more of what was there; whoever was skipped was heard."""
    told, store = many(seed)
    assert sum(store.values.values()) == store.writes
    ends = told.events(*ENDS)
    ids = [event.attributes["memoir.reflection.id"] for event in ends]
    assert len(ids) == len(set(ids)) == len(told.spans())
    started = [event.attributes["memoir.reflection.id"] for event in told.events(STARTED)]
    assert set(started) <= set(ids) and len(set(started)) == len(started)
    assert {event.attributes["memoir.reflection.id"] for event in ends
            if event.name == COMPLETED} <= set(started)
    asked = {holder for event in told.events(SKIPPED)
             for holder in event.attributes.get("memoir.reflection.holder_ids", ())}
    heard = {event.attributes["memoir.reflection.id"] for event in ends
             if event.attributes.get("memoir.reflection.rerun_requested")
             and "memoir.reflection.holder_ids" not in event.attributes}
    assert asked == heard
    assert not held(told.locks)
    assert not rota_of(told.locks)._under_way


def test_without_the_version_check_updates_are_lost_among_many(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Basis, "settle", _all_is_well)
    lost = 0
    for seed in range(10):
        _, store = many(seed)
        lost += store.writes - sum(store.values.values())
    assert lost > 0


def _all_is_well(basis: Basis, versions: Any) -> tuple[Any, ...]:
    basis.give_up()
    return ()


@pytest.mark.parametrize("mode", ["with", "async with"])
def test_an_asynchronous_version_function_needs_async_with(mode: str) -> None:
    """With ``with`` it is an error that says so, and no coroutine is left behind."""
    told = Told(LockManager())

    async def main() -> None:
        async with told.reflect("c", keys=KEY, version_of=version_of) as reflection:
            if mode == "async with":
                async with reflection.unlocked():
                    pass
                return
            with pytest.raises(LockError, match="async with"), reflection.unlocked():
                raise AssertionError("not reached")
            reflection.check()

    asyncio.run(main())
    assert told.names() == [STARTED, COMPLETED]


