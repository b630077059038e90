"""Steps of the wall clock and suspends, told from slews."""

from __future__ import annotations

import pytest

from clock_host import MS, Host, S
from otel_memoir.clock.watch import Readings, jumps, read_clocks

BEFORE = Readings(ruler_ns=5 * S, wall_ns=900 * S, asleep_ns=7 * S)


def after(passed_ns: int, *, step_ns: int = 0, slept_ns: int = 0) -> Readings:
    """The clocks later."""
    return Readings(
        BEFORE.ruler_ns + passed_ns, BEFORE.wall_ns + passed_ns + step_ns + slept_ns,
        BEFORE.asleep_ns + slept_ns,
    )


@pytest.mark.parametrize("step_ns", [-3 * S, -250 * MS, 250 * MS, 3600 * S])
def test_a_step_of_the_wall_clock_is_seen_and_how_far_it_went(step_ns: int) -> None:
    """In both directions, also while the machine was suspended."""
    assert jumps(BEFORE, after(S, step_ns=step_ns)) == (step_ns, 0)
    found = jumps(BEFORE, after(S, step_ns=4000 * S + step_ns, slept_ns=3600 * S))
    assert found == (4000 * S + step_ns, 3600 * S)


@pytest.mark.parametrize("passed_ns", [S // 100, S, 60 * S])
def test_a_slew_is_no_step(passed_ns: int) -> None:
    """chronyd slews by up to 83,333 ppm."""
    assert jumps(BEFORE, after(passed_ns, step_ns=passed_ns // 12)) == (0, 0)


def test_a_suspend_is_no_step() -> None:
    """The wall clock goes on while the ruler stands."""
    assert jumps(BEFORE, after(S, slept_ns=3600 * S)) == (0, 3600 * S)


def test_the_clocks_are_read_as_they_are_given() -> None:
    """Between two readings of the ruler."""
    host = Host()
    found = read_clocks(host.ruler, host.wall)
    assert (found.ruler_ns, found.wall_ns) == (host.ruler(), host.wall())
    real = read_clocks()
    assert jumps(real, read_clocks()) == (0, 0)
