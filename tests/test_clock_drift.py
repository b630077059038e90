"""How fast the ruler runs, and which sample of a source to believe."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clock_host import MS, NOW_NS, S
from otel_memoir.clock import Sample
from otel_memoir.clock.drift import POINTS_MAX, PPM, RATE_MAX, Drift, DriftMeter, Point, has_trend
from otel_memoir.clock.filter import Register, project

rates = st.floats(-400 * PPM, 400 * PPM)


def points(rate: float, count: int, *, every_s: int = 16, error_ns: int = 0) -> list[Point]:
    """True time at readings of a ruler with this rate, each off by up to ``error_ns``."""
    noise = random.Random(count)
    found = []
    for number in range(count):
        ruler_ns = number * every_s * S
        true_ns = NOW_NS + ruler_ns + round(ruler_ns * rate)
        found.append(Point(
            ruler_ns, true_ns + noise.randint(-error_ns, error_ns), max(error_ns, MS)
        ))
    return found


@given(rates, st.integers(2, 200), st.integers(0, 20 * MS))
def test_the_true_rate_is_within_the_error_of_the_estimate(
    rate: float, count: int, error_ns: int
) -> None:
    """However the points are off within their distances."""
    meter = DriftMeter()
    for point in points(rate, count, error_ns=error_ns):
        found = meter.add(point)
        assert abs(found.rate - rate) <= found.error
    assert meter.points <= POINTS_MAX + 1


def test_the_estimate_gets_better_with_time() -> None:
    """From 500 ppm to less than 20, for a source 1 ms away."""
    meter, errors = DriftMeter(), []
    for point in points(-80 * PPM, 100, error_ns=MS // 10):
        errors.append(meter.add(point).error)
    assert errors[0] == RATE_MAX
    assert errors[-1] < 20 * PPM
    assert abs(meter.drift.rate + 80 * PPM) < PPM


def test_what_is_known_from_an_earlier_life_holds_until_more_is_known() -> None:
    """Unless it is contradicted."""
    known = Drift(rate=-80 * PPM, error=20 * PPM)
    meter = DriftMeter(known)
    series = points(-80 * PPM, 100)
    assert meter.add(series[0]) == meter.add(series[1]) == known
    for point in series[2:]:
        meter.add(point)
    assert meter.drift.error < known.error
    wrong = DriftMeter(Drift(rate=300 * PPM, error=20 * PPM))
    for point in points(-80 * PPM, 20):
        wrong.add(point)
    assert abs(wrong.drift.rate + 80 * PPM) <= wrong.drift.error


def test_a_jump_of_the_ruler_restarts_the_estimate() -> None:
    """No oscillator gains 10 s in 16 s: the points before say nothing any more."""
    meter = DriftMeter()
    for point in points(0.0, 20):
        meter.add(point)
    ruler_ns = 20 * 16 * S
    found = meter.add(Point(ruler_ns, NOW_NS + ruler_ns + 10 * S, MS))
    assert (found.error, meter.points) == (RATE_MAX, 1)


def test_residuals_with_a_trend_are_told_from_noise() -> None:
    """The runs test: a bent line has few changes of sign."""
    assert has_trend([(x - 10) ** 2 - 30 for x in range(21)])
    assert not has_trend([(-1) ** x for x in range(21)])


def sample(ruler_ns: int, off_ns: int, distance_ns: int) -> Sample:
    """What a source says at a reading of a perfect ruler."""
    return Sample(source="s", ruler_ns=ruler_ns, unix_ns=NOW_NS + ruler_ns + off_ns,
                  distance_ns=distance_ns)


def test_of_a_sources_samples_the_nearest_speaks_until_it_is_old() -> None:
    """Age makes a sample more distant, by the doubt in the drift."""
    register, drift = Register(), Drift(error=100 * PPM)
    register.add(sample(0, MS, 2 * MS), drift)
    register.add(sample(10 * S, 4 * MS, 9 * MS), drift)
    soon, late = (register.estimate(at_ns, drift) for at_ns in (20 * S, 900 * S))
    assert soon is not None
    assert soon.sample.distance_ns == 2 * MS
    assert soon.distance_ns == 4 * MS
    assert soon.jitter_ns == 3 * MS
    assert late is not None
    assert late.distance_ns == 2 * MS + 90 * MS


@given(rates, st.integers(1, 3600))
def test_a_sample_that_held_true_time_holds_it_later_too(rate: float, later_s: int) -> None:
    """While the drift is within its error."""
    drift = Drift(rate=rate * 0.9, error=abs(rate) * 0.1 + PPM)
    passed_ns = later_s * S
    true_ns = NOW_NS + passed_ns + round(passed_ns * rate)
    unix_ns, distance_ns = project(sample(0, 0, MS), passed_ns, drift)
    assert abs(unix_ns - true_ns) <= distance_ns


def test_a_source_that_contradicts_itself_is_believed_anew() -> None:
    """Either it stepped or the ruler did; what it said before says nothing."""
    register, drift = Register(), Drift()
    register.add(sample(0, 0, MS), drift)
    register.add(sample(S, 10 * S, 2 * MS), drift)
    found = register.estimate(S, drift)
    assert found is not None
    assert found.unix_ns == NOW_NS + S + 10 * S
    assert register.contradictions == 1


def test_eight_misses_in_a_row_make_a_source_unreachable() -> None:
    """Its last sample speaks until then."""
    register, drift = Register(), Drift()
    register.add(sample(0, 0, MS), drift)
    for _ in range(7):
        register.miss()
    assert register.estimate(S, drift) is not None
    register.miss()
    assert (register.estimate(S, drift), register.reach) == (None, 0)


@pytest.mark.parametrize("error", [0.0, 15 * PPM, 500 * PPM])
def test_doubt_is_never_rounded_down(error: float) -> None:
    """Also of a single nanosecond."""
    drift = Drift(error=error)
    assert all(drift.doubt_ns(ns) >= ns * error for ns in (1, 999, 10**6 + 1, 10**13 + 7))
