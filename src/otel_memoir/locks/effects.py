"""What an operation owes to others, done when the mutex is free again.

Nothing foreign runs under the mutex: waking a task calls its loop, a report calls the SDK,
a hook calls the application; each may take locks, run finalisers, and come back to us.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from otel_memoir.diagnostics import complaints

if TYPE_CHECKING:
    from otel_memoir.locks.engine import Engine
    from otel_memoir.locks.report import Verdict
    from otel_memoir.locks.request import Wait
    from otel_memoir.locks.table import Entry


class Effects:
    """Collected under the mutex, run after it."""

    __slots__ = ("blocked", "calls", "dirty", "verdicts", "wakes")

    def __init__(self) -> None:
        self.dirty: list[Entry] = []
        self.blocked: list[Wait] = []
        self.wakes: list[Wait] = []
        self.verdicts: list[Verdict] = []
        self.calls: list[Callable[[], object]] = []

    def run(self, engine: Engine) -> None:
        """Report, then wake: who is told of a deadlock must not have ended its span before."""
        for verdict in self.verdicts:
            self.guarded(partial(engine.on_verdict, verdict))
        lost = [wait for wait in self.wakes if not wait.parker.wake()]
        for wait in lost:
            engine.release(wait.lease, None)  # its loop is closed: what it was given goes on
        for call in self.calls:
            self.guarded(call)

    @staticmethod
    def guarded(call: Callable[[], object]) -> None:
        """Call the application or the SDK; what it raises is said, not passed on."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - foreign code must not break a hand-off
            complaints.say("lock hook", f"a hook of the lock manager failed: {error!r}")
