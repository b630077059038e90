"""The served clock: never back within an epoch, and its bound says what is left to slew."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock_host import MS, NOW_NS, S
from otel_memoir.clock.discipline import Discipline, DisciplineOptions
from otel_memoir.clock.drift import PPM, Drift
from otel_memoir.clock.line import (
    OBSERVED_NOTHING,
    SEGMENT_NS,
    SERVED_NOTHING,
    SHIFT,
    TOLERANCE_NS,
    Line,
    observed,
    observed_segment,
    served,
    served_segment,
    truth,
)
from otel_memoir.clock.selection import Selection

DRIFT = Drift(rate=40 * PPM, error=20 * PPM)


def selection(unix_ns: int, bound_ns: int = MS, *, voters: int = 3) -> Selection:
    """A vote for this time."""
    return Selection(
        votes={}, selected="s", unix_ns=unix_ns, low_ns=unix_ns - bound_ns,
        high_ns=unix_ns + bound_ns, voters=voters,
    )


def follow(discipline: Discipline, ruler_ns: int, off_ns: int, **given: int) -> Line:
    """Take a vote for a time that is off from a perfect ruler's."""
    return discipline.follow(
        selection(NOW_NS + ruler_ns + off_ns, **given), DRIFT, ruler_ns=ruler_ns,
        wall_ns=NOW_NS + ruler_ns,
    )


offsets = st.one_of(
    st.integers(-2 * MS, 2 * MS), st.integers(-900 * MS, 900 * MS), st.integers(-S * 3000, S * 3000)
)


