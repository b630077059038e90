"""Weakened calibrations: what must make bounds false, so that the coverage test says something."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from otel_memoir.clock import calibration, selection
from otel_memoir.clock.drift import Drift, DriftMeter, Point
from otel_memoir.clock.selection import Candidate, Selection
from virtual_time.run import Outcome, Run, Scenario


class TrustedDrift(DriftMeter):
    """Takes 15 ppm for the error of an oscillator that it has not measured (RFC 5905, PHI)."""

    def __init__(self) -> None:
        super().__init__(Drift(rate=0.0, error=15e-6))

    def add(self, point: Point) -> Drift:
        """Measures nothing."""
        return self.drift

    def restart(self) -> None:
        """Nor forgets anything."""


def with_trusted_drift(scenario: Scenario) -> Outcome:
    """Run with a constant instead of a measured drift."""
    run = Run(scenario)
    run.calibration.meter = TrustedDrift()
    return run.all()


def with_sigma(scenario: Scenario, monkeypatch: Any) -> Outcome:
    """Run with the weighted error of the mean for a bound, as an estimate would have it."""
    monkeypatch.setattr(calibration, "select", _select_with_sigma)
    return Run(scenario).all()


def _select_with_sigma(candidates: Iterable[Candidate], **given: Any) -> Selection:
    given_to = list(candidates)
    found = selection.select(given_to, **given)
    near = [c for c in given_to if found.votes[c.name] in ("selected", "survivor", "outlier")]
    weight = math.fsum(1 / max(1, c.distance_ns) ** 2 for c in near)
    if found.problem or not weight:
        return found
    sigma_ns = round(weight**-0.5 / 2)
    return replace(found, low_ns=found.unix_ns - sigma_ns, high_ns=found.unix_ns + sigma_ns)


def where_most_meet(candidates: Iterable[Candidate], **given: Any) -> Selection:
    """A selection whose bound is where most voters meet, not where a majority does."""
    given_to = list(candidates)
    found = selection.select(given_to, **given)
    meeting = selection.intersection([
        (c.unix_ns - c.distance_ns, c.unix_ns + c.distance_ns)
        for c in given_to if c.unix_ns is not None
    ])
    if found.problem or meeting is None:
        return found
    unix_ns = min(meeting[1], max(meeting[0], found.unix_ns))
    return replace(found, unix_ns=unix_ns, low_ns=meeting[0], high_ns=meeting[1])
