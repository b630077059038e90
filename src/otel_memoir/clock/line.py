"""What a reading is computed from: one immutable value that the calibrator swaps.

    true time   = unix_ns + passed * (1 + rate)          passed: on the ruler, since ruler_ns
    doubt       = bound_ns + passed * doubt
    served time = true time + what is left of ahead_ns, slewed away; never before floor_ns

Integers only. Rates are in units of 2**-32.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

SHIFT = 32
_ONE = float(1 << SHIFT)
_ROUNDING_NS = 4


class Line(NamedTuple):
    """True time as a line over the ruler, and the served clock's way back to it.

    Attributes:
        ruler_ns: Where on the ruler it begins.

        unix_ns: The estimate of true time there.

        rate: True time gained per ruler time.

        bound_ns: How far true time can be from the estimate there.

        doubt: How much further it can be per ruler time.

        ahead_ns: How far the served clock is ahead of the estimate there; below 0, behind.

        slew: How much of that is taken back per ruler time.

        floor_ns: A served time that may have been read before: none is below it.

        wall_ahead_ns: How far the wall clock was ahead of the estimate there.

    """

    ruler_ns: int
    unix_ns: int
    rate: int
    bound_ns: int
    doubt: int
    ahead_ns: int
    slew: int
    floor_ns: int
    wall_ahead_ns: int


def scaled(rate: float) -> int:
    """A rate in units of 2**-32, to the nearest."""
    return round(rate * _ONE)


def scaled_up(rate: float) -> int:
    """A rate in units of 2**-32, never less than it is."""
    return math.ceil(rate * _ONE)


def truth(line: Line, ruler_ns: int) -> tuple[int, int]:
    """The estimate of true time at a reading of the ruler, and its bound."""
    passed_ns = ruler_ns - line.ruler_ns
    return (
        line.unix_ns + passed_ns + (passed_ns * line.rate >> SHIFT),
        line.bound_ns + (abs(passed_ns) * line.doubt >> SHIFT) + _ROUNDING_NS,
    )


def observed(line: Line, ruler_ns: int, wall_ns: int) -> tuple[int, int]:
    """The wall clock's reading, with a bound that holds its offset too."""
    unix_ns, bound_ns = truth(line, ruler_ns)
    return wall_ns, bound_ns + abs(wall_ns - unix_ns)


def served(line: Line, ruler_ns: int) -> tuple[int, int]:
    """The corrected clock's reading, with a bound that holds what is left to slew."""
    unix_ns, bound_ns = truth(line, ruler_ns)
    reading_ns = max(unix_ns + ahead_left(line, ruler_ns), line.floor_ns)
    return reading_ns, bound_ns + abs(reading_ns - unix_ns)


def ahead_left(line: Line, ruler_ns: int) -> int:
    """How far the served clock is still ahead of the estimate; below 0, behind."""
    slewed_ns = max(0, (ruler_ns - line.ruler_ns) * line.slew >> SHIFT)
    if line.ahead_ns >= 0:
        return max(0, line.ahead_ns - slewed_ns)
    return min(0, line.ahead_ns + slewed_ns)


Segment = tuple[Any, ...]
"""What a reading needs of a line for the next moment; a plain tuple, because unpacking a
named one takes 60 ns more. Both begin with

- ``until_ns``: beyond this reading of the ruler the line has to be asked;
- ``least_ns``: the wall clock is further than this ahead of the ruler, when observed, or of
  the reading, when served, and by less than twice the tolerance; else something jumped;
- ``bound_ns``: how far true time can be from a reading, to the end of the segment: one
  value for many readings, which need not encode it each time; ``None`` if nobody knows;

and one for served time goes on with

- ``ruler_ns``: where on the ruler it begins;
- ``unix_ns``: the reading there;
- ``rate``: what the reading gains on the ruler, in units of 2**-32.
"""

OBSERVED_NOTHING: Segment = (-1, 0, 0)
SERVED_NOTHING: Segment = (-1, 0, 0, 0, 0, 0)
"""Are over before they begin."""

SEGMENT_NS = 250_000_000
TOLERANCE_NS = 50_000
"""How far the wall clock can move within a segment: two readings are seldom taken at the
same moment, and an oscillator that is off by 200 ppm makes as much."""

JUMP_NS = 100_000_000
"""How far the wall clock can move between two calibrations, as far as a served time goes."""


def observed_segment(line: Line | None, ruler_ns: int, wall_ns: int) -> Segment:
    """For the wall clock: it is where it was on the ruler, within ``TOLERANCE_NS``."""
    if line is None:
        return ruler_ns + SEGMENT_NS, wall_ns - ruler_ns - TOLERANCE_NS, None
    bound_ns = observed(line, ruler_ns, wall_ns)[1]
    more_ns = SEGMENT_NS * (abs(line.rate) + line.doubt) >> SHIFT
    return (
        ruler_ns + SEGMENT_NS, wall_ns - ruler_ns - TOLERANCE_NS,
        bound_ns + more_ns + TOLERANCE_NS + _ROUNDING_NS,
    )


def served_segment(line: Line | None, ruler_ns: int, wall_ns: int) -> Segment:
    """For the corrected clock: ends before its rate changes; nothing while it stands."""
    if line is None:
        return SERVED_NOTHING
    reading_ns, bound_ns = served(line, ruler_ns)
    left_ns = ahead_left(line, ruler_ns)
    if reading_ns > truth(line, ruler_ns)[0] + left_ns:
        return SERVED_NOTHING
    slew = line.slew if left_ns < 0 else -line.slew if left_ns else 0
    lasts_ns = min(SEGMENT_NS, (abs(left_ns) << SHIFT) // abs(slew)) if slew else SEGMENT_NS
    more_ns = lasts_ns * line.doubt >> SHIFT
    return (
        ruler_ns + lasts_ns, line.wall_ahead_ns - left_ns - JUMP_NS,
        bound_ns + more_ns + _ROUNDING_NS, ruler_ns, reading_ns, line.rate + slew,
    )