@given(st.lists(st.tuples(st.integers(1, 100 * S), offsets, st.integers(1, 3)), max_size=20))
def test_served_time_never_goes_back_in_an_epoch_whatever_the_sources_say(
    schedule: list[tuple[int, int, int]],
) -> None:
    """And its distance from the estimate is always part of the bound."""
    discipline, ruler_ns, last = Discipline(), 0, (0, 0)
    for passed_ns, off_ns, voters in schedule:
        ruler_ns += passed_ns
        line = follow(discipline, ruler_ns, off_ns, voters=voters)
        for at_ns in sorted((ruler_ns, ruler_ns + 1, ruler_ns + passed_ns // 2)):
            reading_ns, bound_ns = served(line, at_ns)
            unix_ns, own_ns = truth(line, at_ns)
            assert (discipline.epoch, reading_ns) >= last
            assert bound_ns == own_ns + abs(reading_ns - unix_ns)
            last = (discipline.epoch, reading_ns)
        ruler_ns += passed_ns // 2 + 1


def test_a_clock_without_a_floor_goes_back() -> None:
    """Negative control: the same schedule by the estimate alone."""
    discipline = Discipline()
    first = truth(follow(discipline, 0, 5 * MS), 0)[0]
    assert truth(follow(discipline, MS, 0), MS)[0] < first


@pytest.mark.parametrize("off_ns", [20 * MS, 100 * MS, -20 * MS, -500 * MS])
def test_what_is_off_is_slewed_by_at_most_500_ppm(off_ns: int) -> None:
    """Ahead always, behind below the step."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    line = follow(discipline, S, off_ns)
    rates = [
        (served(line, at_ns + S)[0] - served(line, at_ns)[0]) / S - 1 - 40 * PPM
        for at_ns in range(S, 300 * S, S)
    ]
    assert all(abs(rate) <= 500.1 * PPM for rate in rates)
    assert served(line, S + 2100 * abs(off_ns))[0] == truth(line, S + 2100 * abs(off_ns))[0]


def test_behind_by_more_than_a_step_it_steps_forward() -> None:
    """Then there is nothing left to slew."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    line = follow(discipline, S, 200 * MS)
    assert served(line, S) == truth(line, S)
    assert (discipline.steps["forward"], discipline.epoch) == (1, 0)


def test_far_ahead_it_jumps_back_in_a_new_epoch_once_a_majority_has_confirmed_it() -> None:
    """Three times in a row; until then the bound holds all of it."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    for number in (1, 2):
        line = follow(discipline, number * S, -5 * S)
        assert served(line, number * S)[1] > 5 * S - 10 * MS
        assert discipline.epoch == 0
    line = follow(discipline, 3 * S, -5 * S)
    assert discipline.epoch == 1
    assert served(line, 3 * S)[0] == NOW_NS + 3 * S - 5 * S


@pytest.mark.parametrize(("voters", "epoch"), [(1, 0), (2, 1)])
def test_a_single_source_never_confirms_a_jump(voters: int, epoch: int) -> None:
    """However often it says so."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    for number in range(1, 10):
        follow(discipline, number * S, -5 * S, voters=voters)
    assert discipline.epoch == epoch


def test_a_panic_changes_nothing_until_it_is_confirmed() -> None:
    """Neither step nor slew: 2000 s forward, then back before the third time."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    before = served(follow(discipline, S, 0), S)[0]
    line = follow(discipline, 2 * S, 2000 * S)
    assert served(line, 2 * S)[0] - before == pytest.approx(S, abs=100_000)
    assert line.slew == 0
    follow(discipline, 3 * S, 0)
    assert served(follow(discipline, 4 * S, 0), 4 * S)[0] < NOW_NS + 5 * S


@pytest.mark.parametrize(
    ("upper_ns", "epoch", "first_ns"),
    [(NOW_NS - S, 4, NOW_NS), (NOW_NS + S // 2, 4, NOW_NS + S // 2), (NOW_NS + 90 * S, 5, NOW_NS)],
)
def test_a_new_life_begins_above_what_the_last_served_or_in_a_new_epoch(
    upper_ns: int, epoch: int, first_ns: int
) -> None:
    """Ahead by more than a second, order rests on the epoch."""
    discipline = Discipline(epoch=4, floor_ns=upper_ns)
    assert served(follow(discipline, 0, 0), 0)[0] == first_ns
    assert discipline.epoch == epoch


def test_a_selection_that_the_line_excludes_is_a_surprise() -> None:
    """One of the two is not true: a paused machine, or most of the sources."""
    discipline = Discipline()
    follow(discipline, 0, 0)
    follow(discipline, S, 3 * MS)
    assert discipline.surprises == 1
    follow(discipline, 2 * S, 3 * MS)
    assert discipline.surprises == 1


lines = st.builds(
    Line, ruler_ns=st.just(0), unix_ns=st.just(NOW_NS), rate=st.integers(-10**6, 10**6),
    bound_ns=st.integers(0, S), doubt=st.integers(0, 2 * 10**6),
    ahead_ns=st.integers(-S, S) | st.integers(-1000, 1000),
    slew=st.sampled_from([0, round(500e-6 * 2**SHIFT)]),
    floor_ns=st.just(0) | st.integers(NOW_NS - S, NOW_NS + 2 * S),
    wall_ahead_ns=st.integers(-S, S),
)


@given(lines, st.integers(0, 3000 * S), st.integers(0, SEGMENT_NS), st.integers(-S, S))
def test_a_segment_says_what_its_line_says_with_a_bound_that_is_no_less(
    line: Line, at_ns: int, later_ns: int, wall_off_ns: int
) -> None:
    """To the nanosecond of rounding, up to its end."""
    until, _, bound, begin, unix, rate = served_segment(line, at_ns, 0)
    if until < 0:
        assert served(line, at_ns)[0] == line.floor_ns
        return
    read_ns = min(at_ns + later_ns, until)
    reading_ns = unix + read_ns - begin + ((read_ns - begin) * rate >> SHIFT)
    expected = served(line, read_ns)
    assert abs(reading_ns - expected[0]) <= 3
    assert bound >= expected[1] - 4

    wall_ns = NOW_NS + at_ns + wall_off_ns
    until, least, bound = observed_segment(line, at_ns, wall_ns)
    for moved_ns in (least + read_ns, least + read_ns + 2 * TOLERANCE_NS):
        assert bound >= observed(line, read_ns, moved_ns)[1]


def test_nothing_is_over_before_it_begins() -> None:
    """What a clock has before its first line."""
    assert OBSERVED_NOTHING[0] == SERVED_NOTHING[0] < 0


def test_options_are_values() -> None:
    """They say what is in the documentation."""
    options = DisciplineOptions()
    assert (options.slew, options.step_ns, options.panic_ns) == (500e-6, 128 * MS, 1000 * S)
