"""Two reflections, their spans and their events, as a real Collector received them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

from collector import Collector, file_sink_config
from locks.actors import Stage
from otel_memoir import DurableLogRecordProcessor, Reflections
from otel_memoir.errors import ReflectionSkippedError, WriteConflictError
from otel_memoir.events import MemoryEvent, from_otlp_json_request, names, undeclared
from reflection_helpers import COMPLETED, CONFLICT, SKIPPED, STARTED, enter, leave

pytestmark = pytest.mark.collector

KEY = "profile/u1"


@pytest.fixture
def both(otelcol: Path, tmp_path: Path) -> Iterator[Collector]:
    """A sink of logs and of spans."""
    directory = tmp_path / "collector"
    directory.mkdir()
    config = file_sink_config(directory / "received.jsonl")
    config["exporters"]["file/spans"] = {"path": str(directory / "spans.jsonl")}
    config["service"]["pipelines"]["traces"] = {
        "receivers": ["otlp"], "exporters": ["file/spans"]
    }
    with Collector(otelcol, directory, config) as running:
        yield running


def spans_in(path: Path) -> list[dict[str, Any]]:
    """The spans of a file exporter's output."""
    requests = [json.loads(line) for line in path.read_text().splitlines()]
    return [span for request in requests for resource in request["resourceSpans"]
            for scope in resource["scopeSpans"] for span in scope["spans"]]


def reflect(stage: Stage, reflections: Reflections, memories: dict[str, str]) -> None:
    """One thinks while another writes and a third would reflect; then it reads and thinks anew."""
    one, two, three = stage.actors(3)
    first = reflections.reflect("consolidate", keys=KEY, trigger="idle", conversation_id="c1")
    enter(one, first).get()
    thinks = first.unlocked()
    enter(one, thinks).get()
    lease = two.acquire(KEY).get()
    memories[KEY] = "likes coffee"
    two.release(lease).get()
    second = reflections.reflect("consolidate", keys=KEY, if_busy="skip")
    assert isinstance(enter(three, second).error(), ReflectionSkippedError)
    assert isinstance(leave(one, thinks).error(), WriteConflictError)
    one.do(first.refresh).get()
    memories[KEY] += ", strong"
    first.wrote(KEY)
    leave(one, first).get()
    assert first.rerun_requested


def test_reflections_arrive_as_spans_with_their_events(both: Collector, tmp_path: Path) -> None:
    """The refused write-back, the one that was skipped, and the end; all in their spans."""
    processor = DurableLogRecordProcessor(
        endpoint=both.http_endpoint, spool_dir=str(tmp_path / "spool")
    )
    loggers, tracers = LoggerProvider(shutdown_on_exit=False), TracerProvider()
    loggers.add_log_record_processor(processor)
    tracers.add_span_processor(
        SimpleSpanProcessor(OTLPSpanExporter(endpoint=f"{both.http_endpoint}/v1/traces"))
    )
    memories = {KEY: "likes tea"}
    with Stage() as stage:
        reflect(stage, Reflections(
            stage.locks, agent_name="planner", tracer_provider=tracers, logger_provider=loggers
        ), memories)  # fmt: skip
    assert memories[KEY] == "likes coffee, strong"
    assert processor.wait_delivered(30.0)
    loggers.shutdown()
    tracers.shutdown()
    both.wait_received(4)
    both.stop()
    events = [one for line in both.output.read_text().splitlines()
              for one in from_otlp_json_request(json.loads(line))]
    arrived = [one for one in events if isinstance(one, MemoryEvent)]
    assert [one.name for one in arrived] == [STARTED, SKIPPED, CONFLICT, COMPLETED]
    assert [undeclared(one) for one in arrived] == [()] * 4
    spans = {span["spanId"]: span for span in spans_in(both.directory / "spans.jsonl")}
    assert {span["name"] for span in spans.values()} == {"reflect planner"}
    by_span = [f"{one.trace.span_id:016x}" for one in arrived if one.trace]
    assert len(spans) == 2 and set(by_span) == set(spans)
    assert by_span[0] == by_span[2] == by_span[3] != by_span[1]
    assert arrived[1].attributes[names.REFLECTION_HOLDER_IDS] == (
        arrived[0].attributes[names.REFLECTION_ID],)
    print(*shown(spans, arrived), sep="\n")


def shown(spans: dict[str, dict[str, Any]], events: list[MemoryEvent]) -> Iterator[str]:
    """Each span with its events, as docs/proof-locks.md has them (pytest -s)."""
    for number, span in spans.items():
        yield f"{span['name']} (kind {span['kind']}, span {number})"
        for event in events:
            if event.trace and f"{event.trace.span_id:016x}" == number:
                yield f"  {event.name}: {event.body}"
