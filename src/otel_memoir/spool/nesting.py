"""Emits that interrupt an emit on its own thread.

A signal handler, a finaliser or an SDK warning can log while its own thread holds our
locks; waiting for them would hang. What it emits is kept and handled when the thread
has left them, before the interrupted call returns.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

D = TypeVar("D")

_ROUNDS_MAX = 8
"""After so many rounds the rest is left to the writer thread."""


class Nesting(Generic[D]):
    """Which threads are inside, and what interrupted them.

    Sets, dicts and deques change in one step under the interpreter's lock, so that
    nothing here needs a lock that an interruption could find taken.

    Args:
        handle: Takes what was kept, outside of all locks. All of it at once: a timer that
            logs every 10 ms would else come sooner than its records can be stored one
            by one, and its thread would never get out.

        remind: Called if something was left over, to have it handled by another thread.
    """

    def __init__(self, handle: Callable[[Sequence[D]], object], remind: Callable[[], None]) -> None:
        self.busy: set[int] = set()
        self._kept: dict[int, deque[D]] = {}
        self._handle = handle
        self._remind = remind

    def keep(self, thread: int, item: D) -> None:
        """Keep what interrupted a busy thread, until it leaves."""
        self._kept.setdefault(thread, deque()).append(item)

    def leave(self, thread: int) -> None:
        """Handle what interrupted a thread, and let it be interrupted again."""
        if thread in self._kept:
            self._drain(thread)
        self.busy.discard(thread)
        if thread in self._kept:
            self._remind()

    def drain_left_over(self) -> None:
        """Handle what threads kept that are no longer inside.

        What a busy thread kept is its own to handle: its emit returns only after that.
        """
        me = threading.get_ident()
        for thread in list(self._kept):
            if thread == me or thread not in self.busy:
                self._drain(thread)

    def _drain(self, thread: int) -> None:
        kept = self._kept.get(thread, deque())
        for _ in range(_ROUNDS_MAX):
            items = [kept.popleft() for _ in range(len(kept))]
            if not items:
                break
            self._handle(items)
        self._kept.pop(thread, None)
        if kept:
            # Something interrupted between the last look and the removal.
            self._kept.setdefault(thread, deque()).extend(kept)

    @contextlib.contextmanager
    def uninterrupted(self) -> Iterator[None]:
        """Keep emits that interrupt this block on its own thread until it ends."""
        me = threading.get_ident()
        if me in self.busy:
            yield
            return
        try:
            self.busy.add(me)
            yield
        finally:
            try:
                self.leave(me)
            finally:
                self.busy.discard(me)
