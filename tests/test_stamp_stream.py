"""Stamps of the durable path: what is written, and what several streams of a process share."""

from __future__ import annotations

import sys
import threading
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as ProtoLogRecord

from otel_memoir.clock import Reading
from otel_memoir.delivery.encoding import StampTemplate
from otel_memoir.spool import Draft, Stream
from otel_memoir.spool.model import Stamper
from otel_memoir.stamping import HybridClock, new_uid, stream_stamper
from otel_memoir.stamping.readers import event_of

NOON = 1_764_000_000 * 10**9


class Dial:
    """A clock that shows what it is set to."""

    def __init__(self, unix_ns: int = NOON, bound_ns: int | None = 1000) -> None:
        self.unix_ns, self.bound_ns, self.status, self.epoch = unix_ns, bound_ns, "", 0

    def read(self) -> Reading:
        """Look at it."""
        return self.unix_ns, self.bound_ns


def stamper_of(clock: Any, hybrid: HybridClock | None = None, name: str = "s") -> Stamper:
    """What stamps the records of a stream."""
    return stream_stamper(
        Stream(name, 1), clock=clock, hybrid=hybrid,
        make_suffix=lambda s: StampTemplate(s.stream_id, s.epoch).suffix,
    )


def draft(*, timed: bool = False) -> Draft:
    """A record on its way in."""
    return Draft(b"", b"", 0, new_uid(), timed)


def stamped(stamp: Stamper, sequence: int, *, timed: bool = False) -> ProtoLogRecord:
    """The stamps of a record, as a receiver reads them."""
    return ProtoLogRecord.FromString(stamp(draft(timed=timed), sequence)[0])


def status_of(log: ProtoLogRecord) -> list[str]:
    """The clock's status, if it is there."""
    return [e.value.string_value for e in log.attributes if e.key == "memoir.clock.status"]


def test_the_status_is_written_as_long_as_it_is_not_normal() -> None:
    """And not when all is well."""
    clock = Dial()
    stamp = stamper_of(clock)
    found = []
    for number, status in enumerate(["", "uncalibrated", "holdover", ""], 1):
        clock.status = status
        found.append(status_of(stamped(stamp, number)))
    assert found == [[], ["uncalibrated"], ["holdover"], []]


def test_a_clock_that_says_nothing_of_itself_is_well() -> None:
    """An application's own clock has only to tell the time."""

    class Plain:
        def read(self) -> Reading:
            return NOON, None

    event = event_of(stamped(stamper_of(Plain()), 1))
    assert event is not None and (event.unix_ns, event.error_bound_ns) == (NOON, None)


def test_the_bound_contains_how_far_the_stamp_leads_the_clock() -> None:
    """Stood still, stepped back, merged: true time stays inside."""
    clock, hybrid = Dial(), HybridClock()
    stamp = stamper_of(clock, hybrid)
    stamped(stamp, 1)
    clock.unix_ns -= 500
    hybrid.merge(NOON + 10_000, None, clock.unix_ns)
    event = event_of(stamped(stamp, 2))
    assert event is not None and event.unix_ns == NOON + 10_001
    assert event.error_bound_ns == 1000 + event.unix_ns - clock.unix_ns


def test_a_record_with_a_time_of_its_own_keeps_it_and_still_counts() -> None:
    """Its stamp has a time in the row, which the next one is later than."""
    stamp = stamper_of(Dial())
    assert stamped(stamp, 1, timed=True).time_unix_nano == 0
    assert stamp(draft(), 2)[1] == NOON + 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-50, 50), st.integers(-50, 200))))
def test_all_times_of_a_process_increase_over_streams_steps_and_merges(
    steps: list[tuple[int, int, int]]
) -> None:
    """In the order in which they were taken."""
    clock, hybrid = Dial(), HybridClock()
    stampers = [stamper_of(clock, hybrid, str(n)) for n in range(3)]
    taken = []
    for number, (which, moved_ns, ahead_ns) in enumerate(steps, 1):
        clock.unix_ns += moved_ns
        remote_ns = clock.unix_ns + ahead_ns
        hybrid.merge(remote_ns, None, clock.unix_ns)
        taken.append(stampers[which](draft(), number)[1])
        assert taken[-1] > remote_ns
    assert all(earlier < later for earlier, later in pairwise(taken))


def test_streams_that_share_nothing_may_give_an_effect_an_earlier_time() -> None:
    """Negative control: a step back between two streams of one process."""
    clock = Dial()
    first, second = stamper_of(clock), stamper_of(clock)
    cause = first(draft(), 1)[1]
    clock.unix_ns -= 1
    assert second(draft(), 1)[1] < cause


def test_streams_of_several_threads_never_share_a_time() -> None:
    """Each under its own append lock, with no lock between them."""
    hybrid, taken = HybridClock(), [list[int]() for _ in range(6)]

    def work(mine: list[int], name: str) -> None:
        stamp = stamper_of(Dial(), hybrid, name)
        mine += [stamp(draft(), number)[1] for number in range(1, 2001)]

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        threads = [
            threading.Thread(target=work, args=(mine, str(n))) for n, mine in enumerate(taken)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60.0)
    finally:
        sys.setswitchinterval(interval)
    assert all(mine == sorted(mine) for mine in taken)
    assert sorted(t for mine in taken for t in mine) == list(range(NOON, NOON + 12_000))


def test_a_stream_keeps_from_going_back_until_its_owner_begins_an_epoch_of_it() -> None:
    """Though the clock says that it did; a new stamper follows the clock."""
    clock, hybrid = Dial(), HybridClock()
    old = stamper_of(clock, hybrid)
    old(draft(), 1)
    clock.unix_ns, clock.epoch = 5, 1
    assert old(draft(), 2)[1] == NOON + 1
    new = stamper_of(clock, hybrid)
    assert [new(draft(), n)[1] for n in (1, 2)] == [5, 6]
    assert old(draft(), 3)[1] == NOON + 2


def test_a_process_tells_its_peers_the_last_number_of_its_newest_stream() -> None:
    """Nothing before the first record."""
    hybrid = HybridClock()
    first = stamper_of(Dial(), hybrid, "a")
    assert hybrid.position() is None
    first(draft(), 7)
    assert hybrid.position() == (Stream("a", 1), 7)
    stamper_of(Dial(), hybrid, "b")
    assert hybrid.position() is None


@pytest.mark.parametrize("unix_ns", [-5, 0, 2**63, 2**70])
def test_no_time_makes_the_stamper_raise(unix_ns: int) -> None:
    """Nothing may raise under the append lock."""
    stamp = stamper_of(Dial(unix_ns))
    times = [stamp(draft(), number)[1] for number in (1, 2, 3)]
    assert times == sorted(set(times))
