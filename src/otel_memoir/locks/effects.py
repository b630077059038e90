"""What an operation owes to others, done when the mutex is free again.

Nothing foreign runs under the mutex: waking a task calls its loop, a report calls the SDK,
a hook calls the application; each may take locks, run finalisers, and come back to us.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from otel_memoir.diagnostics import complaints
from otel_memoir.locks.parts import Entry, Unit, Wait
from otel_memoir.locks.report import Verdict


class Effects:
    """Collected under the mutex, run after it.

    Attributes:
        dirty: Keys whose queues have to be served, still under the mutex.

        blocked: Waits that began, or came to their next key, and have to be judged there.

        unsure: Units that may have come into a circle though they began no wait.
    """

    __slots__ = ("blocked", "calls", "dirty", "unsure", "verdicts", "wakes")

    def __init__(self) -> None:
        self.dirty: list[Entry] = []
        self.blocked: list[Wait] = []
        self.unsure: list[Unit] = []
        self.wakes: list[Wait] = []
        self.verdicts: list[Verdict] = []
        self.calls: list[Callable[[], object]] = []

    def run(
        self, tell: Callable[[Verdict], object], hand_on: Callable[[Wait], object]
    ) -> None:
        """Report, then wake: who is told of a deadlock must not have ended its span before.

        Args:
            tell: What is called with each deadlock.

            hand_on: What is called with each wait that nobody is left to end.
        """
        for verdict in self.verdicts:
            guarded(partial(tell, verdict))
        lost = [wait for wait in self.wakes if not wait.parker.wake()]
        for wait in lost:
            hand_on(wait)
        for call in self.calls:
            guarded(call)


def guarded(call: Callable[[], object]) -> None:
    """Call the application or the SDK; what it raises is said, not passed on."""
    try:
        call()
    except Exception as error:  # noqa: BLE001 - foreign code must not break a hand-off
        complaints.say("lock hook", f"a hook of the lock manager failed: {error!r}")
