"""How a unit waits: a thread on a gate, a task on a future of its own loop.

No wait lacks a look: a waiter that nobody woke looks for itself, at least every
``PATIENCE_S``. Then it also finds that a holder has died or that its lease has run out.
"""

from __future__ import annotations

import asyncio
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.context import get_current

from otel_memoir.errors import DeadlockError, LockError
from otel_memoir.locks import states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.request import PATIENCE_S, TaskParker, ThreadParker, Wait

if TYPE_CHECKING:
    from otel_memoir.locks.engine import Engine
    from otel_memoir.locks.lease import Lease
    from otel_memoir.locks.unit import Unit


class Parking:
    """Where units wait for what an engine grants."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def acquire(self, lease: Lease, unit: Unit) -> None:
        """Wait in this thread until a lease is granted; raise when it is not."""
        parker = ThreadParker()
        wait = self._wait(lease, unit, unit.owner, parker, sync=True)
        try:
            self._engine.enter(wait)
            while wait.state is states.WAITING:
                parker.park(self.look(wait))
        except BaseException:
            self.abandon(wait)
            raise
        self._conclude(wait)

    async def acquire_async(self, lease: Lease, unit: Unit, owner: Unit) -> None:
        """Suspend this task until a lease is granted; raise when it is not."""
        parker = TaskParker()
        wait = self._wait(lease, unit, owner, parker, sync=False)
        timer = None
        try:
            self._engine.enter(wait)
            if wait.state is states.WAITING:
                timer = _Timer(self, wait)
                await parker.future
        except BaseException:
            # Also a hand-off that came before the cancellation: nobody else would end it.
            self.abandon(wait)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        self._conclude(wait)

    def _wait(
        self, lease: Lease, unit: Unit, owner: Unit,
        parker: ThreadParker | TaskParker, sync: bool,
    ) -> Wait:  # fmt: skip
        lease.context = get_current()
        unit.thread_ident = threading.get_ident()  # a loop may have moved to another thread
        wait = Wait(lease, (), unit, owner, parker, sync)
        if lease.timeout is not None:
            wait.deadline_s = time.monotonic() + lease.timeout
        return wait

    def look(self, wait: Wait) -> float:
        """See whether there is reason to go on waiting; return for how long, in seconds."""
        engine, effects = self._engine, Effects()
        now_s = time.monotonic()
        with engine.mutex:
            engine.clear_up(effects)
            nap_s = min(PATIENCE_S, engine.judge.expire(wait, effects))
            if wait.deadline_s is not None:
                nap_s = min(nap_s, wait.deadline_s - now_s)
                if nap_s <= 0:
                    engine.time_out(wait, effects)
            engine.settle(effects)
        effects.run(engine)
        return max(nap_s, 0.0)

    def abandon(self, wait: Wait) -> None:
        """Give up; if the lock came first, hand it on."""
        engine, effects = self._engine, Effects()
        if engine.inside():
            # The frame of a waiting task was thrown away by the collector.
            engine.roll.deaths.append(wait.unit)
            return
        with engine.mutex:
            engine.fail(wait, states.CANCELLED, None, effects)
            engine.settle(effects)
        effects.run(engine)
        engine.release(wait.lease, None)

    def _conclude(self, wait: Wait) -> None:
        """Raise what a wait ended with."""
        if wait.slept:
            Effects.guarded(partial(self._engine.on_waited, wait))
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

    def __init__(self, parking: Parking, wait: Wait) -> None:
        self._parking, self._wait = parking, wait
        self._loop = asyncio.get_running_loop()
        self._handle: asyncio.TimerHandle | None = None
        self._look()

    def _look(self) -> None:
        wait = self._wait
        if wait.state is not states.WAITING:
            wait.parker.wake()
            return
        nap_s = self._parking.look(wait)
        if wait.state is states.WAITING:
            self._handle = self._loop.call_later(nap_s, self._look)

    def cancel(self) -> None:
        """The wait is over."""
        if self._handle is not None:
            self._handle.cancel()
