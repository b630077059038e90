"""Events through a real Collector: what it writes is what was said, stamps added."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from opentelemetry.sdk._logs import LoggerProvider

from collector import Collector
from events.making import CANARY, EVERYTHING, NOTHING, full_event
from otel_memoir import DurableLogRecordProcessor
from otel_memoir.events import (
    Capture,
    MemoryEvent,
    from_otlp_json_request,
    names,
    to_log_record,
    undeclared,
)

pytestmark = pytest.mark.collector


def sent(
    collector: Collector, spool: Path, event: MemoryEvent, capture: Capture, times: int = 1
) -> list[MemoryEvent]:
    """Emit one record of an event, and read what the Collector wrote."""
    processor = DurableLogRecordProcessor(endpoint=collector.http_endpoint, spool_dir=str(spool))
    provider = LoggerProvider()
    provider.add_log_record_processor(processor)
    record = to_log_record(event, capture=capture)
    for _ in range(times):
        provider.get_logger(event.kind.scope).emit(record)
    assert processor.wait_delivered(30.0)
    provider.shutdown()
    collector.wait_received(times)
    lines = collector.output.read_text().splitlines()
    found = [one for line in lines for one in from_otlp_json_request(json.loads(line))]
    assert all(isinstance(one, MemoryEvent) for one in found)
    return [one for one in found if isinstance(one, MemoryEvent)]


STAMPS = ("uid", "stream_id", "stream_epoch", "sequence", "clock_error_bound_ns", "clock_status",
          "time_unix_ns")


def test_an_event_arrives_as_it_was_said_with_stamps(collector: Collector, tmp_path: Path) -> None:
    """Types, nested values, bytes, trace and content."""
    said = full_event(**dict.fromkeys(STAMPS))
    [arrived] = sent(collector, tmp_path / "spool", said, EVERYTHING)
    assert dataclasses.replace(arrived, **dict.fromkeys(STAMPS)) == said
    assert arrived.uid and arrived.stream_id and arrived.time_unix_ns
    assert (arrived.stream_epoch, arrived.sequence) == (1, 1)
    assert undeclared(arrived) == ("their.attribute",)
    assert arrived.body in collector.output.read_text()


def test_no_content_arrives_unless_somebody_opted_in(collector: Collector, tmp_path: Path) -> None:
    """Searched for in what the Collector wrote; the second run is the negative control."""
    sent(collector, tmp_path / "without", full_event(), NOTHING)
    assert names.GEN_AI_MEMORY_RECORD_ID in collector.output.read_text()
    assert CANARY not in collector.output.read_text()
    sent(collector, tmp_path / "with", full_event(), EVERYTHING)
    assert CANARY in collector.output.read_text()


def test_one_log_record_that_is_emitted_twice_arrives_with_two_uids(
    collector: Collector, tmp_path: Path
) -> None:
    """The stamps of the second are its own."""
    first, second = sent(collector, tmp_path / "spool", full_event(), NOTHING, times=2)
    assert first.uid != second.uid
    assert (first.sequence, second.sequence) == (1, 2)
    assert dataclasses.replace(second, uid=first.uid, sequence=1,
                               time_unix_ns=first.time_unix_ns) == first
