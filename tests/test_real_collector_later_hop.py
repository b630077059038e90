"""A hop behind a real Collector in trouble, and what the Collector makes of its answers.

As in `test_real_collector.py`, a thousand records are pending each time and the repair
alone must bring them in. The Collector is the shipped agent, which keeps nothing and
answers what the later hop answered; the later hop is scripted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.delivery import policy
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector
from socket_programs.wiring import agent, numbers
from trouble import (
    COUNT,
    GRPC,
    HTTP,
    POISON,
    all_pending,
    attempts,
    both_protocols,
    emit_with_poison,
    endpoint,
    hold_of,
    met,
    passing_on,
    print_the_table,
    repaired,
    until,
    was_refused,
)

__all__ = ["print_the_table"]
pytestmark = pytest.mark.collector

either_hop = pytest.mark.parametrize("over", [HTTP, GRPC], ids=lambda over: f"then-{over}")


@pytest.fixture
def later() -> Iterator[ScriptedCollector]:
    """The hop behind a real Collector: answers what only a backend in trouble would."""
    with ScriptedCollector() as running:
        yield running


def one_by_one(status: int, **given: Any) -> Callable[[RecordedRequest], Answer]:
    """Refuse a request that holds the poisonous record, and only that."""

    def respond(request: RecordedRequest) -> Answer:
        cursed = any("cursed" in record.attributes for record in request.records)
        return Answer(status=status, **given) if cursed else Answer()

    return respond


@either_hop
@both_protocols
@pytest.mark.parametrize("status", [401, 403])
def test_a_token_that_expired_further_down_holds_until_it_is_renewed(
    protocol: str, over: str, status: int, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """The agent Collector passes the later hop's answer on; the hint says so."""
    later.respond = lambda request: Answer(status=status, message="token expired")
    with passing_on(otelcol, tmp_path / "agent", later, over=over) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol
    ) as it:
        all_pending(it)
        story = met(f"{status} further down, over {over}", protocol, it)
        code = {401: "UNAUTHENTICATED", 403: "PERMISSION_DENIED"}[status]
        assert hold_of(it).code == (f"http {status}" if protocol == HTTP else f"grpc {code}")
        assert "later hop" in hold_of(it).hint
        later.respond = lambda request: Answer()
        repaired(story, it, lambda: later.delivered)


@either_hop
@both_protocols
@pytest.mark.parametrize("wait_s", [None, 0.1], ids=["without-details", "with-retry-info"])
def test_throttling_further_down_is_waited_for_and_blames_no_record(
    protocol: str, over: str, wait_s: float | None, later: ScriptedCollector, otelcol: Path,
    tmp_path: Path,
) -> None:
    """429 and RESOURCE_EXHAUSTED; over gRPC the same answer also means too large."""
    asked = {} if wait_s is None else {"retry-after": "1"}
    later.respond = lambda request: Answer(status=429, retry_info_s=wait_s, headers=asked)
    with passing_on(otelcol, tmp_path / "agent", later, over=over) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol
    ) as it:
        all_pending(it)
        named = "" if wait_s is None else " with a wait"
        story = met(f"throttled{named} further down, over {over}", protocol, it)
        assert set(attempts(it)) == {"http 429" if protocol == HTTP else "grpc RESOURCE_EXHAUSTED"}
        later.respond = lambda request: Answer()
        repaired(story, it, lambda: later.delivered)


@both_protocols
def test_a_backend_that_takes_two_requests_of_three_has_no_record_set_aside(
    protocol: str, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """Throttling that strikes single records while their neighbours are delivered."""
    count = iter(range(10**6))
    later.respond = lambda request: Answer(status=200 if next(count) % 3 else 429)
    with passing_on(otelcol, tmp_path / "agent", later) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol, request_records_max=10
    ) as it:
        it.emit(COUNT)
        assert it.processor.wait_delivered(60.0), it.totals
        repaired(met("throttled now and then", protocol, it), it, lambda: later.delivered)
        assert was_refused(it)


