"""Threads whose every switch is chosen by an explorer, so that all schedules can be tried.

``interleave_test`` runs one thread at a time, and gives ``threading`` gates and mutexes at
which it decides who goes on. Added here is what it has not: a mutex that knows its owner;
waits without a deadline, since those of the manager make up for a wake-up that was lost, and
so would hide it; a clock that strikes when the explorer says so; a thread whose death the
manager sees while the schedule goes on.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import interleave_test as it
import pytest

from otel_memoir.errors import LockError
from otel_memoir.locks import LockManager, core, effects, engine, lease, parkers, parking, queueing
from otel_memoir.locks.roll import Roll

# What runs partly under the mutex, and decides who wakes whom.
STEPPED = [str(module.__file__) for module in (
    core, effects, engine, lease, parkers, parking, queueing,
)]  # fmt: skip
NOTHING = [f"{__file__}/nothing"]  # an empty list would be everything
FOREVER_S = 1e6


class Gate(it.Lock):
    """A lock without deadlines, but for those that ``Clock`` strikes."""

    timed: list[Gate] = []  # noqa: RUF012 - one schedule runs at a time

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As that of the standard library."""
        if 0 < timeout < FOREVER_S:
            Gate.timed.append(self)
        return bool(super().acquire(blocking, 0 if timeout == 0 else -1))


class Mutex(it.RLock):
    """Knows who is inside, and waits as long as it takes."""

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """As that of the standard library, without the deadline."""
        return bool(super().acquire(blocking))

    def _is_owned(self) -> bool:
        return _explored() and self._owner is it._scheduler.current_scheduler().me()


def _explored() -> bool:
    """Whether this thread lives in a schedule that goes on."""
    scheduler = it._scheduler.current_scheduler()
    me = scheduler.me() if scheduler is not None else None
    return me is not None and me.status.value != "finished" and not scheduler._abort


class Clock:
    """Stands until it strikes; then it is past every deadline, and who slept for one wakes."""

    def __init__(self) -> None:
        self.now_s = 0.0
        Gate.timed.clear()

    def strike(self) -> None:
        """Let all timeouts be over."""
        self.now_s = 1000.0
        for gate in list(Gate.timed):
            if gate.locked():
                gate.release()


class Cast:
    """A manager and its threads, in one schedule.

    Attributes:
        said: How each thread ended: ``done``, or the name of the error.
    """

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        time.monotonic = lambda: self.clock.now_s  # ``explore`` gives it back
        with it.no_interleave():
            self.locks = LockManager(
                monotonic_ns=lambda: int(self.clock.now_s * 1e9), **options
            )
        self.said: dict[str, str] = {}
        self._inside: Counter[str] = Counter()
        self._tasks: list[Any] = []

    def thread(self, name: str, body: Callable[[], object]) -> None:
        """Begin a thread."""

        def live() -> None:
            try:
                body()
                self.said[name] = "done"
            except LockError as error:
                self.said[name] = type(error).__name__
            self._leave()

        self._tasks.append(it.spawn(live, name=name))

    @contextmanager
    def alone(self, key: str) -> Iterator[None]:
        """A block in which no other thread may be, with a place to be stopped at."""
        self._inside[key] += 1
        assert self._inside[key] == 1, f"two hold {key}"
        with it.Lock():
            yield
        self._inside[key] -= 1

    def end(self) -> dict[str, str]:
        """Wait for all; return what they said. Nothing may be left."""
        for task in self._tasks:
            task.join()
        with it.no_interleave():
            self._leave()
            assert self.locks.snapshot().keys == ()
        return self.said

    def asked(self) -> Any:
        """A gate that opens when somebody queues for a lock, before he sleeps."""
        gate = it.Semaphore(0)
        self.locks.on_block(lambda unit, holders: gate.release())
        return gate

    def _leave(self) -> None:
        """What the end of a thread does with its locals, but while the explorer looks on."""
        self.locks._engine.roll._locals.__dict__.clear()


def meeting(count: int) -> Callable[[], None]:
    """A barrier: all come before one goes on."""
    gates = [it.Semaphore(0) for _ in range(count)]
    numbers = iter(range(count))

    def meet() -> None:
        mine = next(numbers)
        for number, gate in enumerate(gates):
            if number != mine:
                gate.release()
        for _ in range(count - 1):
            gates[mine].acquire()

    return meet


def explore(
    model: Callable[[], object], *, preemptions: int = 1, schedules: int = 100_000, at: str = "",
) -> Any:  # fmt: skip
    """Run a model in many schedules; raise with the first that fails.

    Args:
        preemptions: All schedules in which at most so many threads are stopped though they
            could go on, at operations of gates and mutexes.

        at: ``line`` or ``opcode``: so many ``schedules`` instead, at random (PCT), in which
            threads are stopped before any line or opcode of the manager.
    """
    here, died = threading.current_thread(), Roll.died
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEMOIR_LOCK_SOCKET", "off")  # its thread is none of the explorer's
        patch.setattr(parking, "PATIENCE_S", FOREVER_S)
        patch.setattr(it._primitives, "Lock", Gate)
        patch.setattr(it._primitives, "RLock", Mutex)
        patch.setattr(threading, "current_thread", lambda: here)
        patch.setattr(time, "monotonic", time.monotonic)
        # What dies when a schedule is over is nobody's any more.
        patch.setattr(Roll, "died", lambda roll, unit: died(roll, unit) if _explored() else None)
        return it.explore(
            model, iterations=schedules, seed=1, strategy="pct" if at else "dfs",
            max_preemptions=preemptions, patch_time=False, timeout=60.0,
            granularity=at or "line", include=STEPPED if at else NOTHING,
        )
