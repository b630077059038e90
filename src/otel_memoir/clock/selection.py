"""Whom to believe: RFC 5905 section 11.2, with chrony's options and hysteresis.

A pure function of what the sources say and of the last selection. Promises:

- While fewer than half of the voters lie, true time lies in ``[low_ns, high_ns]``: these
  hold every point that a majority of the voters' intervals contain, and true time is in
  the interval of every honest one.
- While fewer than half lie, no liar moves the result outside what the honest ones allow:
  each end is in the interval of an honest voter.
- The order in which sources are given does not matter.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from otel_memoir.clock.options import DEFAULT_OPTIONS, SourceOptions

SCORE_MAX = 10.0
"""How clearly, as a product over selections, another must be better (chrony SCORE_LIMIT)."""

STRATUM_NS = 1_000_000
RESELECT_NS = 100_000
_COMBINE_RATIO = 3
_WEIGHT = 10**24


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """What a source says of one moment; ``None`` where it says nothing."""

    name: str
    unix_ns: int | None = None
    distance_ns: int = 0
    jitter_ns: int = 0
    stratum: int | None = None
    options: SourceOptions = DEFAULT_OPTIONS


@dataclass(frozen=True, slots=True, kw_only=True)
class SelectionOptions:
    """When a source may vote and when a vote counts.

    Attributes:
        distance_min_ns: Least distance that a source is taken to have. Servers on loopback
            claim 36 to 84 µs; five of them then had no two intervals in common.

        distance_max_ns: A source further away says nothing.

        jitter_max_ns: A source that jumps about more says nothing.

        sources_min: Least sources that must agree.

        survivors_min: Clustering leaves this many.
    """

    distance_min_ns: int = 1_000_000
    distance_max_ns: int = 10**9
    jitter_max_ns: int = 10**9
    sources_min: int = 1
    survivors_min: int = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The outcome of one vote.

    Attributes:
        votes: What became of each source: ``selected``, ``survivor``, ``outlier``,
            ``falseticker``, ``unreachable``, ``too_far``, ``jittery`` or ``noselect``; when
            nothing was selected, ``voter`` for those that could have been.

        problem: Why nothing was selected, in one word; empty when something was.

        selected: The source in whose favour it went; the combination starts from it.

        unix_ns: The combined time.

        low_ns: True time is not before this while fewer than half of the voters lie.

        high_ns: Nor after this.

        voters: How many votes counted.

        liars: How many of them were outvoted.

        contradicted_by: Sources with ``noselect`` that say otherwise.

        scores: For the next selection.
    """

    votes: Mapping[str, str]
    problem: str = ""
    selected: str = ""
    unix_ns: int = 0
    low_ns: int = 0
    high_ns: int = 0
    voters: int = 0
    liars: int = 0
    contradicted_by: tuple[str, ...] = ()
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def bound_ns(self) -> int:
        """How far true time can be from ``unix_ns``."""
        return max(self.high_ns - self.unix_ns, self.unix_ns - self.low_ns)


Interval = tuple[int, int]


def select(
    candidates: Iterable[Candidate],
    *,
    previous: Selection | None = None,
    options: SelectionOptions | None = None,
) -> Selection:
    """Hold the vote. Pure: the same for every order of the candidates."""
    options = options or SelectionOptions()
    ordered = sorted(candidates, key=lambda c: c.name)
    votes = {c.name: _unfit(c, options) for c in ordered}
    able = [_at_least(c, options) for c in ordered if not votes[c.name]]
    # Whom a person trusts outvotes the others, but not another of their kind.
    voters = [c for c in able if c.options.trust] or able
    agreed = intersection([_interval(c) for c in voters])
    if agreed is None:
        return _nothing(votes, "no_majority" if voters else "no_source", len(voters))
    chimers = [c for c in able if _overlap(_interval(c), agreed)]
    problem = _too_few(chimers, ordered, options)
    liars = len([c for c in voters if c not in chimers])
    votes.update({c.name: "falseticker" for c in able if c not in chimers})
    if problem:
        return _nothing(votes, problem, len(voters), liars)
    return _decide(chimers, voters, votes, ordered, liars, previous, options)


