"""An application that gunicorn loads before it forks; each request begins a wait for a lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

from lock_programs.waiting import Waits
from otel_memoir.locks import LockManager

locks = LockManager()
done = threading.Event()


def application(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    """Have two threads want one lock; answer with the pid."""
    waits = Waits(locks, 1)
    for _ in range(2):
        threading.Thread(target=_hold, daemon=True).start()
    waits.wait()
    start("200 OK", [("Content-Type", "text/plain")])
    return [str(os.getpid()).encode()]


def _hold() -> None:
    with locks.hold("profiles/u1"):
        done.wait()
