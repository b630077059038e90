"""Small cases of tasks in every schedule up to a bound, with cancellations at any await.

By default all schedules with at most three deviations from the order in which asyncio would
run what is ready, and some at random. MEMOIR_TEST_LOCK_SCHEDULES=N: one deviation more, and N
at random. Time is virtual, and a wake-up that the manager made up for later is a failure.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import pytest

from otel_memoir.errors import LockError
from otel_memoir.locks import LockManager, parking
from otel_memoir.locks.parkers import TaskParker

detangle = pytest.importorskip(
    "detangle", reason="needs detangle: pip install -e . --group dev"
)

ASKED = int(os.environ.get("MEMOIR_TEST_LOCK_SCHEDULES", "0"))
LATE_S = 3600.0
TOO_LATE_S = 100.0

pytestmark = pytest.mark.timeout(120 + 2 * ASKED)

Body = Callable[[], Coroutine[Any, Any, None]]


@pytest.fixture(autouse=True)
def nobody_looks_for_himself(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wake-up that is lost costs an hour, and so is seen."""
    monkeypatch.setenv("MEMOIR_LOCK_SOCKET", "off")  # its thread is none of the explorer's
    monkeypatch.setattr(parking, "PATIENCE_S", LATE_S)


class Cast:
    """A manager and its tasks, in one schedule."""

    def __init__(self, **options: Any) -> None:
        # Asked for anew each time: detangle replaces it while a step runs.
        now_ns = lambda: time.monotonic_ns()  # noqa: E731, PLW0108
        self.locks = LockManager(monotonic_ns=now_ns, **options)
        self.said: dict[str, str] = {}
        self._inside: Counter[str] = Counter()
        self._tasks: list[asyncio.Task[None]] = []

    def task(self, name: str, body: Body) -> asyncio.Task[None]:
        """Begin a task."""
        self._tasks.append(asyncio.create_task(self._live(name, body)))
        return self._tasks[-1]

    async def _live(self, name: str, body: Body) -> None:
        self.said[name] = "cancelled"
        try:
            await body()
            self.said[name] = "done"
        except LockError as error:
            self.said[name] = type(error).__name__

    @asynccontextmanager
    async def alone(self, key: str) -> AsyncIterator[None]:
        """A block in which no other task may be, with an await in it."""
        self._inside[key] += 1
        try:
            assert self._inside[key] == 1, f"two hold {key}"
            await asyncio.sleep(0)
            yield
        finally:
            self._inside[key] -= 1

    async def ask(self, key: str, **options: Any) -> None:
        """Hold a key for a moment."""
        async with self.locks.hold(key, **options), self.alone(key):
            pass

    async def end(self) -> dict[str, str]:
        """Wait for all; return what they said. Nothing may be left."""
        while pending := [task for task in self._tasks if not task.done()]:
            await asyncio.wait(pending)
        for task in self._tasks:
            assert task.cancelled() or task.exception() is None, task.exception()
        await asyncio.sleep(0)
        assert self.locks.snapshot().keys == ()
        return self.said


Model = Callable[[], Awaitable[dict[str, str]]]


def explore(model: Model, *, deviations: int = 3, schedules: int = 50) -> set[tuple[str, ...]]:
    """How the tasks of a model can end, by their names' order, over all schedules tried."""
    seen: set[tuple[str, ...]] = set()

    async def one() -> None:
        said = await model()
        seen.add(tuple(said[name] for name in sorted(said)))

    options: dict[str, Any] = {
        "database": False, "patch_time": True, "max_time": TOO_LATE_S, "seed": 1,
        "timer_jitter": 0.01, "jitter_steps": 2,
    }  # fmt: skip
    bound = detangle.DFS(max_delays=deviations + bool(ASKED))
    assert detangle.explore(one, strategy=bound, runs=200_000, **options).exhausted
    detangle.explore(one, strategy="pct:3", runs=ASKED or schedules, **options)
    return seen


def meeting(count: int) -> Callable[[], Awaitable[None]]:
    """A barrier: all come before one goes on."""
    come: list[int] = []
    all_here = asyncio.Event()

    async def meet() -> None:
        come.append(1)
        if len(come) == count:
            all_here.set()
        await all_here.wait()

    return meet


async def circle(count: int, **options: Any) -> dict[str, str]:
    """Each holds a key, and asks for that of the next one when all hold theirs."""
    cast, meet = Cast(**options), meeting(count)

    async def body(own: str, other: str) -> None:
        async with cast.locks.hold(own):
            await meet()
            await cast.ask(other)

    for number in range(count):
        keys = f"k{number}", f"k{(number + 1) % count}"
        cast.task(f"t{number}", lambda keys=keys: body(*keys))
    return await cast.end()


@pytest.mark.parametrize("count", [2, 3])
def test_of_a_circle_exactly_one_is_refused_in_every_schedule(count: int) -> None:
    """Whoever comes last."""
    seen = explore(lambda: circle(count), deviations=5 - count)
    assert {tuple(sorted(ends)) for ends in seen} == {("DeadlockError", *["done"] * (count - 1))}


def test_of_two_who_upgrade_exactly_one_is_refused_in_every_schedule() -> None:
    """Both read, both want to write."""

    async def model() -> dict[str, str]:
        cast, meet = Cast(), meeting(2)

        async def body() -> None:
            async with cast.locks.hold("k", "shared") as lease:
                await meet()
                await lease.upgrade_async()
                async with cast.alone("k"):
                    pass

        cast.task("a", body)
        cast.task("b", body)
        return await cast.end()

    assert explore(model) == {("DeadlockError", "done"), ("done", "DeadlockError")}


