"""Makes a snapshot of a calibration, for people, programs and metrics."""

from __future__ import annotations

from otel_memoir.clock.calibration import Asked, Calibration
from otel_memoir.clock.confidence import factors, overall
from otel_memoir.clock.drift import PPM
from otel_memoir.clock.line import Line, ahead_left, truth
from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.selection import Selection
from otel_memoir.clock.snapshot import ClockSnapshot, SourceView

_FLAGS = ("prefer", "require", "trust", "noselect")
_NO_VOTE = Selection(votes={})
_TRUECHIMERS = ("selected", "survivor", "outlier")


def take_snapshot(
    calibration: Calibration, *, mode: str, ruler_ns: int, wall_ns: int
) -> ClockSnapshot:
    """What a calibration knows when the ruler and the wall clock read this."""
    selection = calibration.selection or _NO_VOTE
    sources = tuple(
        _view(name, asked, calibration, selection, ruler_ns, wall_ns)
        for name, asked in calibration.asked.items()
    )
    drift, discipline = calibration.meter.drift, calibration.discipline
    found = ClockSnapshot(
        taken_unix_ns=wall_ns, mode=mode, status=calibration.status(ruler_ns),
        epoch=discipline.epoch, drift_ppm=drift.rate / PPM, drift_error_ppm=drift.error / PPM,
        confidence=overall((s.confidence for s in sources if s.vote in _TRUECHIMERS),
                           voters=selection.voters, liars=selection.liars),
        selected=selection.selected, voters=selection.voters, liars=selection.liars,
        contradicted_by=selection.contradicted_by, sources=sources,
        holdover_ns=calibration.holdover_ns(ruler_ns),
        steps={"served_forward": discipline.steps["forward"],
               "served_back": discipline.steps["back"], "surprise": discipline.surprises},
    )
    return at(found, discipline.line, ruler_ns=ruler_ns, wall_ns=wall_ns)


def at(
    snapshot: ClockSnapshot, line: Line | None, *, ruler_ns: int, wall_ns: int
) -> ClockSnapshot:
    """The same snapshot with what can be computed anew for other readings."""
    if line is None:
        return snapshot
    unix_ns, bound_ns = truth(line, ruler_ns)
    return snapshot.but(
        taken_unix_ns=wall_ns, offset_ns=wall_ns - unix_ns, bound_ns=bound_ns,
        slew_left_ns=ahead_left(line, ruler_ns),
    )


def _view(
    name: str, asked: Asked, calibration: Calibration, selection: Selection,
    ruler_ns: int, wall_ns: int,
) -> SourceView:
    vote = selection.votes.get(name, "unreachable")
    view = SourceView(
        name=name, vote=vote, options=_flags(asked.options), reach=asked.register.reach,
        polls=asked.polls, failures=dict(asked.failures), last_failure=asked.last_failure,
    )
    estimate = asked.register.estimate(ruler_ns, calibration.meter.drift)
    if estimate is None:
        return view
    sample = estimate.sample
    why = factors(
        vote, distance_ns=estimate.distance_ns, jitter_ns=estimate.jitter_ns,
        reach=asked.register.reach, authenticated=sample.authenticated,
        alone=selection.voters < 2,
    )
    return view.but(
        offset_ns=wall_ns - estimate.unix_ns, distance_ns=estimate.distance_ns,
        delay_ns=sample.delay_ns, jitter_ns=estimate.jitter_ns,
        age_ns=ruler_ns - sample.ruler_ns, stratum=sample.stratum,
        authenticated=sample.authenticated, confidence=why.score, factors=why,
    )


def _flags(options: SourceOptions) -> tuple[str, ...]:
    return tuple(name for name in _FLAGS if getattr(options, name))
