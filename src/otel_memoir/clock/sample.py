"""What a time source says: the value that crosses between sources and their judges."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

RULER = getattr(time, "CLOCK_MONOTONIC_RAW", time.CLOCK_MONOTONIC)
"""What intervals are measured with. chronyd slews CLOCK_MONOTONIC by up to 83,333 ppm along
with the wall clock (``maxslewrate`` in chrony.conf); only the raw clock is free of it.
"""


def ruler_ns() -> int:
    """The ruler's reading, in nanoseconds since an arbitrary start."""
    return time.clock_gettime_ns(RULER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One answer of one source: what time it was when the ruler read ``ruler_ns``.

    Independent of the wall clock, which may have been set between two samples.

    Attributes:
        source: The source's name.

        ruler_ns: The ruler's reading to which the time belongs.

        unix_ns: The source's time then, in nanoseconds since 1970-01-01 UTC.

        distance_ns: Root distance (RFC 5905, appendix A.5.5.2): true time lies within
            this many nanoseconds of ``unix_ns`` unless the source lies.

        delay_ns: The part of it that is the round trip to the source.

        stratum: Hops from a reference clock, where the source says so.

        authenticated: Whether the answer was signed with a key that both know.
    """

    source: str
    ruler_ns: int
    unix_ns: int
    distance_ns: int
    delay_ns: int = 0
    stratum: int | None = None
    authenticated: bool = False


class Source(Protocol):
    """Somebody to ask for the time."""

    @property
    def name(self) -> str:
        """How people and metrics call it; the same for its whole life."""
        ...

    def poll(self, timeout: float) -> Sample:
        """Ask once. Never on a thread that emits.

        Args:
            timeout: Longest wait, in seconds.

        Raises:
            ClockError: There is no answer, or none that can be used.
        """
        ...