def intersection(intervals: Sequence[Interval]) -> Interval | None:
    """Where the most voters meet, if these are more than half.

    RFC 5905 also wants the midpoints of all but ``f`` in it. As in ntpd-rs they do not count
    here: a coarse source around a fine one is right, and of two would leave no majority.
    """
    total = len(intervals)
    for liars in range((total + 1) // 2):
        found = covered(intervals, total - liars)
        if found is not None:
            return found
    return None


def covered(intervals: Iterable[Interval], depth: int) -> Interval | None:
    """The smallest interval with every point that at least ``depth`` of them contain."""
    edges = sorted(edge for low, high in intervals for edge in ((low, 0), (high, 1)))
    low = high = None
    count = 0
    for at, closes in edges:
        if closes:
            high = at if count >= depth else high
            count -= 1
        else:
            count += 1
            low = at if low is None and count >= depth else low
    return None if low is None or high is None else (low, high)


def _decide(
    chimers: Sequence[Candidate], voters: Sequence[Candidate], votes: dict[str, str],
    everyone: Sequence[Candidate], liars: int, previous: Selection | None,
    options: SelectionOptions,
) -> Selection:
    majority = covered([_interval(c) for c in voters], len(voters) // 2 + 1)
    assert majority is not None  # where most of them meet, a majority does
    low_ns, high_ns = majority
    kept = cluster(chimers, options)
    votes.update({c.name: "survivor" if c in kept else "outlier" for c in chimers})
    ranked = [c for c in kept if c.options.prefer] or kept
    chosen, scores = _choose(ranked, previous)
    votes[chosen.name] = "selected"
    unix_ns = min(high_ns, max(low_ns, combine(ranked, chosen)))
    others = tuple(c.name for c in everyone if _contradicts(c, majority, options))
    return Selection(
        votes=votes, selected=chosen.name, unix_ns=unix_ns, low_ns=low_ns, high_ns=high_ns,
        voters=len(voters), liars=liars, contradicted_by=others, scores=scores,
    )


def cluster(chimers: Sequence[Candidate], options: SelectionOptions) -> list[Candidate]:
    """Leave out, one by one, those that are furthest from the rest.

    Differences below the jitter of the steadiest source, or below the least distance,
    mean nothing. A preferred source stays.
    """
    kept = list(chimers)
    while len(kept) > options.survivors_min:
        steady_ns = max(min(c.jitter_ns for c in kept), options.distance_min_ns)
        loose = [c for c in kept if not c.options.prefer]
        worst = max(loose, key=lambda c: (_spread_ns(c, kept), c.name), default=None)
        if worst is None or _spread_ns(worst, kept) <= steady_ns:
            break
        kept.remove(worst)
    return kept


def combine(kept: Sequence[Candidate], chosen: Candidate) -> int:
    """The mean of the survivors that are about as near as the chosen one, by 1/distance."""
    near = [c for c in kept if c.distance_ns <= _COMBINE_RATIO * chosen.distance_ns]
    weights = [_WEIGHT // c.distance_ns for c in near]
    base_ns = _time(chosen)
    pull = sum(w * (_time(c) - base_ns) for w, c in zip(weights, near))
    return base_ns + pull // sum(weights)


def _choose(
    kept: Sequence[Candidate], previous: Selection | None
) -> tuple[Candidate, dict[str, float]]:
    """The best, unless the one before it is not clearly worse."""
    rank = {c.name: c.distance_ns + STRATUM_NS * (c.stratum or 0) for c in kept}
    best = min(kept, key=lambda c: (rank[c.name], c.name))
    current = next((c for c in kept if previous and c.name == previous.selected), None)
    if current is None or previous is None:
        return best, {}
    scores = {
        c.name: max(1.0, previous.scores.get(c.name, 1.0)
                    * rank[current.name] / (rank[c.name] + RESELECT_NS))
        for c in kept if c is not current
    }
    rival = max(scores, key=lambda name: (scores[name], name), default="")
    if rival and scores[rival] > SCORE_MAX:
        return next(c for c in kept if c.name == rival), {}
    return current, scores


def _nothing(
    votes: Mapping[str, str], problem: str, voters: int = 0, liars: int = 0
) -> Selection:
    words = {name: vote or "voter" for name, vote in votes.items()}
    return Selection(votes=words, problem=problem, voters=voters, liars=liars)


def _unfit(candidate: Candidate, options: SelectionOptions) -> str:
    if candidate.unix_ns is None:
        return "unreachable"
    if candidate.options.noselect:
        return "noselect"
    if candidate.distance_ns > options.distance_max_ns:
        return "too_far"
    return "jittery" if candidate.jitter_ns > options.jitter_max_ns else ""


def _too_few(
    chimers: Sequence[Candidate], everyone: Sequence[Candidate], options: SelectionOptions
) -> str:
    if len(chimers) < options.sources_min:
        return "too_few_sources"
    required = any(c.options.require for c in everyone)
    if required and not any(c.options.require for c in chimers):
        return "required_missing"
    return ""


def _contradicts(candidate: Candidate, agreed: Interval, options: SelectionOptions) -> bool:
    if candidate.unix_ns is None or not candidate.options.noselect:
        return False
    return not _overlap(_interval(_at_least(candidate, options)), agreed)


def _at_least(candidate: Candidate, options: SelectionOptions) -> Candidate:
    return replace(
        candidate, distance_ns=max(candidate.distance_ns, options.distance_min_ns, 1)
    )


def _spread_ns(candidate: Candidate, kept: Sequence[Candidate]) -> float:
    off = math.fsum(float(_time(c) - _time(candidate)) ** 2 for c in kept)
    return math.sqrt(off / (len(kept) - 1))


def _overlap(one: Interval, other: Interval) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


def _interval(candidate: Candidate) -> Interval:
    unix_ns = _time(candidate)
    return unix_ns - candidate.distance_ns, unix_ns + candidate.distance_ns


def _time(candidate: Candidate) -> int:
    assert candidate.unix_ns is not None
    return candidate.unix_ns
