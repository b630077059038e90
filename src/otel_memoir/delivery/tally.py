"""What the courier did since it began, for self-metrics."""

from __future__ import annotations

import threading
from collections import Counter

from otel_memoir.delivery.outcome import Outcome
from otel_memoir.spool import State


class DeliveryTally:
    """Counts of this process's courier. ``_lock`` guards the counters."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._outcomes: Counter[State] = Counter()
        self._attempts: Counter[str] = Counter()
        self._seconds = 0.0

    def attempted(self, outcome: Outcome, seconds: float) -> None:
        """Count one request and its answer."""
        with self._lock:
            self._attempts[outcome.code] += 1
            self._seconds += seconds

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
