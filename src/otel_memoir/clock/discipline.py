"""The served clock: never back within an epoch, and always on its way to the estimate.

- Behind by more than a step: it steps forward. Otherwise it is slewed, at most 500 ppm.
- Ahead: it is slewed. Far ahead, or panicking, it waits until a majority has said so several
  times in a row; then it jumps. A jump back opens a new epoch, whose order is by epoch.
- Whatever is left to slew is part of the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from otel_memoir.clock.drift import Drift
from otel_memoir.clock.line import Line, scaled, scaled_up, served, truth
from otel_memoir.clock.selection import Selection

_S = 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class DisciplineOptions:
    """How the served clock may move.

    Attributes:
        slew: Most that it gains or loses on true time, per second.

        step_ns: Behind by more than this, it steps forward.

        back_ns: Ahead by more than this, it jumps back once that is confirmed.

        panic_ns: Off by more than this in either direction, it does nothing unconfirmed.

        confirmations: Selections in a row, each with more than one vote.
    """

    slew: float = 500e-6
    step_ns: int = 128_000_000
    back_ns: int = _S
    panic_ns: int = 1000 * _S
    confirmations: int = 3


class Discipline:
    """Keeps the line. Used by one thread; takes every reading as an argument.

    Args:
        options: How the clock may move.

        epoch: Where it was when an earlier life ended.

        floor_ns: A time that the earlier life may have served.
    """

    def __init__(
        self, options: DisciplineOptions | None = None, *, epoch: int = 0, floor_ns: int = 0
    ) -> None:
        self.options = options or DisciplineOptions()
        self.epoch = epoch
        self.line: Line | None = None
        self.steps = {"forward": 0, "back": 0}
        self.surprises = 0
        self._floor_ns = floor_ns
        self._confirmed = 0

    def adopt(self, line: Line, epoch: int) -> None:
        """Go on with another's line, from whom this process takes over."""
        self.line, self.epoch = line, epoch

    def is_surprised(self, selection: Selection, ruler_ns: int) -> bool:
        """Whether the line and the selection cannot both be true."""
        if self.line is None:
            return False
        unix_ns, bound_ns = truth(self.line, ruler_ns)
        return not (
            unix_ns - bound_ns <= selection.high_ns and selection.low_ns <= unix_ns + bound_ns
        )

    def follow(self, selection: Selection, drift: Drift, *, ruler_ns: int, wall_ns: int) -> Line:
        """Take a selection made at ``ruler_ns``, when the wall clock read ``wall_ns``."""
        self.surprises += self.is_surprised(selection, ruler_ns)
        ahead_ns, floor_ns, slew = self._course(selection, ruler_ns)
        self.line = Line(
            ruler_ns=ruler_ns, unix_ns=selection.unix_ns, rate=scaled(drift.rate),
            bound_ns=selection.bound_ns, doubt=scaled_up(drift.error), ahead_ns=ahead_ns,
            slew=slew, floor_ns=floor_ns, wall_ahead_ns=wall_ns - selection.unix_ns,
        )
        return self.line

    def widen(self, more_ns: int) -> None:
        """True time can be further from the line by so much: the ruler stood still."""
        if self.line is not None:
            self.line = self.line._replace(bound_ns=self.line.bound_ns + more_ns)

    def _course(self, selection: Selection, ruler_ns: int) -> tuple[int, int, int]:
        """How far ahead to begin, what not to fall below, and how fast to slew."""
        if self.line is None:
            return self._begin(selection)
        options, slew = self.options, scaled(self.options.slew)
        served_ns = served(self.line, ruler_ns)[0]
        ahead_ns = served_ns - selection.unix_ns
        if ahead_ns > options.back_ns or abs(ahead_ns) > options.panic_ns:
            return self._jump_if_confirmed(selection, ahead_ns, served_ns)
        self._confirmed = 0
        if ahead_ns < -options.step_ns:
            self.steps["forward"] += 1
            return 0, served_ns, slew
        return ahead_ns, served_ns, slew

    def _begin(self, selection: Selection) -> tuple[int, int, int]:
        """The first line. What an earlier life served is a floor, or ends its epoch."""
        slew = scaled(self.options.slew)
        ahead_ns = self._floor_ns - selection.unix_ns
        if ahead_ns <= 0:
            return 0, 0, slew
        if ahead_ns <= self.options.back_ns:
            return ahead_ns, self._floor_ns, slew
        self.epoch += 1
        return 0, 0, slew

    def _jump_if_confirmed(
        self, selection: Selection, ahead_ns: int, served_ns: int
    ) -> tuple[int, int, int]:
        self._confirmed += 1 if selection.voters > 1 else 0
        slew = scaled(self.options.slew)
        if self._confirmed < self.options.confirmations:
            return ahead_ns, served_ns, 0 if abs(ahead_ns) > self.options.panic_ns else slew
        self._confirmed = 0
        if ahead_ns < 0:
            self.steps["forward"] += 1
            return 0, served_ns, slew
        self.steps["back"] += 1
        self.epoch += 1
        return 0, 0, slew
