"""True time is inside the bound, in virtual time, where a reading can be held against it."""

from __future__ import annotations

import functools
from dataclasses import replace

import pytest

from otel_memoir.clock import calibration
from otel_memoir.clock.options import SourceOptions
from virtual_time import controls
from virtual_time.random_worlds import random_world
from virtual_time.run import Outcome, Run, Scenario, between
from virtual_time.scenarios import SCENARIOS, far, liar, servers
from virtual_time.world import MS, S, Server

SAMPLES_MIN = 100_000


@functools.cache
def outcome(number: int) -> Outcome:
    """What a scenario shows."""
    return Run(SCENARIOS[number]).all()


@pytest.mark.parametrize("number", range(len(SCENARIOS)), ids=[s.name for s in SCENARIOS])
def test_true_time_is_inside_the_bound_and_no_served_time_goes_back(number: int) -> None:
    """Of the estimate, of the annotated wall clock, and of the served clock."""
    found = outcome(number)
    assert found.samples > 10_000
    assert (found.violations, found.backwards) == (0, 0)


def test_the_scenarios_together_are_a_hundred_thousand_readings() -> None:
    """As many as the promise is measured with."""
    assert sum(outcome(number).samples for number in range(len(SCENARIOS))) > SAMPLES_MIN


@pytest.mark.parametrize("rate", [200e-6, -80e-6])
def test_a_drift_that_is_assumed_and_not_measured_makes_bounds_false(rate: float) -> None:
    """Negative control: 15 ppm for an oscillator that is worse."""
    local = servers(3, base_ns=MS, there_ns=MS, back_ns=MS)
    assert controls.with_trusted_drift(Scenario(name="", servers=local, rate=rate)).violations
    assert not Run(Scenario(name="", servers=local, rate=rate)).all().violations


def test_the_weighted_error_of_the_mean_is_no_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: an asymmetric way to the servers, which no statistics see."""
    crooked = Scenario(name="", servers=servers(4, base_ns=MS, there_ns=20 * MS, back_ns=0))
    assert not Run(crooked).all().violations
    assert controls.with_sigma(crooked, monkeypatch).violations


def test_where_most_agree_is_no_bound_when_one_of_three_lies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: RFC 5905's intersection, narrowed by a liar who overlaps the honest."""
    honest = servers(2, base_ns=10 * MS, there_ns=0, back_ns=0)
    narrowed = Scenario(
        name="", servers=[*honest, liar("l", 12 * MS, base_ns=2 * MS, there_ns=0, back_ns=0)]
    )
    assert not Run(narrowed).all().violations
    monkeypatch.setattr(calibration, "select", controls.where_most_meet)
    assert Run(narrowed).all().violations


def test_three_agreeing_liars_of_five_are_believed() -> None:
    """Negative control: the promise ends where half of the sources lie."""
    lying = [liar(f"l{number}", 90 * MS) for number in range(3)]
    assert Run(Scenario(name="", servers=[*far(2), *lying])).all().violations


@pytest.mark.slow
@pytest.mark.parametrize("decade", range(6))
def test_true_time_is_inside_the_bound_in_any_world_where_fewer_than_half_lie(decade: int) -> None:
    """Sixty at random; docs/proof-clock.md has more."""
    for seed in range(decade * 10, decade * 10 + 10):
        found = Run(random_world(seed), seed).all()
        assert (found.violations, found.backwards) == (0, 0), seed


LATE = [replace(server, silent=between(0, 1)) for server in far(3)]
"""Honest, but their first answer is lost."""


def test_the_first_to_answer_is_not_believed_before_the_others_had_the_chance() -> None:
    """Packets get lost, and the one that arrives may be the liar's."""
    found = Run(Scenario(name="", servers=[liar("l", 90 * MS), *LATE], seconds=60)).all()
    assert found.samples > 1000
    assert found.violations == 0


def test_the_first_to_answer_after_a_suspend_is_not_believed_either() -> None:
    """All of them have to be heard anew."""
    slow = [replace(s, options=SourceOptions(poll_min_s=64)) for s in far(3)]
    world = Scenario(name="", servers=[liar("l", 90 * MS), *slow], suspends=[(300 * S, 600 * S)],
                     seconds=1500)
    found = Run(world).all()
    assert found.violations == 0


def test_believing_who_answers_first_makes_bounds_false(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: a vote at once."""
    monkeypatch.setattr(calibration.Asked, "is_awaited", False)
    found = Run(Scenario(name="", servers=[liar("l", 90 * MS), *LATE], seconds=60)).all()
    assert found.violations


def test_a_dead_source_is_waited_for_no_longer_than_three_questions() -> None:
    """Then the others decide; one that refuses is not waited for at all."""
    for refusal, most_s in (("timeout", 6), ("refused", 1)):
        dead = Server(name="dead", silent=lambda _: True, refusal=refusal)
        run = Run(Scenario(name="", servers=[dead, *far(2)], seconds=most_s))
        assert run.all().samples > 0


def test_two_sources_that_disagree_are_no_majority() -> None:
    """Nothing is selected; priority alone never decides."""
    run = Run(Scenario(name="", servers=[Server(name="s"), liar("l", 90 * MS)]))
    assert run.all().samples == 0
    assert run.calibration.status(0) == "uncalibrated"
    assert run.calibration.problem == "no_majority"


def test_a_ruler_that_stood_still_unnoticed_makes_bounds_false_until_the_next_poll() -> None:
    """The limit of the promise: nothing in a process sees a pause of its virtual machine."""
    paused = Scenario(name="", servers=far(3), suspends=[(1000 * 10**9, 30 * 10**9)],
                      noticed=False, seconds=2000)
    run = Run(paused)
    found = run.all()
    assert 0 < found.violations < 0.05 * found.samples
    assert run.calibration.discipline.surprises == 1


def test_an_oscillator_that_wanders_ten_times_further_makes_bounds_false() -> None:
    """The other limit: 15 ppm of wander. 1 ppm each second, on a local network."""
    near = servers(4, base_ns=MS // 10, there_ns=MS // 50, back_ns=MS // 50, root_ns=30_000)
    wild = Scenario(name="", servers=near, wander=3e-6, seconds=20_000)
    assert Run(wild).all().violations
