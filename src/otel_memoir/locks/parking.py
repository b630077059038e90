"""How a unit waits for what an engine grants: a thread at a gate, a task at a future.

No wait lacks a look: a waiter that nobody woke looks for itself, at least every
``PATIENCE_S``. Then it also finds that a holder has died or that its lease has run out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial

from opentelemetry.context import get_current

from otel_memoir.errors import DeadlockError, LockError
from otel_memoir.locks import states
from otel_memoir.locks.effects import Effects, guarded
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.parkers import PATIENCE_S, TaskParker, ThreadParker
from otel_memoir.locks.parts import Claim, Unit, Wait


def acquire(engine: Engine, lease: Claim, unit: Unit) -> None:
    """Wait in this thread until a lease is granted; raise when it is not."""
    parker = ThreadParker()
    wait = _wait(lease, unit, unit.owner, parker, sync=True)
    try:
        engine.enter(wait)
        while wait.state is states.WAITING:
            parker.park(look(engine, wait))
        _see_it_whole(engine, wait)
    except BaseException:
        abandon(engine, wait)
        _tell(engine, wait)
        raise
    _conclude(engine, wait)


async def acquire_async(engine: Engine, lease: Claim, unit: Unit, owner: Unit) -> None:
    """Suspend this task until a lease is granted; raise when it is not."""
    parker = TaskParker()
    wait = _wait(lease, unit, owner, parker, sync=False)
    timer = None
    try:
        engine.enter(wait)
        if wait.state is states.WAITING:
            timer = _Timer(engine, wait)
            await parker.future
        _see_it_whole(engine, wait)
    except BaseException:
        # Also a hand-off that came before the cancellation: nobody else would end it.
        abandon(engine, wait)
        _tell(engine, wait)
        raise
    finally:
        if timer is not None:
            timer.cancel()
    _conclude(engine, wait)


def _see_it_whole(engine: Engine, wait: Wait) -> None:
    """Let who writes a grant come to its end: its state word is read without the mutex."""
    if wait.slept:
        with engine.mutex:
            # Not ``pass``: CPython does not see there that it has to release.
            assert wait.state is not states.WAITING


def _wait(
    lease: Claim, unit: Unit, owner: Unit, parker: ThreadParker | TaskParker, sync: bool
) -> Wait:
    lease.context = get_current()
    unit.thread_ident = threading.get_ident()  # a loop may have moved to another thread
    wait = Wait(lease, (), unit, owner, parker, sync)
    if lease.timeout is not None:
        wait.deadline_s = time.monotonic() + lease.timeout
    return wait


def look(engine: Engine, wait: Wait) -> float:
    """See whether there is reason to go on waiting; return for how long, in seconds."""
    effects = Effects()
    now_s = time.monotonic()
    with engine.mutex:
        engine.clear_up(effects)
        nap_s = min(PATIENCE_S, engine.judge.expire(wait, effects))
        if wait.deadline_s is not None:
            nap_s = min(nap_s, wait.deadline_s - now_s)
            if nap_s <= 0:
                engine.time_out(wait, effects)
        engine.settle(effects)
    engine.pay(effects)
    return max(nap_s, 0.0)


def abandon(engine: Engine, wait: Wait) -> None:
    """Give up; if the lock came first, hand it on."""
    effects = Effects()
    if engine.inside():
        # The frame of a waiting task was thrown away by the collector.
        engine.roll.deaths.append(wait.unit)
        return
    with engine.mutex:
        engine.fail(wait, states.CANCELLED, None, effects)
        engine.settle(effects)
    engine.pay(effects)
    engine.release(wait.lease, None)


def _tell(engine: Engine, wait: Wait) -> None:
    """Have it told that a wait is over; of a frame that the collector threw away, nothing."""
    if wait.slept and not engine.inside():
        guarded(partial(engine.on_waited, wait))


def _conclude(engine: Engine, wait: Wait) -> None:
    """Raise what a wait ended with."""
    _tell(engine, wait)
    if wait.state is states.GRANTED:
        return
    verdict = wait.verdict
    if verdict is not None:
        raise DeadlockError(
            verdict.report(), target=wait.steps[-1][0].key,
            cause=f"{verdict.reason}: {verdict.report()}",
        )  # fmt: skip
    raise wait.error or LockError("wait for lock", target=wait.lease.key, cause=wait.state)


class _Timer:
    """Looks after a task's wait, on its loop."""

    def __init__(self, engine: Engine, wait: Wait) -> None:
        self._engine, self._wait = engine, wait
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._look()

    def _look(self) -> None:
        wait = self._wait
        if wait.state is not states.WAITING:
            wait.parker.wake()
            return
        nap_s = look(self._engine, wait)
        if wait.state is states.WAITING:
            self._handle = self._loop.call_later(nap_s, self._look)

    def cancel(self) -> None:
        """The wait is over."""
        if self._handle is not None:
            self._handle.cancel()
