"""How fast the ruler runs against true time, and how wrong that can be."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PPM = 1e-6
RATE_MAX = 500 * PPM
"""What the kernel assumes of any oscillator (``MAXFREQ`` in kernel/time/ntp.c)."""

WANDER = 15 * PPM
"""What a known frequency may move afterwards (PHI of RFC 5905)."""

POINTS_MAX = 64
SPAN_MAX_NS = 3600 * 10**9
"""Older points say little about the rate of today: it wanders."""

_RUNS_POINTS_MIN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift:
    """True seconds per second of the ruler, less one.

    Attributes:
        rate: The estimate; 1e-6 is one part per million.

        error: How far the true rate can be from it, until the next estimate.
    """

    rate: float = 0.0
    error: float = RATE_MAX

    def true_ns(self, ruler_ns: int) -> int:
        """How much true time passes in ``ruler_ns`` nanoseconds of the ruler."""
        return ruler_ns + round(ruler_ns * self.rate)

    def doubt_ns(self, ruler_ns: int) -> int:
        """How wrong ``true_ns`` of the same can be."""
        return math.ceil(abs(ruler_ns) * self.error)


class Point(NamedTuple):
    """True time at a reading of the ruler, and how far it can be off, all in nanoseconds."""

    ruler_ns: int
    unix_ns: int
    distance_ns: int


class DriftMeter:
    """Estimates the drift from points of agreed time.

    The error is what can be proven: the true average rate lies in the cone between the
    first point and the last, and below ``RATE_MAX``; the estimate is a weighted regression
    inside it. With a constant of 15 ppm from the start instead, 78 and 95 bounds were false
    at oscillators of +200 and -80 ppm.

    Args:
        known: What is known from an earlier life.

        wander: How far the rate can be from its average over the points.
    """

    def __init__(self, known: Drift | None = None, *, wander: float = WANDER) -> None:
        self._wander = wander
        self._points: list[Point] = []
        self._known = known
        self.drift = known or Drift()

    @property
    def points(self) -> int:
        """How many points the estimate rests on."""
        return len(self._points)

    def add(self, point: Point) -> Drift:
        """Take one more point and estimate anew."""
        self._points = [
            p for p in self._points
            if 0 < point.ruler_ns - p.ruler_ns <= SPAN_MAX_NS
        ]
        cone = _cone([*self._points, point])
        if cone is not None and cone[0] > cone[1]:
            self.restart()
            cone = None
        if cone is not None:
            self.drift = self._inside(cone, point)
        self._keep(point)
        return self.drift

    def restart(self) -> None:
        """Forget the points: the ruler, or most sources, jumped. The rate stays, in doubt."""
        self._points.clear()
        self._known = None
        self.drift = Drift(rate=self.drift.rate, error=RATE_MAX)

    def _inside(self, cone: tuple[float, float], last: Point) -> Drift:
        low, high = cone
        rate, half = (low + high) / 2, (high - low) / 2
        if half < 100 * PPM:
            rate = min(high, max(low, slope([*self._points, last])))
        found = Drift(
            rate=rate, error=min(RATE_MAX, self._wander + max(high - rate, rate - low))
        )
        known = self._known
        if known and found.error >= known.error and _agree(known, cone):
            return known
        self._known = None
        return found

    def _keep(self, point: Point) -> None:
        points = self._points
        span_ns = point.ruler_ns - points[0].ruler_ns if points else 0
        if points and point.ruler_ns - points[-1].ruler_ns < span_ns // POINTS_MAX:
            return
        points.append(point)
        if len(points) > POINTS_MAX:
            half = len(points) // 2
            self._points = points[:half:2] + points[half:]


def _agree(known: Drift, cone: tuple[float, float]) -> bool:
    return known.rate - known.error <= cone[1] and cone[0] <= known.rate + known.error


def _cone(points: Sequence[Point]) -> tuple[float, float] | None:
    """Between which rates the average lies, from the first point and the last."""
    if len(points) < 2:
        return None
    first, last = points[0], points[-1]
    span_ns = last.ruler_ns - first.ruler_ns
    gained_ns = last.unix_ns - first.unix_ns - span_ns
    doubt_ns = first.distance_ns + last.distance_ns
    return (max(-RATE_MAX, (gained_ns - doubt_ns) / span_ns),
            min(RATE_MAX, (gained_ns + doubt_ns) / span_ns))


def _lines(points: Sequence[Point]) -> tuple[list[float], list[float], list[float]]:
    first = points[0]
    spans = [float(p.ruler_ns - first.ruler_ns) for p in points]
    gains = [float(p.unix_ns - first.unix_ns - (p.ruler_ns - first.ruler_ns)) for p in points]
    return spans, gains, [1.0 / max(1, p.distance_ns) ** 2 for p in points]


def _fit(points: Sequence[Point]) -> tuple[float, list[float]]:
    """Weighted regression: the slope, and what each point is off."""
    spans, gains, weights = _lines(points)
    total = math.fsum(weights)
    x = math.fsum(w * s for w, s in zip(weights, spans)) / total
    y = math.fsum(w * g for w, g in zip(weights, gains)) / total
    below = math.fsum(w * (s - x) ** 2 for w, s in zip(weights, spans))
    if below == 0.0:
        return 0.0, [0.0] * len(points)
    slope = math.fsum(w * (s - x) * (g - y) for w, s, g in zip(weights, spans, gains)) / below
    return slope, [g - y - slope * (s - x) for s, g in zip(spans, gains)]


def slope(points: list[Point]) -> float:
    """The rate by regression, without the oldest points while the residuals show a trend.

    As chrony's regress.c. The cone keeps all points: a shorter one proves less.
    """
    found, residuals = _fit(points)
    while len(points) > _RUNS_POINTS_MIN and has_trend(residuals):
        points = points[max(1, len(points) // 8):]
        found, residuals = _fit(points)
    return found


def has_trend(residuals: Sequence[float]) -> bool:
    """The runs test: whether signs change too seldom for chance (one sided, 5 %)."""
    signs = [r > 0 for r in residuals]
    above, below = signs.count(True), signs.count(False)
    total = above + below
    runs = 1 + sum(a != b for a, b in itertools.pairwise(signs))
    expected = 2 * above * below / total + 1
    variance = (expected - 1) * (expected - 2) / max(1, total - 1)
    return runs < expected - 1.645 * math.sqrt(max(0.0, variance))
