"""The outcome table from end to end: a scripted answer, and what becomes of the records.

Each test emits through the processor to a real server on loopback. Nothing is patched.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.delivery import Courier
from otel_memoir.delivery.teller import Teller
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector
from socket_programs.wiring import Agent, agent, numbers
from spool_helpers import problems_of

TIMEOUT_S = 15.0
ANYONE_WAITS = threading.Event()


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def until(condition: Callable[[], Any], timeout: float = TIMEOUT_S) -> bool:
    """Wait for what no event tells; return whether it came."""
    deadline_s = time.monotonic() + timeout
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        ANYONE_WAITS.wait(0.01)
    return True


def gap_events(collector: ScriptedCollector) -> list[Any]:
    return [r for r in collector.delivered if r.event_name == "memoir.delivery.gap"]


def has(request: RecordedRequest, key: str) -> bool:
    return any(key in record.attributes for record in request.records)


def settled(found: Agent) -> bool:
    return bool(found.totals.pending == 0)


def test_a_request_that_got_503_is_sent_again_with_the_same_bytes(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Same bytes, so that a receiver can recognise it; and the attempt counts as ambiguous."""
    collector.script([Answer(status=503), Answer(status=503)])
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(20)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert numbers(collector.delivered) == it.emitted
        refused = {r.raw for r in collector.requests[:2]}
        assert refused <= {r.raw for r in collector.requests[2:]}
        assert it.totals.ambiguous_attempts == 2


