"""The verdict on otel-memoir's own health, and what it is drawn from: frozen values.

``judge`` is pure: the same signs, settings and verdict before give the same verdict. What
each cause means, and what to do about it, stands in ``health_causes``.

It does not flap. A number that is over its threshold has to fall a fifth below it, and a
cause has to be gone for ``health_recover_s``, before health is better; worse it is at once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from otel_memoir.spool import Hold

HealthState = Literal["ok", "degraded", "failing"]

RANK: Mapping[HealthState, int] = {"ok": 0, "degraded": 1, "failing": 2}
"""How bad a state is; also its number in the metric ``memoir.health.state``."""


@dataclass(frozen=True, kw_only=True)
class Signs:
    """What was observed of one pipeline at one moment.

    ``new_…`` is what came in the last ``health_window_s``.

    Attributes:
        taken_unix_ns: When, by the wall clock.

        monotonic_s: When, by the clock for durations.

        pending: Records that wait.

        oldest_pending_age_s: How long the oldest of them has waited.

        accepted_per_s: Records accepted a second, over the last minute.

        delivered_per_s: Records delivered a second, over the last minute.

        waiting_bytes: Payload bytes that wait.

        waiting_bytes_max: How many may.

        is_on_disk: Whether records go to a file.

        problem: Why the file cannot be read, if so.

        disk_free_bytes: Free bytes of its disk; ``None`` where nobody knows.

        broken_files: Names of files that were moved aside and not salvaged yet.

        new_files_left: Files that were left because they could not be trusted.

        commit_s: How long fsynced commits take, in seconds.

        new_late: Emits that the disk did not answer in time.

        attempts: Attempts that failed since the last one that did not.

        failing_for_s: For how long they have failed.

        answer: The last answer to them: code, message, and what can be done.

        next_try_s: When the destination is tried next, in seconds from then.

        hold: Set while delivery is on hold.

        quarantined: Records in quarantine.

        new_gaps: Records lost, by cause.

        clock_status: One word for what is not normal of the clock; empty when all is, or
            where nobody calibrates.

        clock_wrong_for_s: For how long.

        clock_bound_s: How far true time can be from the clock, if that is known.

        falsetickers: Names of time sources that were outvoted.

        lock_oldest_wait_s: The longest that anybody waits for a lock.
    """

    taken_unix_ns: int = 0
    monotonic_s: float = 0.0
    pending: int = 0
    oldest_pending_age_s: float = 0.0
    accepted_per_s: float = 0.0
    delivered_per_s: float = 0.0
    waiting_bytes: int = 0
    waiting_bytes_max: int = 0
    is_on_disk: bool = True
    problem: str = ""
    disk_free_bytes: int | None = None
    broken_files: tuple[str, ...] = ()
    new_files_left: int = 0
    commit_s: float = 0.0
    new_late: int = 0
    attempts: int = 0
    failing_for_s: float = 0.0
    answer: tuple[str, str, str] = ("", "", "")
    next_try_s: float = 0.0
    hold: Hold | None = None
    quarantined: int = 0
    new_gaps: Mapping[str, int] = field(default_factory=dict)
    clock_status: str = ""
    clock_wrong_for_s: float = 0.0
    clock_bound_s: float | None = None
    falsetickers: tuple[str, ...] = ()
    lock_oldest_wait_s: float = 0.0

    @property
    def drain_eta_s(self) -> float | None:
        """When nothing will wait any more, in seconds; ``None`` if it comes faster than it goes."""
        if not self.pending:
            return 0.0
        gain = self.delivered_per_s - self.accepted_per_s
        return self.pending / gain if gain > 0 else None

    @property
    def fill_ratio(self) -> float:
        """How full the spool is, from 0 to 1."""
        return self.waiting_bytes / self.waiting_bytes_max if self.waiting_bytes_max else 0.0


@dataclass(frozen=True, kw_only=True)
class Cause:
    """One reason why health is not ok.

    Attributes:
        id: Its name in ``docs/operations.md``.

        component: What it is about.

        state: How bad it is.

        message: What is the matter, with its numbers.

        hint: What a person can do about it.

        since_unix_ns: Since when.

        value: The number that was judged.

        threshold: What it was judged by.

        seen_s: When it was last found like this, in monotonic seconds.
    """

    id: str
    component: str
    state: HealthState
    message: str
    hint: str
    since_unix_ns: int
    value: float
    threshold: float
    seen_s: float = field(default=0.0, compare=False, repr=False)


@dataclass(frozen=True, kw_only=True)
class Health:
    """One verdict.

    Attributes:
        state: The worst state of any cause; ``ok`` without one.

        causes: The worst first.

        signs: What it was drawn from.
    """

    state: HealthState = "ok"
    causes: tuple[Cause, ...] = ()
    signs: Signs = field(default_factory=Signs, compare=False, repr=False)

    def of(self, component: str) -> HealthState:
        """The state of one component."""
        return _worst([cause.state for cause in self.causes if cause.component == component])

    def as_dict(self) -> dict[str, Any]:
        """As JSON would have it; ``drain_eta_s`` is ``null`` where it grows."""
        causes = [dataclasses.asdict(cause) for cause in self.causes]
        for cause in causes:
            del cause["seen_s"]
        signs = dataclasses.asdict(self.signs)
        return {
            "state": self.state, "causes": causes,
            "signs": {**signs, "drain_eta_s": self.signs.drain_eta_s},
        }


def verdict(causes: list[Cause], signs: Signs) -> Health:
    """The verdict of some causes, in the order of how bad they are."""
    ordered = sorted(causes, key=lambda cause: -RANK[cause.state])
    return Health(
        state=_worst([cause.state for cause in ordered]), causes=tuple(ordered), signs=signs
    )


def _worst(states: list[HealthState]) -> HealthState:
    return max(states, key=RANK.__getitem__, default="ok")
