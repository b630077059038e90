"""What became of many receipts at once: one look into the files answers all who wait.

A look costs a few milliseconds, mostly for opening files. A thousand tasks that each
looked by themselves took seconds of processor time for each delivery (measured), so the
tasks of a loop share one look: the first leads, and hands on when it is done. After a look
there is a pause of at least nine times as long, so that waiting takes a tenth of a core at
the most.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar
from weakref import WeakKeyDictionary

R = TypeVar("R")

LOOK_S = 0.05
_REST = 9.0

AreSettled = Callable[[Sequence[R]], Sequence[bool]]


class Watch(Generic[R]):
    """Those who wait for receipts to be settled.

    Args:
        are_settled: Tells of receipts which of them are settled; reads files.
    """

    def __init__(self, are_settled: AreSettled[R]) -> None:
        self._are_settled = are_settled
        self._circles: WeakKeyDictionary[asyncio.AbstractEventLoop, _Circle[R]] = (
            WeakKeyDictionary()
        )

    def wait(self, receipt: R, timeout: float) -> None:
        """Wait in this thread until a receipt is settled, for at most ``timeout`` seconds."""
        never = threading.Event()
        deadline_s = time.monotonic() + timeout
        while True:
            began_s = time.monotonic()
            if self._are_settled((receipt,))[0]:
                return
            now_s = time.monotonic()
            if now_s >= deadline_s:
                return
            never.wait(min(deadline_s - now_s, _pause_s(now_s - began_s)))

    async def wait_async(self, receipt: R, timeout: float | None) -> None:
        """As ``wait``, for tasks; ``None``: as long as it takes."""
        loop = asyncio.get_running_loop()
        circle = self._circles.setdefault(loop, _Circle(self._are_settled))
        await circle.wait(receipt, None if timeout is None else loop.time() + timeout)


class _Circle(Generic[R]):
    """The tasks of one loop. An event that is set tells its task: settled, or lead now."""

    def __init__(self, are_settled: AreSettled[R]) -> None:
        self._are_settled = are_settled
        self._waiting: dict[asyncio.Event, R] = {}
        self._is_led = False

    async def wait(self, receipt: R, deadline_s: float | None) -> None:
        mine = asyncio.Event()
        self._waiting[mine] = receipt
        try:
            while mine in self._waiting:
                if self._is_led:
                    if not await _rung(mine, deadline_s):
                        return
                elif await self._lead(mine, deadline_s):
                    return
        finally:
            self._waiting.pop(mine, None)
            if not self._is_led and self._waiting:
                next(iter(self._waiting)).set()

    async def _lead(self, mine: asyncio.Event, deadline_s: float | None) -> bool:
        """Look once for all, and rest; return whether the time of this task is up."""
        loop, self._is_led = asyncio.get_running_loop(), True
        mine.clear()
        try:
            began_s, asked = loop.time(), dict(self._waiting)
            answers = await asyncio.to_thread(self._are_settled, list(asked.values()))
            for event, is_settled in zip(asked, answers, strict=True):
                if is_settled and self._waiting.pop(event, None) is not None:
                    event.set()
            if mine not in self._waiting:
                return False
            if deadline_s is not None and loop.time() >= deadline_s:
                return True
            end_s = loop.time() + _pause_s(loop.time() - began_s)
            await _rung(mine, end_s if deadline_s is None else min(end_s, deadline_s))
            return False
        finally:
            self._is_led = False


async def _rung(event: asyncio.Event, deadline_s: float | None) -> bool:
    """Wait for an event; return whether it came before a time of the loop."""
    loop = asyncio.get_running_loop()
    timer = None if deadline_s is None else loop.call_at(deadline_s, event.set)
    try:
        await event.wait()
    finally:
        if timer is not None:
            timer.cancel()
    return deadline_s is None or loop.time() < deadline_s


def _pause_s(look_s: float) -> float:
    return max(LOOK_S, _REST * look_s)
