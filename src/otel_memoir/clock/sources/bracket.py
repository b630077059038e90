"""Where the wall clock stands on the ruler, and whether it was set in between.

Kernel stamps, chronyd and ``adjtimex`` all speak of CLOCK_REALTIME; a ``Sample`` is
expressed on the ruler. A bracket is one look at both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

TRIES = 5
SLEW_MAX_PPM = 100_000
"""chronyd slews by at most 83,333 ppm by default (``maxslewrate``) and the kernel's own
frequency correction by 500; what is faster was a step."""

ReadNs = Callable[[], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bracket:
    """The wall clock was read between two readings of the ruler.

    Attributes:
        ruler_ns: The middle of the two.

        wall_ns: The wall clock's reading, nanoseconds since 1970.

        width_ns: The distance of the two: the pair is right to half of it.
    """

    ruler_ns: int
    wall_ns: int
    width_ns: int


def read_bracket(ruler: ReadNs, wall: ReadNs, *, tries: int = TRIES) -> Bracket:
    """Read both clocks a few times and keep the narrowest: a thread switch widens one."""
    return min((_read_once(ruler, wall) for _ in range(tries)), key=lambda b: b.width_ns)


def _read_once(ruler: ReadNs, wall: ReadNs) -> Bracket:
    begin_ns = ruler()
    wall_ns = wall()
    width_ns = ruler() - begin_ns
    return Bracket(ruler_ns=begin_ns + width_ns // 2, wall_ns=wall_ns, width_ns=width_ns)


@dataclass(frozen=True, slots=True)
class Span:
    """The wall clock beside the ruler, from one bracket to a later one."""

    before: Bracket
    after: Bracket

    @property
    def slew_ns(self) -> int:
        """By how much the wall clock gained on the ruler in between."""
        wall_ns = self.after.wall_ns - self.before.wall_ns
        return wall_ns - (self.after.ruler_ns - self.before.ruler_ns)

    @property
    def stepped(self) -> bool:
        """Whether the wall clock was set: no slewing is as fast."""
        ruler_ns = self.after.ruler_ns - self.before.ruler_ns
        slack_ns = self.before.width_ns + self.after.width_ns
        return abs(self.slew_ns) > ruler_ns * SLEW_MAX_PPM // 10**6 + slack_ns

    @property
    def error_ns(self) -> int:
        """How wrong `on_ruler` can be, in nanoseconds, if the clock was not stepped."""
        return abs(self.slew_ns) + (self.before.width_ns + self.after.width_ns + 1) // 2

    def holds(self, wall_ns: int) -> bool:
        """Whether a reading of the wall clock can have been taken in between."""
        return self.before.wall_ns <= wall_ns <= self.after.wall_ns

    def on_ruler(self, wall_ns: int) -> int:
        """What the ruler read when the wall clock read this."""
        wall_span_ns = self.after.wall_ns - self.before.wall_ns
        if wall_span_ns <= 0:
            return self.after.ruler_ns
        ruler_span_ns = self.after.ruler_ns - self.before.ruler_ns
        gone_ns = wall_ns - self.before.wall_ns
        return self.before.ruler_ns + gone_ns * ruler_span_ns // wall_span_ns
