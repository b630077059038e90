"""A real deadlock of two tasks and a thread, as a real Collector received it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from collector import Collector, records_in
from otel_memoir import DurableLogRecordProcessor
from otel_memoir.events import MemoryEvent, from_otlp_json_request, names, undeclared
from otel_memoir.locks.snapshot import arrows_of, arrows_to_mermaid
from test_locks_trace import DEADLOCK, Observed, deadlock_of, spans_of

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tools"))

from proof_locks import drawing

pytestmark = pytest.mark.collector


def test_a_deadlock_of_three_arrives_once_for_each_unit(
    collector: Collector, tmp_path: Path
) -> None:
    """One span records, one is not sampled, one has ended; all say the same deadlock."""
    processor = DurableLogRecordProcessor(
        endpoint=collector.http_endpoint, spool_dir=str(tmp_path / "spool")
    )
    observed = Observed((processor,))
    with observed.stage:
        spans = spans_of(observed)
        actors = deadlock_of(observed, spans)
        assert processor.wait_delivered(30.0)
        (report,) = observed.stage.locks.deadlocks()
    observed.loggers.shutdown()
    collector.wait_received(3)
    lines = collector.output.read_text().splitlines()
    events = [one for line in lines for one in from_otlp_json_request(json.loads(line))]
    arrived = [one for one in events if isinstance(one, MemoryEvent) and one.name == DEADLOCK]
    assert len(arrived) == len(events) == 3
    assert {one.trace.span_id for one in arrived if one.trace} == {
        span.get_span_context().span_id for span in spans
    }
    assert {one.attributes[names.DEADLOCK_ID] for one in arrived} == {report.id}
    assert {one.attributes[names.LOCK_UNIT] for one in arrived} == {one.unit for one in actors}
    assert sorted(one.unit.partition(":")[0] for one in actors) == ["task", "task", "thread"]
    assert [undeclared(one) for one in arrived] == [()] * 3
    drawn = arrows_to_mermaid(arrows_of(report))
    assert {drawing(one) for one in records_in(collector.output)} == {drawn}
    assert drawn.count("-->") == 3
