"""The roll: which threads and tasks are there, and which of them calls.

A finaliser takes no lock here: what has died is put on a deque, and ``on_death`` is told.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from asyncio import _get_running_loop  # exported, not documented
from collections import deque
from collections.abc import Callable
from typing import Any

from otel_memoir.locks.parts import Unit


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
        """Note a death. Called by finalisers."""
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
