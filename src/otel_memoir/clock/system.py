"""The seam for clocks, and the plainest clock behind it."""

from __future__ import annotations

import time
from typing import NamedTuple, Protocol


class Reading(NamedTuple):
    """One look at a clock.

    Attributes:
        unix_ns: Nanoseconds since 1970-01-01 UTC.

        error_bound_ns: How far true time can be from it; ``None`` where nobody knows.
    """

    unix_ns: int
    error_bound_ns: int | None = None


class Clock(Protocol):
    """Tells the time. It is read under the append lock: quick, and calling nothing foreign."""

    def read(self) -> Reading:
        """Look at the clock."""
        ...


class SystemClock:
    """The system's clock as it is, without a bound."""

    def read(self) -> Reading:
        """Look at the system's clock."""
        return Reading(time.time_ns())
