"""A real Collector that is misconfigured or in trouble, and repaired while we wait.

A thousand records are pending each time. Nobody restarts our process: the repair alone
must bring every record in, and only a record that is at fault by itself is set aside.
`pytest -s` prints the table. The hop behind a Collector: `test_real_collector_later_hop.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from collector import Collector, file_sink_config
from otel_memoir.delivery import answers
from socket_programs.wiring import agent
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
    good,
    hold_of,
    met,
    print_the_table,
    receiver,
    repaired,
    until,
    was_refused,
)

__all__ = ["print_the_table"]
pytestmark = pytest.mark.collector


@pytest.fixture
def sink(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    """A Collector that is not started yet."""
    (tmp_path / "collector").mkdir()
    made = Collector(otelcol, tmp_path / "collector")
    yield made
    if made.running:
        made.stop()


@both_protocols
def test_a_healthy_collector_takes_everything_once(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """The control: one plain OK a request, no duplicate."""
    sink.start()
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        it.emit(COUNT)
        assert it.processor.wait_delivered(30.0)
        repaired(met("none", protocol, it), it, sink.received)
        assert it.totals.ambiguous_attempts == 0
    assert len(sink.received()) == COUNT


# -- misconfigured ------------------------------------------------------------


def test_a_wrong_path_holds_until_the_collector_serves_it(
    sink: Collector, tmp_path: Path
) -> None:
    """404 is a misconfiguration, not a reason to drop. (gRPC has one path, fixed by OTLP.)"""
    sink.start().restart(good(sink, **receiver(HTTP, logs_url_path="/elsewhere")))
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        all_pending(it)
        story = met("wrong path", HTTP, it)
        assert hold_of(it).code == "http 404"
        sink.restart(good(sink))
        repaired(story, it, sink.received)


@both_protocols
def test_a_collector_without_a_logs_pipeline_holds_until_it_has_one(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """404 over HTTP, UNIMPLEMENTED over gRPC; the hint names the pipeline."""
    without = good(sink)
    without["service"]["pipelines"] = {"traces": without["service"]["pipelines"].pop("logs")}
    sink.start().restart(without)
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        all_pending(it)
        story = met("no logs pipeline", protocol, it)
        assert hold_of(it).code == ("http 404" if protocol == HTTP else "grpc UNIMPLEMENTED")
        assert "logs pipeline" in hold_of(it).hint
        sink.restart(good(sink))
        repaired(story, it, sink.received)


@both_protocols
def test_the_wrong_protocol_on_the_port_holds_until_the_port_speaks_ours(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """HTTP to the gRPC port and the reverse; the hint names the other port."""
    wrong = sink.grpc_endpoint if protocol == HTTP else sink.http_endpoint
    sink.start()
    with agent(tmp_path / "spool", wrong, protocol=protocol) as it:
        all_pending(it)
        story = met("the other protocol's port", protocol, it)
        assert ("4318" if protocol == HTTP else "4317") in hold_of(it).hint
        swapped = good(sink)
        protocols = swapped["receivers"]["otlp"]["protocols"]
        protocols["http"]["endpoint"], protocols["grpc"]["endpoint"] = (
            protocols["grpc"]["endpoint"], protocols["http"]["endpoint"]
        )
        sink.restart(swapped)
        repaired(story, it, sink.received)


@both_protocols
def test_a_refused_token_holds_until_the_collector_accepts_it(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """The server's side of a rotated token; nothing is dropped meanwhile."""
    sink.start().restart(file_sink_config(sink.output, token="new"))
    mine = {"authorization": "Bearer old"}
    with agent(
        tmp_path / "spool", endpoint(sink, protocol), protocol=protocol, headers=mine
    ) as it:
        all_pending(it)
        story = met("refused token", protocol, it)
        assert hold_of(it).code == ("http 401" if protocol == HTTP else "grpc UNAUTHENTICATED")
        assert "OTEL_EXPORTER_OTLP_HEADERS" in hold_of(it).hint
        sink.restart(file_sink_config(sink.output, token="old"))
        repaired(story, it, sink.received)


# -- limits -------------------------------------------------------------------


def test_a_body_limit_below_the_batch_is_met_by_smaller_requests(
    sink: Collector, tmp_path: Path
) -> None:
    """The Collector says 400 for too large; halves fit, and no repair is needed."""
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        all_pending(it, padding="x" * 200)
        sink.start().restart(good(sink, **receiver(HTTP, max_request_body_size=4000)))
        assert it.processor.wait_delivered(60.0)
        repaired(met("body limit above a record", HTTP, it), it, sink.received)
        assert attempts(it).get("http 400", 0) > 0


def test_a_record_above_the_body_limit_is_set_aside_and_named_and_the_rest_arrives(
    sink: Collector, tmp_path: Path
) -> None:
    """It fails alone while others are delivered: quarantined, not lost, and a gap."""
    sink.start().restart(good(sink, **receiver(HTTP, max_request_body_size=4000)))
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        emit_with_poison(it, padding="x" * 5000)
        assert until(lambda: it.totals.quarantined == 1 and it.totals.pending == 0), it.totals
        repaired(
            met("body limit below one record", HTTP, it), it, sink.received, poison=[POISON]
        )
        records = sink.wait_received(lambda r: any(x.event_name for x in r))
    (gap,) = [r for r in records if r.event_name == "memoir.delivery.gap"]
    assert gap.attributes["memoir.gap.records"] == 1


