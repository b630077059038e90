"""The bell: wakes those who wait for a change in the spool, be they threads or tasks.

It is rung on every emit, so without anybody who waits it costs one look at a list. Whoever
waits looks again at least every ``LOOK_S``: what another process does rings no bell here.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Awaitable, Callable, Iterator

LOOK_S = 0.05


class Bell:
    """Something that is rung when there may be news."""

    def __init__(self) -> None:
        self._wakers: list[Callable[[], object]] = []

    def ring(self) -> None:
        """Wake all who wait. Never blocks."""
        for wake in list(self._wakers) if self._wakers else ():
            wake()

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
        with self._listening(rung.set):
            while not is_true():
                left_s = deadline_s - time.monotonic()
                if left_s <= 0:
                    return False
                rung.wait(min(left_s, LOOK_S))
                rung.clear()
        return True

    async def wait_async(
        self, is_true: Callable[[], Awaitable[bool]], timeout: float | None
    ) -> bool:
        """As ``wait``, for tasks; ``None``: as long as it takes."""
        loop, rung = asyncio.get_running_loop(), asyncio.Event()
        deadline_s = None if timeout is None else loop.time() + timeout

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits there
                loop.call_soon_threadsafe(rung.set)

        with self._listening(wake):
            while not await is_true():
                left_s = LOOK_S if deadline_s is None else deadline_s - loop.time()
                if left_s <= 0:
                    return False
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(rung.wait(), min(left_s, LOOK_S))
                rung.clear()
        return True

    @contextlib.contextmanager
    def _listening(self, wake: Callable[[], object]) -> Iterator[None]:
        self._wakers.append(wake)
        try:
            yield
        finally:
            self._wakers.remove(wake)
