"""Where units sleep: a thread at a gate, a task at a future of its own loop."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from asyncio import _get_running_loop

# Nobody sleeps longer without looking: a wake-up that was lost with the thread that owed
# it, or a death that a finaliser could not announce, costs this much and no more.
PATIENCE_S = 0.5


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
