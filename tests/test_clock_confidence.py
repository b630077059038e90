"""How much to trust a source, and why."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clock_host import MS, NOW_NS
from otel_memoir.clock.confidence import factors, overall
from otel_memoir.clock.selection import Candidate, select

spans = st.integers(0, 10**10)
votes = st.sampled_from([
    "selected", "survivor", "outlier", "voter", "falseticker", "unreachable", "noselect", "too_far",
])


def score(
    vote: str = "selected", *, distance: int = MS, jitter: int = 0, reach: int = 255
) -> float:
    """The score of a source like this."""
    return factors(vote, distance_ns=distance, jitter_ns=jitter, reach=reach).score


@given(votes, spans, spans, st.integers(0, 255))
def test_a_score_is_between_none_and_full(vote: str, near: int, steady: int, reach: int) -> None:
    """Whatever is said."""
    assert 0.0 <= score(vote, distance=near, jitter=steady, reach=reach) <= 1.0


@given(spans, spans, spans)
def test_it_never_grows_with_distance_jitter_or_misses(one: int, other: int, rest: int) -> None:
    """And so not with age, which makes a sample more distant."""
    low, high = sorted((one, other))
    assert score(distance=high, jitter=rest) <= score(distance=low, jitter=rest)
    assert score(distance=rest, jitter=high) <= score(distance=rest, jitter=low)
    assert score(reach=0b1101) <= score(reach=0b1111)


def test_a_falseticker_has_none_and_one_alone_at_most_half() -> None:
    """Nobody could contradict it."""
    assert score("falseticker") == score("unreachable") == score("noselect") == 0.0
    alone = factors(
        "selected", distance_ns=0, jitter_ns=0, reach=255, authenticated=True, alone=True
    )
    assert alone.score == 0.5
    assert alone.authentic == 1.0


def in_result(candidates: list[Candidate]) -> float:
    """The confidence in the result of a vote among sources that always answer."""
    found = select(candidates)
    chimers = ("selected", "survivor", "outlier")
    scores = [
        factors(found.votes[c.name], distance_ns=c.distance_ns, jitter_ns=c.jitter_ns, reach=255,
                alone=found.voters < 2).score
        for c in candidates if found.votes[c.name] in chimers
    ]
    return overall(scores, voters=found.voters, liars=found.liars)


candidates = st.lists(
    st.tuples(st.integers(-50 * MS, 50 * MS), st.integers(1, 60 * MS)), min_size=1, max_size=5
).map(lambda said: [
    Candidate(name=f"s{n}", unix_ns=NOW_NS + o, distance_ns=d) for n, (o, d) in enumerate(said)
])


@given(candidates, st.randoms(use_true_random=False))
def test_the_order_of_the_sources_does_not_matter(said: list[Candidate], noise: object) -> None:
    """As for the selection."""
    shuffled = list(said)
    noise.shuffle(shuffled)  # type: ignore[attr-defined]
    assert in_result(shuffled) == in_result(said)


@given(candidates)
def test_another_source_that_agrees_never_lowers_it(said: list[Candidate]) -> None:
    """One whose interval contains the result."""
    found = select(said)
    if found.problem:
        return
    half_ns = (found.high_ns - found.low_ns) // 2 + 1
    more = Candidate(name="more", unix_ns=(found.low_ns + found.high_ns) // 2, distance_ns=half_ns)
    assert in_result([*said, more]) >= in_result(said)


def test_each_vote_against_the_result_lowers_it() -> None:
    """One of four outvoted leaves three quarters."""
    assert overall([0.8], voters=4, liars=0) == 0.8
    assert overall([0.8], voters=4, liars=1) == 0.8 * 0.75
    assert overall([], voters=0, liars=0) == 0.0
