"""Whom to believe."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.selection import (
    Candidate,
    Selection,
    SelectionOptions,
    covered,
    intersection,
    select,
)

MS = 10**6
NOW_NS = 1_800_000_000 * 10**9

offsets = st.integers(-50 * MS, 50 * MS)
distances = st.integers(0, 60 * MS)
flags = st.builds(
    SourceOptions, prefer=st.booleans(), require=st.booleans(), trust=st.booleans(),
    noselect=st.booleans(),
)


def candidate(name: str, offset_ns: int = 0, distance_ns: int = MS, **given: object) -> Candidate:
    """A source that says this."""
    return Candidate(
        name=name, unix_ns=NOW_NS + offset_ns, distance_ns=distance_ns, **given  # type: ignore[arg-type]
    )


@st.composite
def any_candidates(draw: st.DrawFn) -> list[Candidate]:
    """Sources that say anything, with any options."""
    count = draw(st.integers(0, 7))
    return [
        Candidate(
            name=f"s{number}", distance_ns=draw(distances), jitter_ns=draw(distances),
            unix_ns=draw(st.none() | offsets.map(lambda o: NOW_NS + o)),
            stratum=draw(st.none() | st.integers(1, 5)), options=draw(flags),
        )
        for number in range(count)
    ]


@st.composite
def honest_and_liars(draw: st.DrawFn) -> tuple[list[Candidate], list[Candidate]]:
    """More honest sources than liars. The honest ones hold ``NOW_NS`` in their intervals."""
    liars = draw(st.integers(0, 3))
    honest = draw(st.integers(liars + 1, liars + 4))
    truthful = []
    for number in range(honest):
        distance_ns = draw(st.integers(0, 60 * MS))
        offset_ns = draw(st.integers(-distance_ns, distance_ns))
        truthful.append(candidate(f"h{number}", offset_ns, distance_ns))
    lying = [candidate(f"l{number}", draw(offsets), draw(distances)) for number in range(liars)]
    return truthful, lying


@given(any_candidates(), st.randoms(use_true_random=False))
def test_the_order_of_the_sources_does_not_matter(
    candidates: list[Candidate], noise: random.Random
) -> None:
    """Also not for the selection that follows it."""
    shuffled = list(candidates)
    noise.shuffle(shuffled)
    first = select(candidates)
    assert first == select(shuffled)
    assert select(candidates, previous=first) == select(shuffled, previous=first)


@given(honest_and_liars())
def test_true_time_is_in_the_result_while_fewer_than_half_lie(
    everyone: tuple[list[Candidate], list[Candidate]],
) -> None:
    """And there is always a result: the honest ones are a majority that meets."""
    honest, lying = everyone
    found = select([*honest, *lying])
    assert found.problem == ""
    assert found.low_ns <= NOW_NS <= found.high_ns
    assert abs(NOW_NS - found.unix_ns) <= found.bound_ns


@given(honest_and_liars())
def test_no_minority_moves_the_result_outside_what_the_honest_allow(
    everyone: tuple[list[Candidate], list[Candidate]],
) -> None:
    """Wherever they say it is, and whatever the weights are."""
    honest, lying = everyone
    found = select([*honest, *lying])
    floor_ns = min(c.unix_ns - max(c.distance_ns, MS) for c in honest)
    ceiling_ns = max(c.unix_ns + max(c.distance_ns, MS) for c in honest)
    assert floor_ns <= found.low_ns <= found.unix_ns <= found.high_ns <= ceiling_ns


def test_a_majority_of_liars_moves_it() -> None:
    """Negative control: with two of three."""
    found = select([candidate("h"), candidate("l1", 90 * MS), candidate("l2", 90 * MS)])
    assert found.votes["h"] == "falseticker"
    assert not found.low_ns <= NOW_NS <= found.high_ns


def test_five_servers_with_two_falsetickers_and_exact_distances() -> None:
    """0, +0.3, -0.2, +50 and +400 ms, measured with real chronyd at 36 to 84 µs."""
    said = {"a": 0, "b": 300_000, "c": -200_000, "d": 50 * MS, "e": 400 * MS}
    them = [candidate(name, offset_ns, 60_000) for name, offset_ns in said.items()]
    votes = select(them).votes
    assert {name for name, vote in votes.items() if vote == "falseticker"} == {"d", "e"}
    as_they_say = SelectionOptions(distance_min_ns=0)
    assert select(them, options=as_they_say).problem == "no_majority"


def test_two_sources_that_disagree_are_no_majority_whatever_is_preferred() -> None:
    """Priority ranks those that agree; it never decides who is right."""
    they = [candidate("a", options=SourceOptions(prefer=True)), candidate("b", 90 * MS)]
    assert select(they).problem == "no_majority"


def test_a_trusted_source_outvotes_any_number_but_not_another_trusted_one() -> None:
    """As chrony's `trust`."""
    trusted, crowd = SourceOptions(trust=True), [candidate(f"c{n}", 90 * MS) for n in range(4)]
    found = select([candidate("t", options=trusted), *crowd])
    assert found.selected == "t"
    assert abs(found.unix_ns - NOW_NS) <= MS
    both = [candidate("t", options=trusted), candidate("u", 90 * MS, options=trusted)]
    assert select([*both, *crowd]).problem == "no_majority"


