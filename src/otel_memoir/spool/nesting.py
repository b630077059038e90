"""Emits that interrupt an emit on its own thread.

A signal handler, a finaliser or an SDK warning can log while its own thread holds our
locks; waiting for them would hang. What it emits is kept and handled when the thread
has left them, before the interrupted call returns.

What a thread kept, only that thread takes. What an exception from outside left
behind goes to one queue with one taker at a time: a second one would lose what is
kept while it takes (one record in 1,700 signals, seen).
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

D = TypeVar("D")

_ROUNDS_MAX = 8
"""After so many rounds the rest is left to the writer thread."""

_PATIENCE_S = 1.0


class Nesting(Generic[D]):
    """Which threads are inside, and what interrupted them.

    Sets, dicts and deques change in one step under the interpreter's lock, so that
    nothing here needs a lock that an interruption could find taken.

    Args:
        handle: Takes what was kept, outside of all locks, and removes each item that it has
            answered for. All of it at once: a timer that logs every 10 ms would else
            come sooner than its records can be stored one by one, and its thread would
            never get out.

        remind: Called if something was left over, to have it handled by another thread.
    """

    def __init__(self, handle: Callable[[deque[D]], object], remind: Callable[[], None]) -> None:
        self.busy: set[int] = set()
        self._kept: dict[int, deque[D]] = {}
        self._left_over: deque[D] = deque()
        self._taking = threading.Lock()
        self._handle = handle
        self._remind = remind

    def keep(self, thread: int, item: D) -> None:
        """Keep what interrupted a busy thread, until it leaves. Only that thread calls it."""
        self._kept.setdefault(thread, deque()).append(item)

    def leave(self, thread: int) -> None:
        """Handle what interrupted a thread, and let it be interrupted again."""
        try:
            for _ in range(_ROUNDS_MAX):
                if thread in self._kept:
                    self._drain(thread)
                self.busy.discard(thread)
                # From here on an interruption emits by itself, so nothing more is kept.
                if not self._kept.get(thread):
                    return
                self.busy.add(thread)
        finally:
            self.busy.discard(thread)
            self._leave_over(self._kept.pop(thread, None))

    def _drain(self, thread: int) -> None:
        items: deque[D] = deque()
        try:
            # One step with no call in it: an exception from outside strikes before or after.
            items, self._kept[thread] = self._kept[thread], items
            self._handle(items)
        finally:
            self._leave_over(items)

    def _leave_over(self, items: deque[D] | None) -> None:
        if items:
            self._left_over.extend(items)
            self._remind()

    def drain_left_over(self) -> None:
        """Handle what no emit will handle any more. For the writer, and for who ends the spool."""
        if self._left_over and self._taking.acquire(timeout=_PATIENCE_S):
            try:
                while self._left_over:
                    self._handle(self._left_over)
            finally:
                self._taking.release()

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