def test_a_grpc_message_limit_below_the_batch_is_met_by_smaller_requests(
    sink: Collector, tmp_path: Path
) -> None:
    """RESOURCE_EXHAUSTED without RetryInfo: halves fit, nothing is set aside."""
    with agent(
        tmp_path / "spool", sink.grpc_endpoint, protocol=GRPC, request_bytes_max=3_000_000
    ) as it:
        all_pending(it, padding="x" * 5_000)
        sink.start().restart(good(sink, **receiver(GRPC, max_recv_msg_size_mib=1)))
        assert it.processor.wait_delivered(60.0)
        repaired(met("message limit above a record", GRPC, it), it, sink.received)
        assert attempts(it).get("grpc RESOURCE_EXHAUSTED", 0) > 0


def test_a_record_above_the_grpc_message_limit_is_set_aside_and_the_rest_arrives(
    sink: Collector, tmp_path: Path
) -> None:
    """RESOURCE_EXHAUSTED also means throttled, so others must be delivered meanwhile."""
    sink.start().restart(good(sink, **receiver(GRPC, max_recv_msg_size_mib=1)))
    with agent(
        tmp_path / "spool", sink.grpc_endpoint, protocol=GRPC, request_records_max=50
    ) as it:
        emit_with_poison(it, padding="x" * 1_500_000)
        assert until(lambda: it.totals.quarantined == 1 and it.totals.pending == 0), it.totals
        repaired(
            met("message limit below one record", GRPC, it), it, sink.received, poison=[POISON]
        )


@both_protocols
def test_a_memory_limiter_that_refuses_everything_is_waited_for(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """503 and UNAVAILABLE: backoff, no hold, nothing lost."""
    refusing = good(
        sink,
        processors={"memory_limiter": {"check_interval": "100ms", "limit_mib": 1}},
        service={"pipelines": {"logs": {"processors": ["memory_limiter"]}}},
    )
    sink.start().restart(refusing)
    # It first looks at its memory after a check interval, and says when it refuses.
    assert until(lambda: "Refusing data" in sink.log), sink.log
    with agent(tmp_path / "spool", endpoint(sink, protocol), protocol=protocol) as it:
        all_pending(it)
        story = met("memory limiter", protocol, it)
        sink.restart(good(sink))
        repaired(story, it, sink.received)


@both_protocols
def test_a_full_queue_is_waited_for_and_the_repaired_collector_gets_the_rest(
    protocol: str, sink: Collector, tmp_path: Path, otelcol: Path
) -> None:
    """The next hop is down and the queue of the first is full.

    What the first hop had acknowledged into its memory is its own promise, so it ends in
    order here, with the next hop back.
    """
    (tmp_path / "edge").mkdir()
    edge = Collector(otelcol, tmp_path / "edge", queueing(sink))
    with edge, agent(
        tmp_path / "spool", endpoint(edge, protocol), protocol=protocol, request_records_max=10
    ) as it:
        it.emit(COUNT)
        assert until(lambda: was_refused(it))
        story = met("full queue", protocol, it)
        assert it.totals.pending > COUNT / 2
        assert (it.totals.unaccounted, it.totals.quarantined) == (0, 0)
        sink.start()
        repaired(story, it, sink.received)


def queueing(sink: Collector) -> dict[str, Any]:
    """A Collector with a queue of two requests before the sink."""
    config = file_sink_config(sink.output)
    config["exporters"] = {"otlp_http": {
        "endpoint": sink.http_endpoint,
        "sending_queue": {"queue_size": 2, "num_consumers": 1},
        "retry_on_failure": {"initial_interval": "50ms", "max_interval": "100ms"},
    }}
    config["service"]["pipelines"]["logs"]["exporters"] = ["otlp_http"]
    return config


@both_protocols
def test_a_collector_that_is_killed_and_started_again_gets_every_record(
    protocol: str, sink: Collector, tmp_path: Path
) -> None:
    """SIGKILL in the middle of the stream; what was acknowledged is on its file already."""
    sink.start()
    with agent(
        tmp_path / "spool", endpoint(sink, protocol), protocol=protocol, request_records_max=10
    ) as it:
        it.emit(10)
        sink.wait_received(1)
        sink.kill()
        it.emit(COUNT)
        assert until(lambda: was_refused(it))
        story = met("killed", protocol, it)
        sink.start()
        repaired(story, it, sink.received)


# -- the judge can find fault -----------------------------------------------------


def test_an_answer_that_is_taken_for_success_turns_the_story_red(
    sink: Collector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control: with 404 judged as delivered, the books balance and the records are missing."""
    monkeypatch.setitem(answers.HTTP, 404, answers.Rule(answers.Verdict.DELIVERED))  # type: ignore[arg-type]  # it is a dict
    sink.start().restart(good(sink, **receiver(HTTP, logs_url_path="/elsewhere")))
    with agent(tmp_path / "spool", sink.http_endpoint) as it:
        it.emit(COUNT)
        assert it.processor.wait_delivered(30.0)
        story = met("control: 404 taken for success", HTTP, it)
        sink.restart(good(sink))
        with pytest.raises(AssertionError):
            repaired(story, it, sink.received, timeout=0.5)
    assert story.missing == COUNT