def test_without_a_required_source_nothing_is_selected() -> None:
    """Neither when it is away nor when it is a falseticker."""
    required, crowd = SourceOptions(require=True), [candidate(f"c{n}") for n in range(4)]
    assert select([candidate("r", options=required), *crowd]).problem == ""
    away = Candidate(name="r", options=required)
    assert select([away, *crowd]).problem == "required_missing"
    lying = candidate("r", 90 * MS, options=required)
    assert select([lying, *crowd]).problem == "required_missing"


def test_a_source_that_may_not_be_selected_is_heard_when_it_contradicts() -> None:
    """It has no vote."""
    ignored = SourceOptions(noselect=True)
    found = select([candidate("a"), candidate("n", 90 * MS, options=ignored)])
    assert (found.selected, found.contradicted_by) == ("a", ("n",))
    assert found.votes["n"] == "noselect"
    assert select([candidate("n", options=ignored)]).problem == "no_source"


def test_of_sources_that_agree_the_preferred_one_is_taken() -> None:
    """Even when another is nearer."""
    they = [candidate("near"), candidate("far", distance_ns=9 * MS)]
    assert select(they).selected == "near"
    they[1] = replace(they[1], options=SourceOptions(prefer=True))
    assert select(they).selected == "far"


@pytest.mark.parametrize(
    ("options", "problem"),
    [(SelectionOptions(sources_min=3), "too_few_sources"),
     (SelectionOptions(distance_max_ns=MS // 2), "no_source"),
     (SelectionOptions(jitter_max_ns=0), "no_source"),
     (SelectionOptions(), "")],
)
def test_limits_are_kept(options: SelectionOptions, problem: str) -> None:
    """Least sources, most distance, most jitter."""
    they = [candidate("a", jitter_ns=1), candidate("b", jitter_ns=1)]
    assert select(they, options=options).problem == problem


def selections(candidates: list[Candidate], count: int, first: Selection) -> list[str]:
    """Whom so many selections in a row prefer."""
    found, names = first, []
    for _ in range(count):
        found = select(candidates, previous=found)
        names.append(found.selected)
    return names


def test_a_slightly_better_source_does_not_take_over_at_once() -> None:
    """Only when it has been better, as a product, by a factor of ten (chrony)."""
    first = select([candidate("a", distance_ns=3 * MS), candidate("b", distance_ns=4 * MS)])
    they = [candidate("a", distance_ns=6 * MS), candidate("b", distance_ns=4 * MS)]
    names = selections(they, 12, first)
    assert names[0] == "a"
    assert names[-1] == "b"


def test_a_source_that_is_hardly_better_never_takes_over() -> None:
    """Two that take turns do not make the selection flap."""
    first = select([candidate("a", distance_ns=3 * MS), candidate("b", distance_ns=4 * MS)])
    they = [candidate("a", distance_ns=4 * MS), candidate("b", distance_ns=4 * MS - 50_000)]
    assert set(selections(they, 100, first)) == {"a"}


def test_clustering_leaves_out_the_one_that_is_furthest_from_the_rest() -> None:
    """It agrees and is no falseticker; it is only not in the mean."""
    they = [candidate(f"c{n}", n * 100_000, 30 * MS) for n in range(4)]
    found = select([*they, candidate("o", 25 * MS, 30 * MS)])
    assert found.votes["o"] == "outlier"
    assert abs(found.unix_ns - NOW_NS) < MS


@given(st.lists(st.tuples(offsets, distances), min_size=1, max_size=6), st.integers(1, 6))
def test_what_is_covered_is_found_at_the_edges(said: list[tuple[int, int]], depth: int) -> None:
    """Against counting at every edge."""
    intervals = [(o - d, o + d) for o, d in said]
    deep = [x for edges in intervals for x in edges
            if sum(low <= x <= high for low, high in intervals) >= depth]
    assert covered(intervals, depth) == ((min(deep), max(deep)) if deep else None)


def test_the_intersection_is_where_most_meet() -> None:
    """RFC 5905, without the rule of the midpoints."""
    assert intersection([(0, 10), (5, 15), (8, 9)]) == (8, 9)
    assert intersection([(0, 10), (5, 15), (90, 99)]) == (5, 10)
    assert intersection([(0, 10), (90, 99)]) is None
    assert intersection([]) is None
