"""Many units at once, for long: no hang, no lost wake-up, no two holders that conflict.

MEMOIR_TEST_LOCK_OPERATIONS sets how many operations each of the 64 units does, and
MEMOIR_TEST_LOCK_KEYS on how many keys more: on six, nearly every request waits.
"""

from __future__ import annotations

import asyncio
import os
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from otel_memoir.errors import DeadlockError, LockTimeoutError
from otel_memoir.locks import LockManager
from otel_memoir.locks.modes import ONE

OPERATIONS = int(os.environ.get("MEMOIR_TEST_LOCK_OPERATIONS", "20"))
PATIENCE_S = 60.0 + OPERATIONS
MORE_KEYS = int(os.environ.get("MEMOIR_TEST_LOCK_KEYS", "0"))
KEYS = ("s/a", "s/b", "s/c", "t/a", "t/b", "u", *(f"v/{n % 7}/{n}" for n in range(MORE_KEYS)))
THREADS, LOOPS, TASKS = 32, 2, 16


class Witness:
    """Counts who is inside, with no help of the manager."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside: Counter[tuple[str, bool]] = Counter()
        self.conflicts: list[str] = []
        self.done: Counter[str] = Counter()

    @contextmanager
    def inside(self, key: str, writes: bool) -> Iterator[None]:
        """One more, for a block."""
        with self._lock:
            if self._inside[key, True] or (writes and self._inside[key, False]):
                self.conflicts.append(key)
            self._inside[key, writes] += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside[key, writes] -= 1
                self.done["operations"] += 1


def pick(rng: random.Random) -> tuple[str, str, str, int, float | None]:
    """Two keys, a mode, a priority and a timeout."""
    one, other = rng.sample(KEYS, 2)
    mode = rng.choice(("shared", "update", "exclusive"))
    return one, other, mode, rng.randrange(3), rng.choice((None, None, None, 0.0, 0.001))


def work(locks: LockManager, witness: Witness, seed: int) -> None:
    """A thread."""
    rng = random.Random(seed)
    for _ in range(OPERATIONS):
        one, other, mode, priority, timeout = pick(rng)
        try:
            with locks.hold(one, mode, priority=priority, timeout=timeout) as lease:
                if mode == "update":
                    lease.upgrade()
                with (
                    witness.inside(one, mode != "shared"),
                    locks.hold(other, timeout=timeout), witness.inside(other, True),
                ):
                    pass
        except (DeadlockError, LockTimeoutError) as error:
            witness.done[type(error).__name__] += 1


async def work_async(locks: LockManager, witness: Witness, seed: int) -> None:
    """A task; now and then it is cancelled as it waits."""
    rng = random.Random(seed)
    for number in range(OPERATIONS):
        one, other, mode, priority, timeout = pick(rng)
        try:
            async with locks.hold(one, mode, priority=priority, timeout=timeout):
                with witness.inside(one, mode == "exclusive"):
                    await asyncio.sleep(0)
                async with locks.hold_all({other: "exclusive", one: mode}, timeout=timeout):
                    with witness.inside(other, True):
                        await asyncio.sleep(0)
            if number % 8 == 0:
                await _cancelled(locks, one)
        except (DeadlockError, LockTimeoutError) as error:
            witness.done[type(error).__name__] += 1


async def _cancelled(locks: LockManager, key: str) -> None:
    async def hold() -> None:
        async with locks.hold(key):
            await asyncio.sleep(0)

    task = asyncio.create_task(hold())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def run_loop(locks: LockManager, witness: Witness, first: int, errors: list[Any]) -> None:
    """A loop with its tasks."""

    async def main() -> None:
        done = await asyncio.gather(
            *(work_async(locks, witness, first + number) for number in range(TASKS)),
            return_exceptions=True,
        )
        errors.extend(one for one in done if one is not None)

    asyncio.run(main())


def soak(locks: LockManager) -> tuple[Witness, list[Any]]:
    """Let all units work; return who saw what, and what was raised."""
    witness, errors = Witness(), list[Any]()
    threads = [
        threading.Thread(target=work, args=(locks, witness, seed), daemon=True)
        for seed in range(THREADS)
    ]
    threads += [
        threading.Thread(target=run_loop, args=(locks, witness, 1000 * n, errors), daemon=True)
        for n in range(1, LOOPS + 1)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    errors += [thread.name for thread in threads if thread.is_alive()]
    return witness, errors


@pytest.mark.timeout(PATIENCE_S * 2)
def test_threads_and_tasks_that_lock_at_random_all_end_and_never_conflict(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody wakes by himself here, so a wake-up that is lost is a unit that does not end."""
    monkeypatch.setattr("otel_memoir.locks.parking.PATIENCE_S", 3600.0)
    locks = LockManager()
    witness, errors = soak(locks)
    assert errors == []
    assert witness.conflicts == []
    assert locks.snapshot().keys == ()
    assert witness.done["DeadlockError"] > 0


def test_without_conflicts_between_modes_the_witness_sees_it(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    for module in ("core", "engine", "queueing"):
        monkeypatch.setattr(f"otel_memoir.locks.{module}.CONFLICT_FIELDS", (0,) * len(ONE))
    for module in ("engine", "queueing"):
        monkeypatch.setattr(f"otel_memoir.locks.{module}.CONFLICT_BITS", (0,) * len(ONE))
    witness, _ = soak(LockManager())
    assert witness.conflicts
