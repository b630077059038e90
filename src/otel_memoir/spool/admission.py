"""Who gets in: the reasons for which a record is refused at the door, counted and said."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError
from otel_memoir.settings import Settings
from otel_memoir.spool.chores import Chores, LateError
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.home import Home
from otel_memoir.spool.model import (
    BROKEN,
    BUSY,
    DISK_FULL,
    FULL,
    TOO_LARGE,
    Draft,
    Refused,
)

WARN = 13
"""OpenTelemetry's severity number of WARN: from here on a record may use the last fifth."""

_STAMP_BYTES = 200


class Admission:
    """Decides on each record before it gets a number.

    Args:
        home: Whose room.

        chores: How an eviction gets into a commit.

        settings: The settings.

        end_of_closed: As ``Spool.end_of_closed``: what may still gain rows is never evicted.
    """

    def __init__(
        self, home: Home, chores: Chores, settings: Settings, *, end_of_closed: Callable[[], int]
    ) -> None:
        self._home = home
        self._chores = chores
        self._settings = settings
        self._end_of_closed = end_of_closed
        self.unwritten: Counter[str] = Counter()
        self.has_evicted = False
        self._is_crowded = False

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def reason_to_refuse(self, draft: Draft, *, queued: int, on_loop: bool) -> Refused | None:
        """Why a record cannot be accepted, if so; it may evict others to make room.

        Args:
            draft: The record.

            queued: Payload bytes that wait in memory for their commit.

            on_loop: Whether this thread runs an event loop, and so must not wait.
        """
        upkeep, settings = self._home.upkeep, self._settings
        if upkeep is None:
            return DISK_FULL if self._home.disk_is_full else BROKEN
        size, urgent = len(draft.payload) + _STAMP_BYTES, draft.severity >= WARN
        if size > settings.record_bytes_max:
            return TOO_LARGE
        if on_loop and queued + size > 2 * settings.memory_bytes_max:
            return BUSY
        if upkeep.disk_is_low:
            return DISK_FULL
        if upkeep.has_room(queued + size, urgent=urgent):
            return None
        if settings.when_full == "evict" and self._makes_room(size, queued, urgent, on_loop):
            return None
        return FULL

    def refuse(self, reason: Refused) -> Refused:
        """Count a refusal, in the next commit if there will be one."""
        if self._home.committer is not None:
            self._home.committer.count_refused(reason)
        else:
            self.unwritten[reason] += 1
        complaints.say(
            f"refused {reason}",
            f"a record was refused ({reason}); it is counted and becomes a gap. "
            "`otel-memoir status` shows how many.",
        )
        return reason

    def write_refused(self) -> None:
        """Have what was refused before there was a file counted in it."""
        committer = self._home.committer
        while committer is not None and self.unwritten:
            reason, records = self.unwritten.popitem()
            committer.refused[Refused(reason)] += records

    def _makes_room(self, size: int, queued: int, urgent: bool, on_loop: bool) -> bool:
        upkeep = self._home.upkeep
        if upkeep is None or not upkeep.can_ever_fit(size, urgent=urgent):
            return False
        if on_loop and self._settings.on_event_loop == "handover":
            # To evict is to commit, which would block the loop: the writer will.
            self._is_crowded = True
            return True
        return self._evict(size, queued=queued, urgent=urgent)

    def make_room(self) -> None:
        """Evict for what event loops handed over without room. The writer calls it."""
        if self._is_crowded:
            self._is_crowded = False
            self._evict(0, queued=0, urgent=False)

    def _evict(self, size: int, *, queued: int, urgent: bool) -> bool:
        """Evict the oldest batches until there is room; return whether there is."""
        upkeep = self._home.upkeep
        assert upkeep is not None
        evicted: list[int] = []

        def oldest(file: SpoolFile) -> bool:
            take_back()  # of a run whose commit failed, nothing happened
            while not upkeep.has_room(queued + size, urgent=urgent):
                if not (freed := upkeep.evict_oldest(file, self._end_of_closed())):
                    return False
                evicted.append(freed)
            return True

        def take_back() -> None:
            upkeep.settled(-sum(evicted), delivered=False)
            evicted.clear()

        has_room = False
        try:
            has_room = self._chores.perform(oldest)
        except LateError:
            pass  # whoever has begun with it ends it
        except (MemoirError, sqlite3.Error):
            take_back()
        self.has_evicted |= bool(evicted)
        return has_room