@both_protocols
def test_a_collector_slower_than_our_timeout_gets_everything_once_it_is_faster(
    protocol: str, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """Each timeout leaves open whether the records arrived, and counts as ambiguous."""
    later.respond = lambda request: Answer(delay_s=2.0)
    with passing_on(otelcol, tmp_path / "agent", later) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol, request_timeout_s=0.2,
    ) as it:
        all_pending(it)
        story = met("slower than our timeout", protocol, it)
        assert it.totals.ambiguous_attempts >= 4
        later.respond = lambda request: Answer()
        repaired(story, it, lambda: later.delivered)


@either_hop
@both_protocols
def test_a_record_that_always_gets_502_blocks_nobody_and_arrives_after_the_repair(
    protocol: str, over: str, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """The Collector makes 503 or UNAVAILABLE of it: its batch goes to the side lane.

    Nothing is quarantined: the answer does not say that the record is at fault.
    """
    later.respond = one_by_one(502)
    with passing_on(otelcol, tmp_path / "agent", later, over=over) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol, request_records_max=10
    ) as it:
        emit_with_poison(it, cursed=True)
        assert until(lambda: it.rows("SELECT 1 FROM batch WHERE lane = 'side'")), attempts(it)
        assert until(lambda: it.totals.pending <= 10), it.totals
        assert it.totals.pending >= 1
        story = met(f"one record gets 502 further down, over {over}", protocol, it)
        later.respond = lambda request: Answer()
        repaired(story, it, lambda: later.delivered)


@either_hop
@both_protocols
def test_a_record_that_a_later_hop_refuses_is_set_aside_alone(
    protocol: str, over: str, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """400 or INVALID_ARGUMENT for one record: exactly the poison is in quarantine."""
    later.respond = one_by_one(400, message="bad record")
    with passing_on(otelcol, tmp_path / "agent", later, over=over) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol
    ) as it:
        emit_with_poison(it, cursed=True)
        assert until(lambda: it.totals.quarantined == 1 and it.totals.pending == 0), it.totals
        story = met(f"one record gets 400 further down, over {over}", protocol, it)
        repaired(story, it, lambda: later.delivered, poison=[POISON])
        assert numbers(later.delivered) == [n for n in it.emitted if n != POISON]


@either_hop
@both_protocols
def test_a_later_hop_that_refuses_everything_has_no_record_set_aside(
    protocol: str, over: str, later: ScriptedCollector, otelcol: Path, tmp_path: Path
) -> None:
    """400 and INVALID_ARGUMENT from a backend that is set up wrongly.

    A Collector answers an empty request by itself, so an empty probe that is taken says
    nothing of a record that the hop behind it refuses.
    """
    later.respond = lambda request: Answer(status=400, message="no tenant")
    with passing_on(otelcol, tmp_path / "agent", later, over=over) as edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol
    ) as it:
        it.emit(COUNT)
        assert until(lambda: it.processor.status().hold or it.totals.quarantined), attempts(it)
        story = met(f"everything gets 400 further down, over {over}", protocol, it)
        assert (it.totals.quarantined, it.totals.pending) == (0, COUNT)
        assert "hop behind it" in hold_of(it).hint
        later.respond = lambda request: Answer()
        repaired(story, it, lambda: later.delivered)


def test_a_record_that_is_blamed_for_throttling_turns_the_story_red(
    later: ScriptedCollector, otelcol: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: without waiting for others' deliveries, innocent records are set aside."""
    monkeypatch.setattr(policy, "LONE_FAILURES", 0)
    later.respond = lambda request: Answer(status=429)
    with passing_on(otelcol, tmp_path / "agent", later) as edge, agent(
        tmp_path / "spool", edge.grpc_endpoint, protocol=GRPC
    ) as it:
        it.emit(COUNT)
        assert until(lambda: it.totals.quarantined > 0), attempts(it)
        story = met("control: throttling blamed on records", GRPC, it)
        later.respond = lambda request: Answer()
        with pytest.raises(AssertionError):
            repaired(story, it, lambda: later.delivered, timeout=0.5)
    assert it.totals.quarantined > 0
