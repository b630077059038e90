"""What the courier did since it began, for self-metrics."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.spool import State


class Trouble(NamedTuple):
    """Attempts that failed, one after the other.

    Attributes:
        since_s: When the first one did, in monotonic seconds.

        attempts: How many.

        code: The last answer.

        message: What it said.

        hint: What a person can do about it.
    """

    since_s: float
    attempts: int
    code: str
    message: str
    hint: str


class DeliveryTally:
    """Counts of this process's courier. ``_lock`` guards the counters.

    Args:
        monotonic_s: The clock for durations.
    """

    def __init__(self, monotonic_s: Callable[[], float] = time.monotonic) -> None:
        self._monotonic_s = monotonic_s
        self.trouble: Trouble | None = None
        self._lock = threading.Lock()
        self._outcomes: Counter[State] = Counter()
        self._attempts: Counter[str] = Counter()
        self._seconds = 0.0

    def attempted(self, outcome: Outcome, seconds: float) -> None:
        """Count one request and its answer."""
        with self._lock:
            self._attempts[outcome.code] += 1
            self._seconds += seconds
            self.trouble = self._troubled(outcome)

    def _troubled(self, outcome: Outcome) -> Trouble | None:
        if outcome.verdict is Verdict.DELIVERED:
            return None
        before = self.trouble
        since_s = before.since_s if before else self._monotonic_s()
        attempts = before.attempts + 1 if before else 1
        return Trouble(since_s, attempts, outcome.code, outcome.message, outcome.hint)

    def settled(self, state: State, records: int) -> None:
        """Count records whose final outcome is known."""
        with self._lock:
            self._outcomes[state] += records

    def outcomes(self) -> dict[State, int]:
        """Records by final outcome."""
        with self._lock:
            return dict(self._outcomes)

    def lost(self) -> bool:
        """Whether any record had another outcome than delivered."""
        return any(state is not State.DELIVERED for state in self.outcomes())

    def attempts(self) -> dict[str, int]:
        """Requests by answer."""
        with self._lock:
            return dict(self._attempts)