Rival = Callable[[Cast, "asyncio.Task[None]"], None]


async def contended(rival: Rival, *, timeout: float | None = None) -> dict[str, str]:
    """``a`` lets go as a rival does something to the waiting ``b``; ``c`` queues behind it."""
    cast = Cast()
    asked = asyncio.Event()
    cast.locks.on_block(lambda unit, holders: asked.set())

    async def hold() -> None:
        async with cast.locks.hold("k"), cast.alone("k"):
            waiter = cast.task("b", lambda: cast.ask("k", timeout=timeout))
            await asked.wait()
            cast.task("c", lambda: cast.ask("k"))
            rival(cast, waiter)
            if timeout is not None:
                await asyncio.sleep(timeout)

    cast.task("a", hold)
    return await cast.end()


def cancelled_by_another(cast: Cast, waiter: asyncio.Task[None]) -> None:
    """A task cancels it: also when it was handed the lock, and does not know it yet."""

    async def cancel() -> None:
        waiter.cancel()

    cast.task("d", cancel)


def cancelled_at_an_await(cast: Cast, waiter: asyncio.Task[None]) -> None:
    """It is cancelled as it begins to wait for anything."""
    detangle.inject_cancellation(waiter)


@pytest.mark.parametrize("rival", [cancelled_by_another, cancelled_at_an_await])
def test_a_cancellation_and_a_hand_over_end_a_wait_once_and_starve_nobody(rival: Rival) -> None:
    """At any await of the waiter: as it sleeps, as it was handed the lock, when it has it."""
    seen = explore(lambda: contended(rival))
    assert {ends[:3] for ends in seen} == {("done", "cancelled", "done"), ("done", "done", "done")}


def test_a_timeout_and_a_hand_over_end_a_wait_once_and_starve_nobody() -> None:
    """They come at the same moment of a virtual clock."""
    assert explore(lambda: contended(lambda *_: None, timeout=1.0)) == {
        ("done", "LockTimeoutError", "done"), ("done", "done", "done"),
    }  # fmt: skip


def test_all_or_nothing_against_one_after_the_other_loses_at_most_one() -> None:
    """One takes both at once, the other from behind; either may be cancelled."""

    async def model() -> dict[str, str]:
        cast = Cast()

        async def at_once() -> None:
            async with (
                cast.locks.hold_all({"b": "exclusive", "a": "exclusive"}), cast.alone("a")
            ):
                pass

        async def step_by_step() -> None:
            async with cast.locks.hold("b"), cast.alone("b"):
                await cast.ask("a")

        detangle.inject_cancellation(cast.task("a", at_once))
        cast.task("b", step_by_step)
        return await cast.end()

    seen = explore(model)
    assert ("done", "done") in seen
    assert ("cancelled", "done") in seen
    assert ("DeadlockError", "DeadlockError") not in seen


def test_who_waits_for_a_writer_that_ends_is_told_or_served_and_never_forgotten() -> None:
    """A helper that acts for the writer lets go at the moment in which the writer ends."""

    async def model() -> dict[str, str]:
        cast = Cast()

        async def write() -> None:
            lease = await cast.locks.acquire_async("k")

            async def let_go() -> None:
                lease.release()

            cast.task("b", cast.locks.bind(let_go))
            cast.task("c", lambda: cast.ask("k"))

        cast.task("a", write)
        return await cast.end()

    assert explore(model) == {("done", "done", "done"), ("done", "done", "OwnerDiedError")}


def test_a_block_that_is_done_again_after_a_deadlock_is_done_in_every_schedule() -> None:
    """``run`` ends for both."""

    async def model() -> dict[str, str]:
        cast = Cast()

        async def both(one: str, other: str) -> None:
            async with cast.locks.hold(one):
                await asyncio.sleep(0)
                await cast.ask(other)

        cast.task("a", lambda: cast.locks.run(both, "x", "y"))
        cast.task("b", lambda: cast.locks.run(both, "y", "x"))
        return await cast.end()

    assert explore(model) == {("done", "done")}


# -- negative controls: what is broken on purpose, the explorer finds --------------


def test_a_waiter_that_keeps_what_it_was_handed_as_it_was_cancelled_is_found(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best known mistake of locks for tasks."""
    monkeypatch.setattr("otel_memoir.locks.lease.recover", lambda engine, lease, error: None)
    abandon = parking.abandon

    def forget(engine: Any, wait: Any) -> None:
        if wait.state != "granted":
            abandon(engine, wait)

    monkeypatch.setattr(parking, "abandon", forget)
    seen = explore(lambda: contended(cancelled_by_another))
    assert ("done", "cancelled", "OwnerDiedError") in {ends[:3] for ends in seen}


def test_a_wake_up_that_is_lost_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would be made up for an hour later."""
    monkeypatch.setattr(TaskParker, "wake", lambda self: True)
    with pytest.raises(detangle.BugFound):
        explore(lambda: contended(lambda *_: None))


def test_a_circle_that_nobody_breaks_is_found() -> None:
    """With ``on_deadlock="report"`` and no timeouts."""
    with pytest.raises(detangle.BugFound):
        explore(lambda: circle(2, on_deadlock="report"))
