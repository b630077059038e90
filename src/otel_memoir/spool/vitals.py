"""How the way to disk is just now: numbers in memory, for whoever judges of health."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from otel_memoir.spool.home import Home

_KEPT = 64
_OLD_S = 60.0


class Vitals(NamedTuple):
    """A spool at one moment.

    Attributes:
        waiting_bytes: Payload bytes that wait.

        waiting_bytes_max: How many may wait.

        disk_free_bytes: Free bytes of the disk, as of the last second; ``None`` in memory.

        is_on_disk: Whether records go to a file.

        files_left: Files that this process left because they could not be trusted.

        commit_s: How long commits take that are fsynced, in seconds.

        late: Emits that the disk did not answer in ``emit_timeout_s``.
    """

    waiting_bytes: int = 0
    waiting_bytes_max: int = 0
    disk_free_bytes: int | None = None
    is_on_disk: bool = True
    files_left: int = 0
    commit_s: float = 0.0
    late: int = 0


class CommitTimes:
    """How long the last commits took. One thread writes at a time; any reads."""

    def __init__(self) -> None:
        self._last: deque[tuple[float, float]] = deque(maxlen=_KEPT)
        self._began_s: float | None = None

    def begins(self, now_s: float) -> None:
        """A commit begins."""
        self._began_s = now_s

    def ends(self, now_s: float, *, counts: bool) -> None:
        """It ended; it counts if it wrote something and fsynced it."""
        began_s, self._began_s = self._began_s, None
        if counts and began_s is not None:
            self._last.append((now_s, now_s - began_s))

    def seconds(self, now_s: float) -> float:
        """What three of four commits of the last minute stayed under, or one takes that hangs."""
        lasted = sorted(s for at_s, s in self._last.copy() if now_s - at_s <= _OLD_S)
        usual_s = lasted[len(lasted) * 3 // 4] if lasted else 0.0
        began_s = self._began_s
        return usual_s if began_s is None else max(usual_s, now_s - began_s)


def vitals_of(home: Home, times: CommitTimes, *, late: int, now_s: float) -> Vitals:
    """Look at a spool. Reads no file and takes no lock."""
    upkeep = home.upkeep
    if upkeep is None:
        return Vitals(files_left=home.files_left, commit_s=times.seconds(now_s), late=late)
    return Vitals(
        waiting_bytes=upkeep.waiting_bytes, waiting_bytes_max=upkeep.waiting_bytes_max,
        disk_free_bytes=upkeep.disk_free_bytes, is_on_disk=home.is_on_disk,
        files_left=home.files_left, commit_s=times.seconds(now_s), late=late,
    )