def test_a_request_that_was_taken_but_not_answered_arrives_twice_with_the_same_uids(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """At least once: the duplicate is visible by its uid, and counted as ambiguous before."""
    collector.script([Answer.drop(taken=True)])
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(5)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.ambiguous_attempts == 1
    times = Counter(record.uid for record in collector.taken)
    twice = [uid for uid, count in times.items() if count == 2]
    assert len(times) == 5
    assert len(twice) == len(collector.requests[0].records)
    assert max(times.values()) == 2


@pytest.mark.parametrize("status", [401, 403, 404, 429, 400])
def test_an_answer_that_says_not_taken_is_not_counted_as_ambiguous(
    collector: ScriptedCollector, tmp_path: Path, status: int
) -> None:
    """Only an attempt whose answer leaves it open can make a duplicate."""
    collector.script([Answer(status=status)])
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(4)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.ambiguous_attempts == 0
        assert numbers(collector.delivered) == it.emitted


def test_plain_ok_is_never_counted_as_ambiguous(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The control of the two tests above."""
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(50)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.ambiguous_attempts == 0
    assert len({record.uid for record in collector.taken}) == len(collector.taken) == 50


def test_refused_credentials_hold_delivery_and_it_resumes_by_itself(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """401 drops nothing; the status says why and since when; the first OK ends it."""
    collector.respond = lambda request: Answer(status=401, message="token expired")
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(200)
        assert collector.wait_for(lambda c: len(c.requests) >= 3, TIMEOUT_S)
        assert until(lambda: it.processor.status().hold)
        hold = it.processor.status().hold
        assert hold is not None
        assert (hold.code, hold.message) == ("http 401", "token expired")
        assert "OTEL_EXPORTER_OTLP_HEADERS" in hold.hint
        assert it.totals.pending == it.totals.accepted == 200
        collector.respond = lambda request: Answer()
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert until(lambda: it.processor.status().hold is None)
        assert (it.totals.delivered, it.totals.unaccounted) == (200, 0)
    assert numbers(collector.delivered) == it.emitted


@pytest.mark.parametrize("status", [401, 404, 415, 302])
def test_a_hold_probes_no_more_often_than_its_interval(
    collector: ScriptedCollector, tmp_path: Path, status: int
) -> None:
    """While nothing can be delivered, the destination is not hammered."""
    collector.respond = lambda request: Answer(status=status)
    with agent(tmp_path, collector.endpoint, hold_probe_interval_s=0.4) as it:
        began_s = time.monotonic()
        it.emit(50)
        assert collector.wait_for(lambda c: len(c.requests) >= 3, TIMEOUT_S)
        assert time.monotonic() - began_s >= 0.7


def test_one_poison_record_among_200_is_quarantined_alone(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Halving finds exactly it; the rest is delivered, and a gap event tells of it."""
    collector.respond = lambda r: Answer(status=400 if has(r, "poison") else 200, message="bad")
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(77)
        it.emit(1, poison=True)
        it.emit(122)
        assert until(lambda: it.totals.quarantined == 1 and settled(it)), it.totals
        assert collector.wait_for(lambda c: bool(gap_events(c)), TIMEOUT_S)
        assert until(lambda: settled(it))
        assert (it.totals.quarantined, it.totals.rejected, it.totals.unaccounted) == (1, 0, 0)
    assert numbers(collector.delivered) == [n for n in it.emitted if n != 77]
    (gap,) = gap_events(collector)
    assert gap.attributes["memoir.gap.cause"] == "quarantined"
    assert gap.attributes["memoir.gap.records"] == 1
    assert gap.attributes["memoir.gap.first_sequence"] == 78
    assert gap.attributes["memoir.gap.last_sequence"] == 78


def test_a_destination_that_says_400_to_everything_quarantines_nothing(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A record is poison only when another is delivered: else the destination is at fault."""
    collector.respond = lambda request: Answer(status=400, message="no")
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(8)
        assert until(lambda: it.processor.status().hold), it.totals
        assert (it.totals.quarantined, it.totals.pending) == (0, 8)
        collector.respond = lambda request: Answer()
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert numbers(collector.delivered) == it.emitted


def test_partial_success_counts_the_rejected_and_tells_of_them(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Three of a request rejected: counted, never resent, named in one gap event."""
    collector.script([Answer(rejected=3, message="too old")])
    with agent(tmp_path, collector.endpoint, linger_s=0.5) as it:
        it.emit(20)
        assert collector.wait_for(lambda c: bool(gap_events(c)), TIMEOUT_S)
        assert until(lambda: settled(it))
        totals = it.totals
        assert (totals.rejected, totals.quarantined, totals.unaccounted) == (3, 0, 0)
        assert totals.delivered == totals.accepted - 3
        assert not it.processor.wait_delivered(0.1)
    assert numbers(collector.delivered) == it.emitted[:17]
    (gap,) = gap_events(collector)
    assert gap.attributes["memoir.gap.cause"] == "rejected"
    assert gap.attributes["memoir.gap.records"] == 3
    assert gap.attributes["memoir.gap.message"] == "too old"


@pytest.mark.parametrize("without", [False, True], ids=["", "control"])
def test_a_destination_that_takes_nothing_is_not_told_of_it_for_ever(
    collector: ScriptedCollector, tmp_path: Path, without: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loss of what tells of a loss was told too: 47 events in six seconds."""
    if without:
        monkeypatch.setattr(Teller, "_is_of_tellings", lambda *_: False)
    collector.respond = lambda request: Answer(rejected=len(request.records))
    with agent(tmp_path, collector.endpoint, linger_s=0.0) as it:
        it.emit(1)
        is_endless = until(lambda: it.totals.rejected > 5, 3.0)
        assert is_endless == without
        if not without:
            assert it.totals.rejected == 2  # the record, and what told of it
            assert problems_of(tmp_path) == []


def test_a_record_that_always_gets_502_leaves_the_main_lane_and_blocks_nobody(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Retryable without end, so it is kept; but all the others are delivered."""
    collector.respond = lambda r: Answer(status=502 if has(r, "cursed") else 200)
    with agent(tmp_path, collector.endpoint, request_records_max=5) as it:
        it.emit(1, cursed=True)
        it.emit(100)
        others = range(5, 101)  # at worst four more share its batch
        assert collector.wait_for(lambda c: {*others} <= {*numbers(c.delivered)}, TIMEOUT_S)
        for _ in range(30):  # it is judged against what is delivered meanwhile
            if it.rows("SELECT 1 FROM batch WHERE lane = 'side'"):
                break
            it.emit(1)
            ANYONE_WAITS.wait(0.05)
        ((records,),) = it.rows("SELECT records FROM batch WHERE lane = 'side'")
        assert records <= 5
        assert it.totals.quarantined == it.totals.rejected == it.totals.unaccounted == 0
        late = len(it.emitted)
        it.emit(20)
        assert collector.wait_for(
            lambda c: {*range(late, late + 20)} <= {*numbers(c.delivered)}, TIMEOUT_S
        )
        collector.respond = lambda request: Answer()
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert numbers(collector.delivered) == it.emitted


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_request_over_the_servers_size_is_halved_until_it_fits(
    collector: ScriptedCollector, tmp_path: Path, protocol: str
) -> None:
    """413, and gRPC's RESOURCE_EXHAUSTED, with every record small enough: all arrive."""
    collector.respond = lambda r: Answer(status=413 if len(r.body) > 4000 else 200)
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    with agent(tmp_path, endpoint, protocol=protocol, linger_s=0.3) as it:
        it.emit(100, padding="x" * 300)
        assert it.processor.wait_delivered(TIMEOUT_S), it.totals
        assert it.totals.quarantined == 0
    assert any(len(r.body) > 4000 for r in collector.requests)
    assert numbers(collector.delivered) == it.emitted


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_one_record_over_the_servers_size_is_quarantined_and_the_rest_arrives(
    collector: ScriptedCollector, tmp_path: Path, protocol: str
) -> None:
    """Too large alone, while others are delivered: that one is at fault."""
    collector.respond = lambda r: Answer(status=413 if len(r.body) > 4000 else 200)
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    with agent(tmp_path, endpoint, protocol=protocol) as it:
        it.emit(30)
        it.emit(1, padding="x" * 6000)
        it.emit(30)

        def found() -> bool:
            if not it.totals.quarantined:
                it.emit(1)  # over gRPC only a sibling's delivery proves it
            return bool(it.totals.quarantined and settled(it))

        assert until(found), it.totals
        assert (it.totals.quarantined, it.totals.unaccounted) == (1, 0)
    assert numbers(collector.delivered) == [n for n in it.emitted if n != 30]


def test_a_throttled_grpc_destination_quarantines_nothing(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """RESOURCE_EXHAUSTED without details can mean too fast: one in 20 ms, and all arrive."""
    allowed = Throttle(0.02)
    collector.respond = lambda r: (
        Answer() if allowed() else Answer(status=429, message="rate limit")
    )
    with agent(
        tmp_path, collector.grpc_endpoint, protocol="grpc", request_records_max=10
    ) as it:
        it.emit(150)
        assert it.processor.wait_delivered(30.0), it.totals
        assert (it.totals.quarantined, it.totals.unaccounted) == (0, 0)
    refused = len(collector.requests) - allowed.count
    assert refused > 0
    assert numbers(collector.delivered) == it.emitted


class Throttle:
    """Allows one call in an interval."""

    def __init__(self, interval_s: float) -> None:
        self.interval_s = interval_s
        self.count = 0
        self._next_s = 0.0

    def __call__(self) -> bool:
        now_s = time.monotonic()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self.interval_s
        self.count += 1
        return True


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_goes_away_and_comes_back_gets_everything(
    collector: ScriptedCollector, tmp_path: Path, protocol: str
) -> None:
    """Emitted while it was up, while it was down, and after: each number once, in order."""
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    with agent(tmp_path, endpoint, protocol=protocol) as it:
        it.emit(10)
        assert it.processor.wait_delivered(TIMEOUT_S)
        collector.down()
        it.emit(10)
        assert not it.processor.wait_delivered(0.3)
        assert it.totals.pending == 10
        collector.up()
        it.emit(10)
        assert it.processor.wait_delivered(TIMEOUT_S)
    first = list(dict.fromkeys(r.attributes["number"] for r in collector.delivered))
    assert first == it.emitted


@pytest.mark.parametrize(
    ("protocol", "answer"),
    [
        ("http/protobuf", Answer(status=503, headers={"retry-after": "1"})),
        ("grpc", Answer(status=503, retry_info_s=0.8)),
        ("grpc", Answer(status=429, retry_info_s=0.8)),
    ],
    ids=["Retry-After", "RetryInfo unavailable", "RetryInfo exhausted"],
)
def test_the_wait_that_a_server_asks_for_is_kept(
    collector: ScriptedCollector, tmp_path: Path, protocol: str, answer: Answer
) -> None:
    """Also beyond our own maximum backoff, and for every batch, not only the one refused."""
    asked: list[float] = []

    def respond(request: RecordedRequest) -> Answer:
        asked.append(time.monotonic())
        return Answer()

    collector.respond = respond
    collector.script([answer])
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.endpoint
    with agent(tmp_path, endpoint, protocol=protocol) as it:
        it.emit(1)
        assert collector.wait_for(lambda c: len(c.requests) == 1, TIMEOUT_S)
        refused_s = time.monotonic()
        it.emit(50)
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert min(asked) - refused_s >= 0.7
    assert numbers(collector.delivered) == it.emitted


def test_the_wait_that_a_server_asks_for_outlives_the_process(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """After a restart it is kept, but at most for our own maximum."""
    collector.script([Answer(status=503, headers={"retry-after": "3600"})])
    with agent(tmp_path, collector.endpoint, shutdown_timeout_s=0.2) as it:
        it.emit(5)
        assert collector.wait_for(lambda c: len(c.requests) == 1, TIMEOUT_S)
        assert until(lambda: it.rows("SELECT 1 FROM batch WHERE failures > 0"))
    began_s = time.monotonic()
    with agent(tmp_path, collector.endpoint, backoff_max_s=0.6) as again:
        again.emit(1)
        assert again.processor.wait_delivered(TIMEOUT_S)
    assert 0.5 <= time.monotonic() - began_s < 10.0
    assert len({record.uid for record in collector.delivered}) == 6


def test_a_500_is_tried_three_times_before_the_request_is_blamed(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A passing error of the server halves nothing."""
    collector.script([Answer(status=500), Answer(status=500)])
    with agent(tmp_path, collector.endpoint, linger_s=0.3) as it:
        it.emit(10)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert not it.rows("SELECT 1 FROM batch WHERE state = 'split'")
    assert numbers(collector.delivered) == it.emitted


def test_a_500_for_one_record_quarantines_that_one_once_others_are_delivered(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """An agent without a queue passes a later hop's "too large" on as 500."""
    collector.respond = lambda r: Answer(status=500 if has(r, "poison") else 200)
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(20)
        it.emit(1, poison=True)
        it.emit(20)

        def found() -> bool:
            if not it.totals.quarantined:
                it.emit(1)
            return bool(it.totals.quarantined and settled(it))

        assert until(found), it.totals
        assert (it.totals.quarantined, it.totals.unaccounted) == (1, 0)
    assert numbers(collector.delivered) == [n for n in it.emitted if n != 20]


def test_a_hang_ends_at_the_request_timeout_and_the_request_is_sent_again(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A server that says nothing costs one timeout, and the attempt is ambiguous."""
    collector.script([Answer.hang()])
    with agent(tmp_path, collector.endpoint, request_timeout_s=0.3) as it:
        it.emit(5)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.ambiguous_attempts == 1
        collector.release()
    assert numbers(collector.delivered) == it.emitted


def test_sequences_arrive_contiguous_from_one(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Whatever happened on the way, a stream has no hole and its order is the emit order."""
    collector.script([Answer(status=503), Answer(status=401), Answer(status=413)])
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(60)
        assert it.processor.wait_delivered(TIMEOUT_S)
    by_sequence = {r.sequence: r.attributes["number"] for r in collector.delivered}
    assert by_sequence == {number + 1: number for number in it.emitted}
    assert len({(r.stream_id, r.epoch) for r in collector.delivered}) == 1


def test_a_loss_of_an_earlier_process_does_not_make_later_deliveries_look_undelivered(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """`wait_delivered` speaks of what this process accepted, not of its slot's history."""
    collector.script([Answer(rejected=1, message="too old")])
    with agent(tmp_path, collector.endpoint, linger_s=0.3) as it:
        it.emit(3)
        assert collector.wait_for(lambda c: bool(gap_events(c)), TIMEOUT_S)
        assert until(lambda: settled(it))
        assert not it.processor.wait_delivered(1.0)
    with agent(tmp_path, collector.endpoint) as later:
        later.emit(3)
        assert later.processor.wait_delivered(TIMEOUT_S), later.totals


def count_rings(courier: Courier) -> list[None]:
    """Note each time that the courier is rung from now on."""
    rings: list[None] = []
    ring = courier._alarm.ring
    courier._alarm.ring = lambda: (rings.append(None), ring())[1]  # type: ignore[method-assign]
    return rings


@pytest.mark.parametrize(("linger_s", "rung_for_each"), [(60.0, False), (0.0, True)])
def test_a_batch_that_may_still_fill_up_lets_the_courier_sleep(
    collector: ScriptedCollector, tmp_path: Path, linger_s: float, rung_for_each: bool
) -> None:
    """Woken for each record, it takes the interpreter from the emitters. Control: no linger."""
    with agent(tmp_path, collector.endpoint, linger_s=linger_s) as it:
        it.emit(1)
        courier = it.processor.pipeline.courier
        assert courier is not None
        assert rung_for_each or until(lambda: courier._filling is not None)
        rings = count_rings(courier)
        it.emit(200)
        # It looks around once a second, and while it does it is rung for each.
        assert (len(rings) >= 200) if rung_for_each else (len(rings) < 100)
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert numbers(collector.delivered) == it.emitted


def test_a_batch_that_is_full_is_sent_though_the_next_one_is_still_filling(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """What the courier sleeps over is one batch, by its number."""
    with agent(tmp_path, collector.endpoint, linger_s=60.0, request_records_max=10) as it:
        for emitted in (11, 21, 31):
            it.emit(10 if it.emitted else 11)
            assert collector.wait_for(
                lambda c, most=emitted - 1: len(numbers(c.delivered)) == most, TIMEOUT_S
            )
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert numbers(collector.delivered) == it.emitted


def test_a_destination_that_is_away_lets_the_courier_sleep_until_it_is_tried_again(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """During a backoff records only gather."""
    collector.respond = lambda request: Answer(status=503)
    slow = {"backoff_initial_s": 60.0, "backoff_max_s": 60.0}
    with agent(tmp_path, collector.endpoint, **slow) as it:
        it.emit(1)
        courier = it.processor.pipeline.courier
        assert courier is not None
        assert until(lambda: courier._paused)
        rings = count_rings(courier)
        it.emit(200)
        assert len(rings) < 100
        assert it.totals.pending == 201
