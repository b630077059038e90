"""Observing one pipeline: from its parts to ``Signs``."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.delivery.tally import Trouble
from otel_memoir.observe.health import Signs
from otel_memoir.settings import Settings
from otel_memoir.spool import Hold, SpoolStatus, State
from otel_memoir.spool.vitals import Vitals

_RATE_S = 60.0
_SAMPLE_S = 1.0


class Observable(Protocol):
    """A pipeline that has begun, as far as health looks at it."""

    def status(self) -> SpoolStatus:
        """The numbers of promise 2."""
        ...

    def outcomes(self) -> dict[State, int]:
        """Records by final outcome, since the process began."""
        ...

    def vitals(self) -> Vitals:
        """How the way to disk is."""
        ...

    def recent_gaps(self, window_s: float) -> dict[str, int]:
        """Records lost in the last seconds, by cause."""
        ...

    def broken_files(self) -> tuple[str, ...]:
        """Names of files that were moved aside and not salvaged yet."""
        ...

    def trouble(self) -> tuple[Trouble | None, float, Hold | None]:
        """Attempts that fail, when the next one is due, and the hold."""
        ...


class SignReader:
    """Observes a pipeline again and again. One thread at a time.

    Args:
        observed: The pipeline.

        settings: The settings.

        clock: Its clock; one that has no ``snapshot`` is not judged.

        lock_wait_s: The longest that anybody waits for a lock.

        wall_ns: The wall clock.

        monotonic_s: The clock for durations.
    """

    def __init__(
        self,
        observed: Observable,
        settings: Settings,
        *,
        clock: Any,
        lock_wait_s: Callable[[], float],
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._observed = observed
        self._settings = settings
        self._clock = clock
        self._lock_wait_s = lock_wait_s
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._late = _Growth(settings.health_window_s)
        self._left = _Growth(settings.health_window_s)
        self._rates = _Rates()
        self._clock_right_s = monotonic_s()

    def read(self) -> Signs:
        """Look at everything. Reads the spool file, and writes nothing."""
        observed, now_s = self._observed, self._monotonic_s()
        status, vitals = observed.status(), observed.vitals()
        trouble, next_try_s, hold = observed.trouble()
        delivered = observed.outcomes().get(State.DELIVERED, 0)
        accepted_per_s, delivered_per_s = self._rates.note(now_s, status, delivered)
        return Signs(
            taken_unix_ns=self._wall_ns(), monotonic_s=now_s, pending=status.totals.pending,
            oldest_pending_age_s=status.oldest_pending_age_s,
            accepted_per_s=accepted_per_s, delivered_per_s=delivered_per_s,
            waiting_bytes=vitals.waiting_bytes, waiting_bytes_max=vitals.waiting_bytes_max,
            is_on_disk=vitals.is_on_disk, problem=status.problem,
            disk_free_bytes=vitals.disk_free_bytes,
            broken_files=observed.broken_files(), commit_s=vitals.commit_s,
            new_files_left=self._left.new(now_s, vitals.files_left),
            new_late=self._late.new(now_s, vitals.late), hold=hold or status.hold,
            quarantined=status.totals.quarantined,
            new_gaps=observed.recent_gaps(self._settings.health_window_s),
            lock_oldest_wait_s=self._lock_wait_s(),
            **_of_trouble(trouble, next_try_s, now_s), **self._of_clock(now_s),
        )

    def _of_clock(self, now_s: float) -> dict[str, Any]:
        look = getattr(self._clock, "snapshot", None)
        if look is None:
            return {}
        snapshot: ClockSnapshot = look()
        if not snapshot.status:
            self._clock_right_s = now_s
        bound_ns = snapshot.bound_ns
        return {
            "clock_status": snapshot.status, "clock_wrong_for_s": now_s - self._clock_right_s,
            "clock_bound_s": None if bound_ns is None else bound_ns / 1e9,
            "falsetickers": tuple(s.name for s in snapshot.sources if s.vote == "falseticker"),
        }


def _of_trouble(trouble: Trouble | None, next_try_s: float, now_s: float) -> dict[str, Any]:
    if trouble is None:
        return {}
    return {
        "attempts": trouble.attempts, "failing_for_s": now_s - trouble.since_s,
        "answer": (trouble.code, trouble.message, trouble.hint), "next_try_s": next_try_s,
    }


class _Growth:
    """How much a counter that began at 0 grew in the last seconds."""

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._before = 0
        self._steps: deque[tuple[float, int]] = deque()

    def new(self, now_s: float, count: int) -> int:
        if count > self._before:
            self._steps.append((now_s, count - self._before))
            self._before = count
        while self._steps and now_s - self._steps[0][0] > self._window_s:
            self._steps.popleft()
        return sum(step for _, step in self._steps)


class _Sample(NamedTuple):
    at_s: float
    file: str
    accepted: int
    delivered: int


class _Rates:
    """Records accepted and delivered a second, over the last minute."""

    def __init__(self) -> None:
        self._samples: deque[_Sample] = deque()

    def note(self, now_s: float, status: SpoolStatus, delivered: int) -> tuple[float, float]:
        new = _Sample(now_s, status.name, status.totals.accepted, delivered)
        samples = self._samples
        if samples and samples[-1].file != new.file:
            samples.clear()  # another file counts anew
        while samples and now_s - samples[0].at_s > _RATE_S:
            samples.popleft()
        old = samples[0] if samples else new
        if not samples or now_s - samples[-1].at_s >= _SAMPLE_S:
            samples.append(new)
        took_s = new.at_s - old.at_s
        if took_s <= 0:
            return 0.0, 0.0
        return (new.accepted - old.accepted) / took_s, (new.delivered - old.delivered) / took_s
