"""From samples to a line: registers, selection, drift and discipline, without a clock.

Everything takes the ruler's reading as an argument, so that hours pass in a test in less
than a second. ``calibrator.py`` puts a thread and real sources around it.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from otel_memoir.clock.discipline import Discipline, DisciplineOptions
from otel_memoir.clock.drift import WANDER, Drift, DriftMeter, Point
from otel_memoir.clock.filter import Estimate, Register
from otel_memoir.clock.line import Line, truth
from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.sample import Sample
from otel_memoir.clock.selection import Candidate, Selection, SelectionOptions, select
from otel_memoir.clock.watch import sleep_doubt_ns

_S = 10**9
_QUICK_POLLS = 4
_QUICK_S = 2.0
_BACK_OFF_AFTER = 8
_JITTER = 0.1
_NEVER_ASK = frozenset({"kod_deny", "kod_rstr"})

# A packet may be lost. Who has not answered three questions is not waited for.
_MAY_ANSWER_YET = frozenset({"timeout", "dns_timeout"})
_TRIES = 3


_UNIFORM = random.SystemRandom().uniform  # never the shared generator, which others may seed


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationOptions:
    """How a host's time is judged.

    Attributes:
        selection: When a source may vote and when a vote counts.

        discipline: How the served clock may move.

        wander: What a known frequency may move afterwards, per second.

        holdover_ns: Without a usable sample for so long, the status says ``holdover``.

        bound_max_ns: A wider bound than this has the status ``wide``.
    """

    selection: SelectionOptions = field(default_factory=SelectionOptions)
    discipline: DisciplineOptions = field(default_factory=DisciplineOptions)
    wander: float = WANDER
    holdover_ns: int = 4096 * _S
    bound_max_ns: int = _S


class Patience:
    """When a source is asked next: quickly at first, then at its own pace, with jitter.

    Args:
        options: How often it may be asked.

        uniform: Gives a random number between its arguments.
    """

    def __init__(
        self, options: SourceOptions, uniform: Callable[[float, float], float]
    ) -> None:
        self._options = options
        self._uniform = uniform
        self._polls = 0
        self._misses = 0
        self._asked_ns = 0
        self.due_ns = 0
        self.stopped = False

    def hurry(self) -> None:
        """Ask as soon as is decent."""
        self.due_ns = min(self.due_ns, self._asked_ns + round(_QUICK_S * _S))

    def begin_again(self) -> None:
        """Ask at once and quickly, as at first."""
        self.due_ns = self._polls = self._misses = 0

    def asked(self, ruler_ns: int, *, answered: bool, hint_s: float | None) -> None:
        """Say how a poll ended and set the time of the next."""
        self._polls += 1
        self._asked_ns = ruler_ns
        self._misses = 0 if answered else self._misses + 1
        wait_s = self._own_pace_s() if hint_s is None else hint_s
        wait_s *= self._uniform(1 - _JITTER, 1 + _JITTER)
        self.due_ns = ruler_ns + round(wait_s * _S)

    def _own_pace_s(self) -> float:
        least_s, most_s = self._options.poll_min_s, self._options.poll_max_s
        if self._polls < _QUICK_POLLS:
            return min(_QUICK_S, least_s)
        return float(min(most_s, least_s * 2 ** min(self._misses // _BACK_OFF_AFTER, 20)))


@dataclass(slots=True)
class Asked:
    """What is kept of one source."""

    options: SourceOptions
    patience: Patience
    register: Register = field(default_factory=Register)
    polls: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    last_failure: str = ""
    tries: int = 0

    @property
    def is_awaited(self) -> bool:
        """Whether a vote without it would be early: it may only not have been heard yet."""
        if self.register.last is not None or self.options.noselect or self.patience.stopped:
            return False
        return not self.tries or (
            self.tries < _TRIES and self.last_failure in _MAY_ANSWER_YET
        )


class Calibration:
    """Judges what the sources of a host say. Used by one thread.

    Args:
        sources: What may be said by whom, by name.

        options: How to judge.

        drift: What is known from an earlier life.

        discipline: What serves the time; by default a new one.

        uniform: Gives a random number between its arguments, for the jitter of polls.
    """

    def __init__(
        self,
        sources: Mapping[str, SourceOptions],
        options: CalibrationOptions | None = None,
        *,
        drift: Drift | None = None,
        discipline: Discipline | None = None,
        uniform: Callable[[float, float], float] = _UNIFORM,
    ) -> None:
        self.options = options or CalibrationOptions()
        self.asked = {name: Asked(o, Patience(o, uniform)) for name, o in sources.items()}
        self.meter = DriftMeter(drift, wander=self.options.wander)
        self.discipline = discipline or Discipline(self.options.discipline)
        self.selection: Selection | None = None
        self.problem = ""
        self._followed_ns: int | None = None

    # -- polling --------------------------------------------------------------

    def due(self, ruler_ns: int) -> list[str]:
        """Whom to ask now."""
        return [name for name, asked in self.asked.items()
                if not asked.patience.stopped and asked.patience.due_ns <= ruler_ns]

    def next_due_ns(self) -> int | None:
        """When somebody is to be asked next, by the ruler."""
        due = [a.patience.due_ns for a in self.asked.values() if not a.patience.stopped]
        return min(due, default=None)

    def ask_all(self) -> None:
        """Ask everybody at once: something jumped."""
        for asked in self.asked.values():
            asked.patience.hurry()

    def heard(self, name: str, sample: Sample, *, hint_s: float | None = None) -> None:
        """Take an answer."""
        asked = self.asked[name]
        asked.polls += 1
        asked.tries += 1
        asked.last_failure = ""
        asked.register.add(sample, self.meter.drift)
        asked.patience.asked(sample.ruler_ns, answered=True, hint_s=hint_s)

    def missed(
        self, name: str, reason: str, ruler_ns: int, *, hint_s: float | None = None
    ) -> None:
        """Note that there was no answer, or none that can be used."""
        asked = self.asked[name]
        asked.polls += 1
        asked.tries += 1
        asked.failures[reason] += 1
        asked.last_failure = reason
        asked.register.miss()
        asked.patience.asked(ruler_ns, answered=False, hint_s=hint_s)
        asked.patience.stopped |= reason in _NEVER_ASK and hint_s is None

    # -- judging --------------------------------------------------------------

    def judge(self, *, ruler_ns: int, wall_ns: int) -> Line | None:
        """Hold the vote at this reading of the ruler; the line to go by is returned.

        At first, and after a suspend, not before everybody had the chance to speak: of four
        sources the one that lies may be the first.
        """
        if any(asked.is_awaited for asked in self.asked.values()):
            return self.discipline.line
        drift = self.meter.drift
        seen = {name: a.register.estimate(ruler_ns, drift) for name, a in self.asked.items()}
        found = select(
            [self._candidate(name, estimate) for name, estimate in seen.items()],
            previous=self.selection, options=self.options.selection,
        )
        self.problem = found.problem
        if found.problem:
            self._keep_scores(found)
            return self.discipline.line
        if self.discipline.is_surprised(found, ruler_ns):
            self.meter.restart()
        self.selection = found
        self._followed_ns = ruler_ns
        drift = self.meter.add(Point(ruler_ns, found.unix_ns, found.bound_ns))
        return self.discipline.follow(found, drift, ruler_ns=ruler_ns, wall_ns=wall_ns)

    def _candidate(self, name: str, estimate: Estimate | None) -> Candidate:
        options = self.asked[name].options
        if estimate is None:
            return Candidate(name=name, options=options)
        return Candidate(
            name=name, unix_ns=estimate.unix_ns, distance_ns=estimate.distance_ns,
            jitter_ns=estimate.jitter_ns, stratum=estimate.sample.stratum, options=options,
        )

    def _keep_scores(self, failed: Selection) -> None:
        """Show the votes of a failed selection, and who was selected before it."""
        before = self.selection
        self.selection = failed
        if before is not None:
            self.selection = Selection(
                votes=failed.votes, problem=failed.problem, selected=before.selected,
                voters=failed.voters, liars=failed.liars, scores=before.scores,
            )

    def suspended(self, slept_ns: int) -> None:
        """The ruler stood still while true time went on."""
        for asked in self.asked.values():
            asked.register.forget()
            asked.patience.begin_again()
            asked.tries = 0
        self.meter.restart()
        self.discipline.widen(sleep_doubt_ns(slept_ns))
        self._followed_ns = None

    def holdover_ns(self, ruler_ns: int) -> int | None:
        """How long ago the line was last confirmed; ``None`` if it never was."""
        return None if self._followed_ns is None else ruler_ns - self._followed_ns

    def status(self, ruler_ns: int) -> str:
        """One word for what is not normal; empty when all is."""
        line = self.discipline.line
        if line is None:
            return "uncalibrated"
        if self.problem and self.problem != "no_source":
            return self.problem
        age_ns = self.holdover_ns(ruler_ns)
        if self.problem or age_ns is None or age_ns > self.options.holdover_ns:
            return "holdover"
        return "wide" if truth(line, ruler_ns)[1] > self.options.bound_max_ns else ""
