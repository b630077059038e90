"""The seam for clocks, and the plainest clock behind it."""

from __future__ import annotations

import time
from typing import Protocol

Reading = tuple[int, "int | None"]
"""One look at a clock: nanoseconds since 1970-01-01 UTC, and how far true time can be from
it in nanoseconds (``None`` where nobody knows). A plain pair, because each emit takes one
under the append lock: to make and to unpack one with names took 260 ns of 1,100.
"""


class Clock(Protocol):
    """Tells the time. It is read under the append lock: quick, and calling nothing foreign.

    Attributes:
        status: One word for what is not normal; empty when all is.

        epoch: One more each time that the clock had to jump back.
    """

    status: str
    epoch: int

    def read(self) -> Reading:
        """Look at the clock."""
        ...


class SystemClock:
    """The system's clock as it is, without a bound."""

    status = ""
    epoch = 0

    def read(self) -> Reading:
        """Look at the system's clock."""
        return time.time_ns(), None
