"""A pipeline that has begun, as health looks at it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

from otel_memoir.delivery import Courier
from otel_memoir.delivery.tally import Trouble
from otel_memoir.spool import Hold, Spool, SpoolStatus, State, ledger
from otel_memoir.spool.connection import StorageError
from otel_memoir.spool.directory import broken_files
from otel_memoir.spool.vitals import Vitals


class ObservedPipeline:
    """What ``observe.health_signs`` asks of a pipeline.

    Args:
        spool: Its spool.

        courier: Its courier.

        status: Its status.
    """

    def __init__(
        self, spool: Spool, courier: Courier, status: Callable[[], SpoolStatus]
    ) -> None:
        self._spool = spool
        self._courier = courier
        self.status = status

    def outcomes(self) -> dict[State, int]:
        """Records by final outcome, since the process began."""
        return self._courier.tally.outcomes()

    def vitals(self) -> Vitals:
        """How the way to disk is."""
        return self._spool.vitals()

    def recent_gaps(self, window_s: float) -> dict[str, int]:
        """Records lost in the last seconds, by cause; those that no file knows of included."""
        found = {f"refused:{reason}": n for reason, n in self._spool.refused_unwritten.items()}
        with self._spool.reading:
            file = self._spool.file
            if file is not None:
                since_ns = time.time_ns() - round(window_s * 1e9)
                with contextlib.suppress(StorageError):  # the status says that it is unreadable
                    connection = file.reader if file.lock is not None else file.connection
                    found = {**ledger.recent_gaps(connection, since_ns), **found}
        return found

    def broken_files(self) -> tuple[str, ...]:
        """Names of files that were moved aside and not salvaged yet."""
        found = broken_files(self._spool.directory, salvaged=False)
        return tuple(path.name for path in found)

    def trouble(self) -> tuple[Trouble | None, float, Hold | None]:
        """Attempts that fail, when the next one is due, and the hold."""
        courier = self._courier
        return courier.tally.trouble, courier.next_try_s, courier.hold
