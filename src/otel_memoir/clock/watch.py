"""Notices that the wall clock was set, or that the machine was suspended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from otel_memoir.clock.sample import ruler_ns

_BOOTTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

STEP_NS = 2_000_000
SLEPT_NS = 10_000_000

# chronyd slews by at most 83,333 ppm; what moves faster was set.
_SLEW_PART = 10


class Readings(NamedTuple):
    """The host's clocks at one moment, in nanoseconds.

    Attributes:
        ruler_ns: The ruler.

        wall_ns: Since 1970-01-01 UTC, as the system has it.

        asleep_ns: How long the machine has been suspended, since an arbitrary start.
    """

    ruler_ns: int
    wall_ns: int
    asleep_ns: int


class Jumps(NamedTuple):
    """What happened since the last look, in nanoseconds; 0 where nothing did."""

    wall_ns: int
    slept_ns: int


def sleep_doubt_ns(slept_ns: int) -> int:
    """How much true time can have passed in a suspend that the kernel says took so long.

    It counts with the battery-backed clock, which tells whole seconds at both ends.
    """
    slept_ns = abs(slept_ns)
    return slept_ns + slept_ns // 1000 + 2 * 10**9


def read_clocks(
    ruler: Callable[[], int] = ruler_ns, wall: Callable[[], int] = time.time_ns
) -> Readings:
    """Read the clocks; of a few tries, the one that took the least time counts."""
    tries = []
    for _ in range(3):
        before_ns, wall_ns, after_ns = ruler(), wall(), ruler()
        tries.append((after_ns - before_ns, before_ns, wall_ns))
    took_ns, before_ns, wall_ns = min(tries)
    return Readings(before_ns + took_ns // 2, wall_ns, _asleep_ns())


def _asleep_ns() -> int:
    """BOOTTIME counts while the machine is suspended, MONOTONIC does not (clock_gettime(2))."""
    return time.clock_gettime_ns(_BOOTTIME) - time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def jumps(before: Readings, now: Readings) -> Jumps:
    """What happened between two looks. A slew is no jump."""
    passed_ns = now.ruler_ns - before.ruler_ns
    gained_ns = now.wall_ns - before.wall_ns - passed_ns
    slept_ns = now.asleep_ns - before.asleep_ns
    if abs(slept_ns) < SLEPT_NS:
        slept_ns = 0
    gained_ns -= slept_ns
    is_step = abs(gained_ns) > STEP_NS + abs(passed_ns + slept_ns) // _SLEW_PART
    return Jumps(gained_ns if is_step else 0, slept_ns)
