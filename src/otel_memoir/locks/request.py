"""A wait for a lock: its state word, its place in the queue, and where its unit sleeps.

A timeout, a cancellation, a hand-off and a verdict race for one word. It is written under
the mutex and only while it says ``WAITING``: the first wins, and the others accept that.
A lock is handed over by whoever lets it go, so nobody who comes later can take it first.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio import _get_running_loop
from typing import TYPE_CHECKING, Protocol

from opentelemetry.context import Context

from otel_memoir.locks.states import WAITING

if TYPE_CHECKING:
    from otel_memoir.locks.lease import Lease
    from otel_memoir.locks.report import Verdict
    from otel_memoir.locks.table import Entry, Steps
    from otel_memoir.locks.unit import Unit

# Nobody sleeps longer without looking: a wake-up that was lost with the thread that owed
# it, or a death that a finaliser could not announce, costs this much and no more.
PATIENCE_S = 0.5

Order = tuple[int, int, int]


class Parker(Protocol):
    """Where one unit sleeps."""

    def wake(self) -> bool:
        """End the sleep, from any thread; False if there is nobody to wake any more."""
        ...


class ThreadParker:
    """Sleeps a thread."""

    __slots__ = ("_gate",)

    def __init__(self) -> None:
        self._gate = threading.Lock()
        self._gate.acquire()

    def park(self, timeout: float) -> None:
        """Sleep until ``wake``, at most so many seconds."""
        self._gate.acquire(timeout=max(0.0, timeout))

    def wake(self) -> bool:
        """End the sleep."""
        with contextlib.suppress(RuntimeError):  # woken already
            self._gate.release()
        return True


class TaskParker:
    """Suspends a task, on its own loop: a future that another thread touches wakes nobody."""

    __slots__ = ("_loop", "future")

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.future: asyncio.Future[None] = self._loop.create_future()

    def wake(self) -> bool:
        """Resume the task; False if its loop is closed."""
        if _get_running_loop() is self._loop:
            self._set()
            return True
        try:
            self._loop.call_soon_threadsafe(self._set)
        except RuntimeError:  # closed
            return False
        return True

    def _set(self) -> None:
        if not self.future.done():
            self.future.set_result(None)


class Wait:
    """One request that has to wait, for one lease.

    Attributes:
        index: Of ``steps``, those before it are taken.

        entry, mode: What it queues for now.

        order: Its place in the queue: (0 if its owner holds the key already, arrival less
            what priority and donations are worth in ns, stamp). It does not change with
            time, though priorities age: all age alike, so none overtakes another by it.

        slept: Whether it had to wait at all; ``waited_ns``: how long, when it is over.

        blockers, queue_length, blocker: Who was in the way when it began, how many queued,
            and the context of the first.

        donors: Waits with a higher priority that this one stands in the way of.

        verdict: Why it was refused.
    """

    __slots__ = (
        "arrival_ns", "blocker", "blockers", "context", "deadline_s", "donors", "entry", "error",
        "index", "lease", "mode", "order", "owner", "parker", "priority", "queue_length", "slept",
        "stamp", "state", "steps", "sync", "unit", "verdict", "waited_ns", "where",
    )  # fmt: skip

    def __init__(
        self, lease: Lease, steps: Steps, unit: Unit, owner: Unit, parker: Parker, sync: bool
    ) -> None:
        self.lease, self.steps, self.unit, self.owner = lease, steps, unit, owner
        self.parker, self.sync = parker, sync
        self.priority = lease.priority
        self.state = WAITING
        self.index = 0
        self.entry: Entry | None = None
        self.mode = 0
        self.arrival_ns = self.stamp = 0
        self.deadline_s: float | None = None
        self.order: Order = (1, 0, 0)
        self.donors: set[Wait] = set()
        self.verdict: Verdict | None = None
        self.error: BaseException | None = None
        self.slept, self.waited_ns, self.queue_length = False, 0, 0
        self.blockers: tuple[Unit, ...] = ()
        self.blocker: Context | None = None
        self.context, self.where = lease.context, lease.where

    @property
    def holders(self) -> tuple[str, ...]:
        """Ids of the units that were in the way when it began."""
        return tuple(dict.fromkeys(unit.id for unit in self.blockers))

    @property
    def converts(self) -> bool:
        """Whether its owner holds the key already, and wants more of it."""
        return self.entry is not None and self.owner in self.entry.holders
