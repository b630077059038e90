"""Units: the threads and tasks that hold and wait, and how one knows which it is.

A unit is an execution unit, never a span: children of ``gather`` inherit their parent's span
and would share its "exclusive" lock without knowing. Who shares a lock says so: while a unit
*acts for* another one (``LockManager.bind``), that one is the owner of what it takes, and
the owner is able to go on as long as one of its ``crew`` is.

Nothing here takes the manager's mutex in a finaliser: what has died is put on a deque.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import weakref
from asyncio import _get_running_loop  # exported, not documented
from collections import deque
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_memoir.locks.foreign import ForeignWait
    from otel_memoir.locks.lease import Lease
    from otel_memoir.locks.request import Wait

_serials = itertools.count(1)


class Unit:
    """One thread or one task.

    Attributes:
        owner: Whom it takes locks for: itself, unless it acts for another.

        crew: The living units that take locks for this one. Empty: it is dead.

        leases: What is held for it.

        wait: The lock it waits for now.

        foreign: What else it waits for now, as far as that was declared.

        thread_ident: The thread it runs in: when that one blocks, the unit stands still.

        ticket: Its age: a stamp that it keeps through retries. None: that of its oldest lease.

        refusals: How often in a row it was the victim of a deadlock.

        refused_at: The fence of the last time: what it held then does not end the row.

        wounded: An older unit waits for it: its next wait is refused (wound-wait).
    """

    __slots__ = (
        "__weakref__", "crew", "foreign", "kind", "leases", "name", "owner", "pid", "refusals",
        "refused_at", "serial", "task", "thread_ident", "ticket", "wait", "wounded",
    )  # fmt: skip

    def __init__(self, kind: str, name: str, task: weakref.ref[Any] | None = None) -> None:
        self.kind, self.name, self.task = kind, name, task
        self.serial, self.pid = next(_serials), os.getpid()
        self.thread_ident = threading.get_ident()
        self.owner: Unit = self
        self.crew: tuple[Unit, ...] = (self,)
        self.leases: set[Lease] = set()
        self.wait: Wait | None = None
        self.foreign: list[ForeignWait] = []
        self.ticket: int | None = None
        self.refusals = self.refused_at = 0
        self.wounded: Any = None

    @property
    def id(self) -> str:
        """Stable, and unique on this host while the process lives."""
        return f"{self.kind}:{self.name}/{self.pid}.{self.serial}"

    def __repr__(self) -> str:
        return f"<Unit {self.id}>"


class _Anchor:
    """Lives in a thread's locals, and so dies with the thread."""

    __slots__ = ("_died", "_unit")

    def __init__(self, unit: Unit, died: Callable[[Unit], None]) -> None:
        self._unit, self._died = unit, died

    def __del__(self) -> None:
        self._died(self._unit)


class _Locals(threading.local):
    def __init__(self, roll: Roll) -> None:
        self.unit = Unit("thread", threading.current_thread().name)
        self.anchor = _Anchor(self.unit, roll.died)
        roll.threads[self.unit.thread_ident] = self.unit


class Roll:
    """All living units of one manager.

    Args:
        on_death: Called when a unit has died, wherever that is noticed: in a finaliser too.
    """

    def __init__(self, on_death: Callable[[], None]) -> None:
        self._on_death = on_death
        self.deaths: deque[Unit] = deque()
        self.forget()

    def forget(self) -> None:
        """In a fork child: nobody of these is there."""
        self.threads: dict[int, Unit] = {}
        self._tasks: dict[int, Unit] = {}
        self._pid = os.getpid()
        self._locals = _Locals(self)
        self.deaths.clear()

    def here(self) -> Unit:
        """The unit that calls."""
        loop = _get_running_loop()
        if loop is None:
            return self._locals.unit
        task = asyncio.current_task(loop)
        if task is None:
            return self._locals.unit
        return self._tasks.get(id(task)) or self._enrol(task)

    def living(self) -> list[Unit]:
        """All units that took a lock and live."""
        return [*self.threads.values(), *self._tasks.values()]

    def find(self, target: object) -> Unit | None:
        """The unit of a thread, a task or a unit; None if it never took a lock."""
        if isinstance(target, Unit):
            return target if target.crew else None
        if isinstance(target, threading.Thread):
            return self.threads.get(target.ident or 0)
        unit = self._tasks.get(id(target))
        return unit if unit and unit.task and unit.task() is target else None

    def strike_off(self, unit: Unit) -> None:
        """Forget a dead thread, unless its number belongs to another one by now."""
        if self.threads.get(unit.thread_ident) is unit:
            del self.threads[unit.thread_ident]

    def died(self, unit: Unit) -> None:
        """Note a death. Called by finalisers: takes no lock."""
        if unit.pid == os.getpid():
            self.deaths.append(unit)
            self._on_death()

    def _enrol(self, task: asyncio.Task[Any]) -> Unit:
        number = id(task)
        unit = Unit("task", task.get_name(), weakref.ref(task, lambda _: self._gone(number)))
        self._tasks[number] = unit
        task.add_done_callback(self._done)
        return unit

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._gone(id(task))

    def _gone(self, number: int) -> None:
        unit = self._tasks.pop(number, None)
        if unit is not None:
            self.died(unit)
