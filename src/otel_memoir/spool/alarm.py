"""A wake-up that never blocks the one who rings it."""

from __future__ import annotations

import contextlib
import threading


class Alarm:
    """Wake one waiting thread; ringing twice before it wakes counts once.

    ``threading.Event.set`` takes a lock, so a signal handler that interrupts it
    on the same thread hangs, and blockbuster refuses it on an event loop.
    Releasing a bare lock does neither.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def ring(self) -> None:
        """Wake the waiter, now or at its next ``wait``; safe in a signal handler."""
        with contextlib.suppress(RuntimeError):
            self._lock.release()

    def wait(self, timeout: float) -> bool:
        """Wait until rung, at most ``timeout`` seconds; return whether it was rung."""
        return self._lock.acquire(timeout=max(0.0, timeout))
