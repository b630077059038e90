"""Order, validation and resolution: functions of a set, however its events arrived."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from otel_memoir.stamping.event import StampedEvent
from otel_memoir.stamping.graph import components, topological
from otel_memoir.stamping.order import Rule, compare, total_order
from otel_memoir.stamping.reorder import Released, ReorderBuffer
from otel_memoir.stamping.resolution import Policy, Resolution, resolve
from otel_memoir.stamping.validation import (
    DIGESTS_KEPT_MAX,
    Finding,
    Gap,
    StreamValidator,
    Verdict,
    gaps_of,
    regressions_of,
)


def event(name: str, unix_ns: int, bound_ns: int | None = 0, **given_: Any) -> StampedEvent:
    """An event; its name is stream and sequence (``a1``), or stream, epoch and those (``a2.1``)."""
    epoch, _, sequence = name[1:].rpartition(".")
    return StampedEvent(**{
        "uid": name, "stream": name[0], "epoch": int(epoch or 1), "sequence": int(sequence),
        "unix_ns": unix_ns, "error_bound_ns": bound_ns, "digest": name, **given_,
    })


def names(events: Sequence[StampedEvent]) -> list[str]:
    """The uids, in order."""
    return [e.uid for e in events]


# -- two events ---------------------------------------------------------------


@pytest.mark.parametrize(("a", "b", "rule"), [
    (event("a1", 900), event("a2", 100), Rule.SEQUENCE),
    (event("a1.9", 900), event("a2.1", 100), Rule.EPOCH),
    (event("a1", 900), event("b1", 100, causes=("a1",)), Rule.CAUSE),
    (event("a1", 100, 10), event("b1", 121, 10), Rule.TIME),
    (event("a1", 100, 10), event("b1", 120, 10), Rule.CONCURRENT),
    (event("a1", 100, None), event("b1", 10**18, 0), Rule.CONCURRENT),
])
def test_the_first_rule_that_applies_decides(a: StampedEvent, b: StampedEvent, rule: Rule) -> None:
    """Sequence, epoch, cause, time; and the mirror image says the same."""
    there, back = compare(a, b), compare(b, a)
    assert (there.order, there.rule) == (-1, rule)
    assert (back.order, back.rule) == (1, rule)
    assert there.confidence == back.confidence
    assert (there.confidence < 1) is (rule is Rule.CONCURRENT)


def test_an_event_is_not_before_itself() -> None:
    """Nor is a copy of it."""
    assert compare(event("a1", 5), event("a1", 5)) == (0, Rule.SAME, 1.0)


def test_two_events_that_claim_each_other_as_cause_are_ordered_by_the_next_rule() -> None:
    """Neither can be believed."""
    a, b = event("a1", 1, causes=("b1",)), event("b1", 9, causes=("a1",))
    assert compare(a, b)[:2] == (-1, Rule.TIME)


@pytest.mark.parametrize(("bounds", "apart_ns", "confidence"), [
    ((100, 100), 0, 0.5), ((None, 5), 50, 0.5), ((0, 0), 0, 0.5), ((100, 0), 50, 0.8413),
    ((60, 80), 50, 0.8413),
])
def test_concurrent_events_have_a_confidence(
    bounds: tuple[int | None, int | None], apart_ns: int, confidence: float
) -> None:
    """That of two normal errors, with a bound as two standard deviations."""
    found = compare(event("a1", 1000, bounds[0]), event("b1", 1000 + apart_ns, bounds[1]))
    assert found.rule is Rule.CONCURRENT
    assert found.confidence == pytest.approx(confidence, abs=1e-4)


# -- sets of events -----------------------------------------------------------

EVENTS = st.builds(
    lambda stream, epoch, sequence, unix_ns, bound_ns, causes, digest, rank: StampedEvent(
        uid=f"{stream}{epoch}.{sequence}", stream=stream, epoch=epoch, sequence=sequence,
        unix_ns=unix_ns, error_bound_ns=bound_ns, causes=tuple(causes), digest=digest, rank=rank,
    ),
    st.sampled_from("abc"), st.integers(1, 2), st.integers(1, 6), st.integers(0, 60),
    st.none() | st.integers(0, 20),
    st.lists(st.builds(
        lambda s, e, n: f"{s}{e}.{n}", st.sampled_from("abc"), st.integers(1, 2), st.integers(1, 6)
    ), max_size=2),
    st.sampled_from(["x", "y", "z"]), st.integers(0, 2),
)
SETS = st.lists(EVENTS, max_size=14)
POLICIES = st.sampled_from(list(Policy))


def shuffled(events: Sequence[StampedEvent], seed: int) -> list[StampedEvent]:
    """The events in another order, some of them twice."""
    chance = random.Random(seed)
    mixed = [*events, *(e for e in events if chance.random() < 0.5)]
    chance.shuffle(mixed)
    return mixed


@given(SETS, POLICIES, st.integers())
def test_a_set_comes_to_the_same_in_every_order_and_with_every_copy(
    events: list[StampedEvent], policy: Policy, seed: int
) -> None:
    """Commutative and idempotent."""
    assert resolve(shuffled(events, seed), policy=policy) == resolve(events, policy=policy)


@given(SETS, SETS, SETS, POLICIES)
def test_parts_of_a_set_come_to_the_same_however_they_are_put_together(
    a: list[StampedEvent], b: list[StampedEvent], c: list[StampedEvent], policy: Policy
) -> None:
    """Associative, and a part that is in it already changes nothing."""
    one, other, third = (resolve(part, policy=policy) for part in (a, b, c))
    whole = resolve([*a, *b, *c], policy=policy)
    assert one.join(other).join(third) == one.join(other.join(third)) == whole
    assert third.join(other).join(one) == whole
    assert whole.join(other) == whole.join(whole) == whole


def by_arrival(events: list[StampedEvent]) -> list[StampedEvent]:
    """Order by time, and what is equal as it arrived: what a stable sort gives."""
    return sorted(dict.fromkeys(events), key=lambda e: e.unix_ns)


def test_breaking_ties_by_arrival_depends_on_the_arrival() -> None:
    """Negative control of the two tests above."""
    events = [event("a1", 5), event("b1", 5)]
    assert by_arrival(events) != by_arrival(events[::-1])


@given(SETS)
def test_the_order_never_contradicts_sequence_epoch_or_a_believed_cause(
    events: list[StampedEvent]
) -> None:
    """Whatever the times say, and whatever causes are claimed."""
    ordered = total_order(events)
    assert sorted(names(ordered.events)) == sorted(names(list(set(events))))
    place = {id(e): n for n, e in enumerate(ordered.events)}
    for a, b in combinations(ordered.events, 2):
        if a.stream == b.stream:
            assert (a.epoch, a.sequence) <= (b.epoch, b.sequence)
    for effect in ordered.events:
        for cause in ordered.events:
            if cause.uid in effect.causes and (effect, cause) not in ordered.dismissed:
                assert cause is effect or place[id(cause)] < place[id(effect)]


def histories() -> st.SearchStrategy[list[StampedEvent]]:
    """Events of a history that was: true times, honest bounds, strictly increasing stamps.

    A cause was before its effect, and a stamp is within its bound of true time.
    """
    step = st.tuples(
        st.sampled_from("abcd"), st.integers(1, 30), st.integers(-40, 40), st.integers(0, 25),
        st.lists(st.integers(0, 30), max_size=2), st.booleans(),
    )
    return st.lists(step, max_size=25).map(_as_history)


def _as_history(steps: list[tuple[str, int, int, int, list[int], bool]]) -> list[StampedEvent]:
    true_ns, last, counts, found = 1000, dict.fromkeys("abcd", 0), Counter[str](), []
    for stream, passed, error, slack, back, known in steps:
        true_ns += passed
        unix_ns = max(true_ns + error, last[stream] + 1)
        last[stream] = unix_ns
        counts[stream] += 1
        causes = {found[-b - 1].uid for b in back if b < len(found)}
        bound = abs(unix_ns - true_ns) + slack if known else None
        found.append(event(
            f"{stream}{counts[stream]}", unix_ns, bound, causes=tuple(sorted(causes)),
        ))
    return found


@given(histories(), st.integers())
def test_where_the_stamps_are_honest_no_rule_is_broken(
    history: list[StampedEvent], seed: int
) -> None:
    """Disjoint intervals included, though causes move events about; and nothing is dismissed."""
    ordered = total_order(shuffled(history, seed))
    assert ordered.dismissed == ()
    for a, b in combinations(ordered.events, 2):
        found = compare(a, b)
        assert found.order < 0 or found.rule is Rule.CONCURRENT, (a, b, found)


HONEST_BUT_HARD = [
    event("p1", 25, 12), event("a1", 16, 6, causes=("p1",)), event("b1", 24, 1),
]


@pytest.mark.parametrize("naive", [
    lambda events: sorted(events, key=lambda e: e.total_key),
    lambda events: sorted(events, key=lambda e: (max(
        [e.unix_ns, *(c.unix_ns + 1 for c in events if c.uid in e.causes)]
    ), e.total_key)),
], ids=["sort by time", "sort by time, pushed after the causes"])
def test_simpler_orders_break_a_rule_that_holds(
    naive: Callable[[list[StampedEvent]], list[StampedEvent]]
) -> None:
    """Negative control: p causes a, and a is before b for certain; p must come before both."""
    assert names(total_order(HONEST_BUT_HARD).events) == ["p1", "a1", "b1"]
    assert names(naive(HONEST_BUT_HARD)) != ["p1", "a1", "b1"]


def test_causes_that_go_in_a_circle_are_dismissed_all_of_them_and_no_others() -> None:
    """Through sequence numbers too: a1 is before a2, so it did not come of what a2 caused."""
    events = [
        event("a1", 10, causes=("b1",)), event("a2", 20), event("b1", 30, causes=("a2",)),
        event("c1", 5, causes=("b1",)),
    ]
    ordered = total_order(events)
    assert [(e.uid, c.uid) for e, c in ordered.dismissed] == [("a1", "b1"), ("b1", "a2")]
    assert names(ordered.events) == ["a1", "a2", "b1", "c1"]


def test_a_cause_that_is_not_there_and_a_cause_of_itself_say_nothing() -> None:
    """It may have been lost."""
    ordered = total_order([event("a1", 9, causes=("lost", "a1")), event("b1", 5)])
    assert names(ordered.events) == ["b1", "a1"] and ordered.dismissed == ()


@pytest.mark.parametrize(
    ("wrong_ns", "number"), [(10**19, 1), (10**19, 3), (0, 3), (0, 5), (550, 1)]
)
@pytest.mark.parametrize("bound_ns", [0, None])
def test_one_wrong_time_moves_one_event_and_not_its_stream(
    wrong_ns: int, number: int, bound_ns: int | None
) -> None:
    """A record of 1970, or of 2286: its neighbours tell where it belongs."""
    times = {n: wrong_ns if n == number else 100 * n for n in range(1, 6)}
    events = [event(f"a{n}", unix_ns, bound_ns) for n, unix_ns in times.items()]
    events += [event(f"b{n}", 100 * n + 50, bound_ns) for n in range(6)]
    found = names(total_order(events).events)
    at = found.index(f"a{number}")
    neighbours = (found[at - 1], f"a{number - 1}") if number > 1 else (found[at + 1], "a2")
    assert neighbours[0] == neighbours[1]
    found.remove(f"a{number}")
    assert found == [
        name for n in range(6) for name in (f"a{n}", f"b{n}") if name not in ("a0", f"a{number}")
    ]


def test_a_chain_of_causes_may_be_long() -> None:
    """No recursion."""
    events = [event(f"a{n}", 1, causes=(f"b{n - 1}",)) for n in range(1, 3000)]
    events += [event(f"b{n}", 1, causes=(f"a{n}",)) for n in range(1, 3000)]
    ordered = names(total_order(events).events)
    assert ordered[:4] == ["a1", "b1", "a2", "b2"] and len(ordered) == 5998


GRAPHS = st.lists(st.sets(st.integers(0, 7)), min_size=8, max_size=8)


@given(GRAPHS)
def test_two_nodes_share_a_component_if_each_is_before_the_other(before: list[set[int]]) -> None:
    """Against a plain search."""
    reach = [reachable(before, node) for node in range(8)]
    component = components(before)
    for a, b in combinations(range(8), 2):
        assert (component[a] == component[b]) is (a in reach[b] and b in reach[a])
    acyclic = [{b for b in found if component[b] != component[n]} for n, found in enumerate(before)]
    order = topological(acyclic)
    assert sorted(order) == list(range(8))
    assert all(order.index(b) < order.index(n) for n, found in enumerate(acyclic) for b in found)


def reachable(before: list[set[int]], node: int) -> set[int]:
    """All that is before a node."""
    found: set[int] = set()
    left = [node]
    while left:
        for other in before[left.pop()] - found:
            found.add(other)
            left.append(other)
    return found


# -- conflicts ----------------------------------------------------------------

CONTENDERS = [
    event("a1", 50, 5, uid="u1", digest="p", rank=3),
    event("a1", 60, 1, uid="u2", digest="q", rank=2),
    event("a1", 70, None, uid="u3", digest="r", rank=1),
]


@pytest.mark.parametrize(("policy", "stays"), [
    (Policy.KEEP_ALL, ["u1", "u2", "u3"]), (Policy.SMALLEST_BOUND, ["u2"]),
    (Policy.PRIORITY, ["u3"]), (Policy.FIRST_EPOCH, ["u1"]), (Policy.LAST_WRITER, ["u3"]),
])
def test_a_policy_says_which_of_two_records_with_one_number_stays(
    policy: Policy, stays: list[str]
) -> None:
    """The others are set aside, and the conflict is told."""
    found = resolve(CONTENDERS, policy=policy)
    assert names(found.events) == stays
    assert sorted(names(found.events) + names(found.set_aside)) == ["u1", "u2", "u3"]
    assert len(found.conflicts) == 1 and set(found.conflicts[0]) == set(CONTENDERS)
    assert names(found.conflicts[0])[0] == stays[0]


@pytest.mark.parametrize("policy", list(Policy))
def test_what_a_policy_cannot_tell_apart_the_digest_does(policy: Policy) -> None:
    """And nothing else is left to arrival."""
    twins = [event("a1", 50, uid=uid, digest=uid) for uid in ("v", "u")]
    assert names(resolve(twins, policy=policy).events)[0] == "u"


def test_the_subject_of_a_conflict_can_be_another_than_the_number() -> None:
    """Two processes changed one memory: the first epoch, or the last writer, has it."""
    events = [event("a2.7", 50, payload="m"), event("a1.3", 40), event("b1", 60, payload="n")]
    def memory(e: StampedEvent) -> str:
        return "n" if e.stream == "b" else "m"
    first = resolve(events, policy=Policy.FIRST_EPOCH, subject=memory)
    last = resolve(events, policy=Policy.LAST_WRITER, subject=memory)
    assert (names(first.events), names(last.events)) == (["a1.3", "b1"], ["a2.7", "b1"])
    assert [e.payload for e in last.events] == ["m", "n"]
    assert last.join(Resolution(events=())) == last


def test_copies_of_a_record_are_one() -> None:
    """The same number and digest; of two stamps the least stays."""
    copies = [event("a1", 50, 5), event("a1", 49, 5), event("a1", 50, 5)]
    found = resolve(copies)
    assert [e.unix_ns for e in found.events] == [49] and found.conflicts == ()


# -- validation ---------------------------------------------------------------

NUMBERS = st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 2), st.integers(1, 12)))


def numbered(numbers: list[tuple[str, int, int]]) -> list[StampedEvent]:
    """Events with these numbers, whose times increase with them."""
    return [event(f"{s}{e}.{n}", 100 * e + n) for s, e, n in numbers]


@given(NUMBERS, st.integers())
def test_gaps_are_the_complement_of_what_was_received(
    numbers: list[tuple[str, int, int]], seed: int
) -> None:
    """From the set, and from a stream of arrivals in any order."""
    events = shuffled(numbered(numbers), seed)
    validator = StreamValidator()
    for each in events:
        validator.check(each)
    there = {e.identity for e in events}
    highest = {line: max(n for *other, n in there if tuple(other) == line)
               for line in {identity[:2] for identity in there}}
    missing = {(*line, n) for line, top in highest.items() for n in range(1, top)} - there
    for gaps in (gaps_of(events), validator.gaps(), resolve(events).gaps):
        named = [(g.stream, g.epoch, n) for g in gaps for n in range(g.first, g.last + 1)]
        assert sorted(named) == sorted(missing)
        assert sum(g.missing for g in gaps) == len(missing)


def test_a_validator_that_forgets_a_late_number_names_too_many_gaps() -> None:
    """Negative control: gaps told when they open are not the complement."""
    validator, told = StreamValidator(), 0
    for each in numbered([("a", 1, 1), ("a", 1, 4), ("a", 1, 2), ("a", 1, 3)]):
        told += sum(finding.missing for finding in validator.check(each))
    assert told == 2 and validator.gaps() == ()


def checked(*events: StampedEvent, now_ns: int | None = None) -> list[list[str]]:
    """The verdicts on each of some events, in order of arrival."""
    validator = StreamValidator(offset_max_ns=50)
    return [[f.verdict.value for f in validator.check(e, now_ns=now_ns)] for e in events]


def test_each_verdict() -> None:
    """As each event arrives."""
    assert checked(event("a1", 1), event("a2", 2)) == [["ok"], ["ok"]]
    assert checked(event("a1", 1), event("a4", 4), event("a2", 2)) == [["ok"], ["gap"], ["late"]]
    assert checked(event("a1", 1), event("a1", 1)) == [["ok"], ["duplicate"]]
    assert checked(event("a1", 1), event("a1", 1, digest="other")) == [["ok"], ["conflict"]]
    assert checked(event("a1", 5), event("a2", 5)) == [["ok"], ["time_regression"]]
    assert checked(event("a2.1", 5), event("a1.1", 6)) == [["ok"], ["stale_epoch"]]
    assert checked(event("a1", 151), now_ns=100) == [["future"]]
    assert checked(event("a1", 150), now_ns=100) == [["ok"]]
    assert checked(event("a2.1", 9), event("a1.2", 6)) == [["ok"], ["gap", "stale_epoch"]]


def test_a_gap_says_how_many_are_missing() -> None:
    """Between the highest number and the new one."""
    validator = StreamValidator()
    assert validator.check(event("a5", 5)) == (Finding(Verdict.GAP, 4),)
    validator.check(event("a3", 3))
    assert validator.gaps() == (Gap("a", 1, 1, 2), Gap("a", 1, 4, 4))
    validator.forget("a")
    assert validator.gaps() == ()


def test_what_a_validator_keeps_of_a_stream_is_bounded() -> None:
    """A copy of what is too long ago is taken for one, whatever its digest."""
    validator = StreamValidator()
    for number in range(1, DIGESTS_KEPT_MAX + 2):
        validator.check(event(f"a{number}", number))
    verdicts = [
        validator.check(event(f"a{number}", 5, digest="other"))[0].verdict for number in (1, 3)
    ]
    assert verdicts == [Verdict.DUPLICATE, Verdict.CONFLICT]


@given(SETS)
def test_regressions_are_those_not_later_than_all_before_them(events: list[StampedEvent]) -> None:
    """Against a plain search, for sets without conflicts."""
    assume(len({e.identity for e in events}) == len(set(events)))
    expected = [
        e for e in set(events) if any(
            o.stream == e.stream and o.epoch == e.epoch and o.sequence < e.sequence
            and o.unix_ns >= e.unix_ns for o in events
        )
    ]
    assert sorted(names(regressions_of(events))) == sorted(names(expected))


# -- the buffer ---------------------------------------------------------------


def passed_through(buffer: ReorderBuffer, arrivals: list[tuple[int, StampedEvent]]) -> list[
    Released
]:
    """What a buffer lets go of some arrivals, to the end."""
    released: list[Released] = []
    for now_ns, each in arrivals:
        released += buffer.push(each, now_ns=now_ns)
    return released + buffer.flush()


ARRIVALS = st.lists(st.tuples(st.integers(0, 40), EVENTS), max_size=30).map(
    lambda pairs: [(sum(d for d, _ in pairs[: n + 1]), e) for n, (_, e) in enumerate(pairs)]
)


@given(ARRIVALS, st.integers(1, 6), st.integers(0, 100), st.integers(0, 100))
def test_what_is_not_marked_is_never_earlier_than_what_went_before(
    arrivals: list[tuple[int, StampedEvent]], most: int, hold_ns: int, idle_ns: int
) -> None:
    """Whatever arrives; nothing is lost or made up, and no more is held than may be."""
    buffer, released = ReorderBuffer(events_max=most, hold_ns=hold_ns, idle_ns=idle_ns), []
    for now_ns, each in arrivals:
        released += buffer.push(each, now_ns=now_ns)
        assert len(buffer) <= most
    released += buffer.flush()
    assert Counter(r.event for r in released) == Counter(e for _, e in arrivals)
    for n, later in enumerate(released):
        if not later.reorder_forced:
            assert all(r.event.total_key <= later.event.total_key for r in released[:n])


@given(st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 9)), max_size=30))
def test_streams_that_arrive_each_in_order_come_out_in_order_and_unmarked(
    steps: list[tuple[str, int]]
) -> None:
    """However they are interleaved, from when both are known, with bounds of their own."""
    bounds, clocks, counts = {"a": 2, "b": 5}, {"a": 100, "b": 100}, {"a": 1, "b": 1}
    arrivals = [(0, event("a1", 1, 2)), (0, event("b1", 1, 5))]
    for stream, passed in steps:
        clocks[stream] += passed
        counts[stream] += 1
        arrivals.append((0, event(f"{stream}{counts[stream]}", clocks[stream], bounds[stream])))
    released = passed_through(ReorderBuffer(), arrivals)[2:]
    assert not any(r.reorder_forced for r in released)
    assert [r.event for r in released] == sorted(
        (e for _, e in arrivals[2:]), key=lambda e: e.total_key
    )


def test_an_event_waits_for_the_other_streams_until_they_are_idle() -> None:
    """The watermark is that of the slowest live one."""
    buffer = ReorderBuffer(hold_ns=10**6, idle_ns=100)
    buffer.push(event("b1", 10), now_ns=0)
    assert buffer.push(event("a1", 50), now_ns=1) == []
    assert buffer.push(event("b2", 20), now_ns=2) == [(event("b2", 20), False)]
    assert buffer.tick(now_ns=60) == []
    assert buffer.tick(now_ns=103) == [(event("a1", 50), False)]
    assert buffer.push(event("b3", 30), now_ns=104) == [(event("b3", 30), True)]


def test_a_late_event_does_not_take_its_stream_back() -> None:
    """The stream is past its latest time, whatever comes of it after."""
    buffer = ReorderBuffer(hold_ns=10**6, idle_ns=10**6)
    buffer.push(event("b1", 10), now_ns=0)
    assert buffer.push(event("a2", 100), now_ns=0) == []
    assert buffer.push(event("a1", 20), now_ns=0) == []
    assert names([r.event for r in buffer.push(event("b2", 60), now_ns=0)]) == ["a1", "b2"]


def test_what_is_held_too_long_or_too_much_goes_marked() -> None:
    """The earliest first."""
    buffer = ReorderBuffer(events_max=2, hold_ns=50, idle_ns=10**6)
    buffer.push(event("b1", 10), now_ns=0)
    held = [buffer.push(event(f"a{n}", 100 * n), now_ns=n) for n in (1, 2, 3)]
    assert held == [[], [], [(event("a1", 100), True)]]
    assert buffer.tick(now_ns=53) == [(event("a2", 200), True)]
    assert buffer.tick(now_ns=54) == [(event("a3", 300), True)]


def test_a_buffer_of_one_stream_keeps_nothing_of_what_has_gone() -> None:
    """Each goes at once; a day of them takes no memory."""
    buffer = ReorderBuffer()
    for number in range(1, 1000):
        assert len(buffer.push(event(f"a{number}", number), now_ns=number)) == 1
    assert not buffer._arrived and not buffer._gone
