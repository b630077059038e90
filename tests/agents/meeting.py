"""Writers that all read before one of them writes, unless a lock keeps them apart."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable

from otel_memoir.locks import LockManager

PATIENCE_S = 60.0


class Meeting:
    """Where writers wait for each other between reading and writing.

    One has come when it has read, or when it waits for a lock: so nobody waits for somebody
    whom a lock keeps away, and the same writers run with locks and without.

    Args:
        count: How many writers there are.
    """

    def __init__(self, count: int, locks: LockManager) -> None:
        self._count, self._come = count, 0
        self._changed = threading.Condition()
        locks.on_block(lambda unit, holders: self._one_more())

    def _one_more(self) -> None:
        with self._changed:
            self._come += 1
            self._changed.notify_all()

    def think(self) -> None:
        """Be one who has read; wait for the others."""
        self._one_more()
        with self._changed:
            assert self._changed.wait_for(lambda: self._come >= self._count, PATIENCE_S)

    async def think_async(self) -> None:
        """The same in a task."""
        await asyncio.to_thread(self.think)


def in_threads(count: int, write: Callable[[int], object]) -> None:
    """Let writers write, each in a thread."""
    errors: list[BaseException] = []

    def run(number: int) -> None:
        try:
            write(number)
        except BaseException as error:
            errors.append(error)

    threads = [
        threading.Thread(target=run, args=(number,), name=f"writer-{number}")
        for number in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert not errors and not any(thread.is_alive() for thread in threads), errors


async def in_tasks(count: int, write: Callable[[int], Awaitable[object]]) -> None:
    """Let writers write, each in a task."""
    await asyncio.wait_for(asyncio.gather(*map(write, range(count))), PATIENCE_S)
