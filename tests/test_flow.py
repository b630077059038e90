"""What a destination's answers teach: how fast, and how large, requests may be."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from model.destination import REPLIES, is_delivered
from model.world import World
from otel_memoir.delivery.flow import Flow
from otel_memoir.delivery.judge import judge_grpc, judge_http
from otel_memoir.delivery.outcome import Outcome

MAX = 1_000_000


def flow() -> Flow:
    return Flow(backoff_initial_s=1.0, bytes_max=MAX)


# -- the rule, pure ---------------------------------------------------------------


def test_without_a_failure_nothing_waits() -> None:
    """What was never in trouble is sent to as fast as it answers."""
    it = flow()
    assert [it.delivered(MAX) for _ in range(50)] == [0.0] * 50


def test_after_a_failure_each_yes_halves_the_gap_until_there_is_none() -> None:
    """Slow start: the rate doubles with each answer; all gaps together are a fifth of a second."""
    it = flow()
    it.failed()
    gaps = [it.delivered(MAX) for _ in range(20)]
    assert gaps[:4] == [0.1, 0.05, 0.025, 0.0125]
    assert gaps[10:] == [0.0] * 10
    assert sum(gaps) < 0.2


def test_a_failure_on_the_way_begins_from_small_again() -> None:
    """As TCP after a timeout."""
    it = flow()
    it.failed()
    it.delivered(MAX)
    it.delivered(MAX)
    it.failed()
    assert it.delivered(MAX) == 0.1


def test_a_request_that_was_too_large_halves_those_to_come_once() -> None:
    """What was fixed before it was known is as large, and teaches the same."""
    it = flow()
    for _ in range(20):
        it.too_large(MAX)
    assert it.bytes_max == MAX // 2
    it.too_large(MAX // 2)
    assert it.bytes_max == MAX // 4


def test_a_yes_to_a_large_request_makes_them_a_little_larger_and_one_to_a_small_does_not() -> None:
    """Additive increase, of what was tried; never beyond the setting."""
    it = flow()
    it.too_large(MAX)
    it.delivered(1000)
    assert it.bytes_max == MAX // 2
    it.delivered(MAX // 2)
    assert it.bytes_max == MAX // 2 + MAX // 256
    for _ in range(1000):
        it.delivered(it.bytes_max)
    assert it.bytes_max == MAX


def test_a_destination_that_takes_half_says_no_to_one_in_a_hundred() -> None:
    """The price of finding out that it takes more by now."""
    it, noes = flow(), 0
    for _ in range(10_000):
        if it.bytes_max > MAX // 2:
            it.too_large(it.bytes_max)
            noes += 1
        else:
            it.delivered(it.bytes_max)
    assert 0 < noes <= 160


def test_a_destination_that_refuses_every_size_leaves_no_crumbs() -> None:
    """A large backlog in tiny batches would take as many commits."""
    it = flow()
    for size in (MAX, MAX // 2, MAX // 100, 1):
        it.too_large(size)
    assert it.bytes_max == MAX // 16


def test_another_bound_keeps_the_share_that_was_learned() -> None:
    """A change of the setting is no reason to forget."""
    it = flow()
    it.too_large(MAX)
    it.use(backoff_initial_s=2.0, bytes_max=MAX // 10)
    assert it.bytes_max == MAX // 20
    it.failed()
    assert it.delivered(1) == 0.2


# -- which answers teach ----------------------------------------------------------


def _http(status: int, body: bytes = b"") -> Outcome:
    return judge_http(status, {}, body, now_unix_s=0.0)


@pytest.mark.parametrize(
    ("outcome", "is_too_large"),
    [
        (_http(413), True),
        (_http(400, b"http: request body too large"), True),
        (_http(400, b"message larger than max (5 vs. 4)"), True),
        (_http(400, b"cannot parse record: attribute value too large a number"), False),
        (_http(400, b"bad record"), False),
        (_http(500), False),
        (_http(429), False),
        (judge_grpc("RESOURCE_EXHAUSTED", "received message larger than max", None, None), True),
        (judge_grpc("RESOURCE_EXHAUSTED", "slow down", 1.0, None), False),
        (judge_grpc("INVALID_ARGUMENT", "no", None, None), False),
    ],
)
def test_only_an_answer_about_size_teaches_size(outcome: Outcome, is_too_large: bool) -> None:
    """A poison record must not make every batch small."""
    assert outcome.is_too_large is is_too_large


# -- the courier goes by it ---------------------------------------------------------


@contextmanager
def world(**given: Any) -> Iterator[World]:
    made = World(**{"durability": "power", "linger_s": 0.0, **given})
    try:
        made.start()
        yield made
        made.check()
    finally:
        made.end()


def emit(it: World, count: int, kind: str = "small") -> None:
    for _ in range(count):
        it.emit(it.living[0], kind, 9, on_loop=False)


def drain(it: World) -> None:
    """Steps of the courier, each as late as it says."""
    for _ in range(400):
        it.clock.advance(max(0.0, it.living[0].deliver_once()))
        if it.living[0].courier.is_drained():
            return
    raise AssertionError("it never delivers all")


def gaps_after_an_outage() -> list[float]:
    with world(request_records_max=1, backoff_initial_s=40.0, backoff_max_s=40.0) as it:
        emit(it, 8)
        it.deliver(it.living[0], "unavailable", answers_probe=True)
        drain(it)
        yes_s = [one.at_s for one in it.destination.attempts if is_delivered(one)]
    return [after - before for before, after in itertools.pairwise(yes_s)]


def test_after_an_outage_the_courier_sends_slowly_first() -> None:
    """The first gap is a tenth of the first backoff, each further one half of it."""
    found = gaps_after_an_outage()
    assert found[:5] == pytest.approx([4.0, 2.0, 1.0, 0.5, 0.25], abs=0.1)


def test_without_the_rule_it_sends_at_full_speed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr(Flow, "failed", lambda _: None)
    assert max(gaps_after_an_outage()) < 0.1


def test_shutting_down_goes_on_through_the_gaps() -> None:
    """A gap is no trouble: only what waits because of a failure is left for the next process."""
    with world(request_records_max=1, backoff_initial_s=5.0) as it:
        emit(it, 3)
        it.deliver(it.living[0], "unavailable", answers_probe=True)
        it.clock.advance(10.0)
        it.deliver(it.living[0], "ok", answers_probe=True)
        assert it.living[0].courier._dispatcher.pace.left_s > 0
        it.shut_down(it.living[0], 5.0)
        assert sum(map(is_delivered, it.destination.attempts)) == 3


def noes_of_size(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many requests are too large for a destination, of two hundred and of the next."""
    found: list[int] = []
    with world(request_records_max=1000, request_bytes_max=20_000) as it:
        plain = it.destination._reply

        def takes_little(records: Any) -> Any:
            size = sum(len(record.payload) for record in records)
            return REPLIES["too large"] if size > 6000 else plain(records)

        monkeypatch.setattr(it.destination, "_reply", takes_little)
        for _ in range(2):
            before = len(it.destination.attempts)
            emit(it, 100, "compressed")
            drain(it)
            new = it.destination.attempts[before:]
            found.append(sum(not is_delivered(one) for one in new))
        monkeypatch.undo()
    return found


def test_what_a_destination_bears_is_learned_for_what_is_batched_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first batches are fixed, and split; later ones fit, but for a try now and then."""
    first, later = noes_of_size(monkeypatch)
    assert first >= 3
    assert later <= 1


def test_without_the_rule_later_batches_are_too_large_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control."""
    with monkeypatch.context() as patch:
        patch.setattr(Flow, "too_large", lambda *_: None)
        first, later = noes_of_size(pytest.MonkeyPatch())
    assert later >= first - 2 >= 3
