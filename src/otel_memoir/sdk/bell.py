"""The bell: wakes those who wait for a commit, be they threads or tasks.

It is rung on every emit, so without anybody who waits it costs a look at two lists. A loop
is told once, however many of its tasks wait and however often it is rung meanwhile: each
of 256 tasks told by itself of each emit held its loop for seconds (measured). What they
wait for is asked on each ring, and every ``LOOK_S``, so it has to be cheap.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LOOK_S = 0.05

_AT_ONCE = 4
"""So many tasks are woken in one turn of their loop: each emits again, and that adds up."""


class _Listener:
    """All tasks of one loop that wait. Only ``ring`` may be called by other threads."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}
        self._loop = loop
        self._is_rung = False

    def ring(self) -> None:
        if self._is_rung:
            return
        self._is_rung = True
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
            self._loop.call_soon_threadsafe(self._look)

    def _look(self) -> None:
        self._is_rung = False  # before the look: what comes after it rings again
        self._wake([
            future for future, is_true in self.waiting.items() if not future.done() and is_true()
        ])

    def _wake(self, due: list[asyncio.Future[None]]) -> None:
        """Wake a few, and the others after what else the loop has to do."""
        for future in due[:_AT_ONCE]:
            if not future.done():
                future.set_result(None)
        if len(due) > _AT_ONCE:
            self._loop.call_soon(self._wake, due[_AT_ONCE:])


class Bell:
    """Something that is rung when there may be news."""

    def __init__(self) -> None:
        self._wakers: list[Callable[[], object]] = []
        self._listeners: dict[asyncio.AbstractEventLoop, _Listener] = {}

    def ring(self) -> None:
        """Wake all who wait. Never blocks."""
        for wake in list(self._wakers) if self._wakers else ():
            wake()
        for listener in list(self._listeners.values()) if self._listeners else ():
            listener.ring()

    def forget(self) -> None:
        """In a fork child: nobody of the parent waits here."""
        self._wakers, self._listeners = [], {}

    def wait(self, is_true: Callable[[], bool], timeout: float) -> bool:
        """Wait in this thread until a condition holds.

        Args:
            is_true: The condition; asked at each ring, and every ``LOOK_S``.

            timeout: The longest wait, in seconds.

        Returns:
            Whether it holds.
        """
        rung = threading.Event()
        deadline_s = time.monotonic() + timeout
        self._wakers.append(rung.set)
        try:
            while not is_true():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                rung.wait(min(left_s, LOOK_S))
                rung.clear()
        finally:
            with contextlib.suppress(ValueError):  # forgotten, in a fork child
                self._wakers.remove(rung.set)
        return True

    async def wait_async(self, is_true: Callable[[], bool], timeout: float | None) -> bool:
        """As ``wait``, for tasks; ``None``: as long as it takes."""
        loop = asyncio.get_running_loop()
        deadline_s = None if timeout is None else loop.time() + timeout
        with self._listening(loop, is_true) as told:
            # Not ``wait_for``, which may swallow a cancellation up to Python 3.11.
            while not is_true():
                left_s = LOOK_S if deadline_s is None else deadline_s - loop.time()
                if left_s <= 0:
                    return False
                await asyncio.wait((told,), timeout=min(left_s, LOOK_S))
        return True

    @contextlib.contextmanager
    def _listening(
        self, loop: asyncio.AbstractEventLoop, is_true: Callable[[], bool]
    ) -> Iterator[asyncio.Future[None]]:
        told = loop.create_future()
        listener = self._listeners.setdefault(loop, _Listener(loop))
        listener.waiting[told] = is_true
        try:
            yield told
        finally:
            listener.waiting.pop(told, None)
            if not listener.waiting:
                self._listeners.pop(loop, None)
