"""Retained events in the forms of other tools: JSON lines, OTLP JSON, CSV, tables, CloudEvents.

What is not OTLP has no place for an event name, so there the attributes carry
``otel.event.name``, as the OpenTelemetry specification has it for such formats.
"""

from __future__ import annotations

import base64
import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from google.protobuf.json_format import MessageToDict
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

from otel_memoir.delivery.request import build_request
from otel_memoir.errors import EventError
from otel_memoir.events import Capture, names, to_cloud_event
from otel_memoir.events.otlp_messages import plain_mapping, record_of
from otel_memoir.retrieval.event import RetainedEvent
from otel_memoir.retrieval.terms import RECORD, describe
from otel_memoir.spool.table_file import Row, Table

EVENT_NAME = "otel.event.name"

_EVENTS_A_LINE = 500
_INTEGER_MAX = 2**63 - 1

_WORDS = {
    "store": names.GEN_AI_MEMORY_STORE_ID,
    "record": names.GEN_AI_MEMORY_RECORD_ID,
    "record_version": names.RECORD_VERSION,
    "agent": names.GEN_AI_AGENT_ID,
    "agent_name": names.GEN_AI_AGENT_NAME,
    "conversation": names.GEN_AI_CONVERSATION_ID,
    "operation": names.GEN_AI_OPERATION_NAME,
    "outcome": names.OUTCOME,
    "reason": names.REASON,
}
"""Attributes that have a column of their own."""

COLUMNS = (
    "time", "unix_ns", "error_bound_ns", "stream", "epoch", "sequence", "uid", "state", "event",
    "severity", "body", *_WORDS, "trace_id", "span_id", "scope", "resource", "attributes",
)
"""The columns of CSV and of the table ``events``."""

_INTEGERS = frozenset(
    ("unix_ns", "error_bound_ns", "epoch", "sequence", "severity", "record_version")
)


# -- one event as a flat mapping ---------------------------------------------------


def flat(event: RetainedEvent, *, content: bool = True) -> dict[str, Any]:
    """An event as a mapping with one key for each of ``COLUMNS``, ready for ``json.dumps``.

    Args:
        event: The event.

        content: Whether what is content of memories stays in.
    """
    record, read = record_of(event.stored.payload), event.read
    attributes = {
        key: value for key, value in record.attributes.items()
        if content or key not in names.CONTENT
    }
    words = {column: attributes.get(key) for column, key in _WORDS.items()}
    if record.name:
        attributes = {EVENT_NAME: record.name, **attributes}
    place, trace = event.place, record.trace
    return {
        "time": event.time, "unix_ns": place.unix_ns,
        "error_bound_ns": event.stamp.error_bound_ns, "stream": place.stream_id,
        "epoch": place.epoch, "sequence": place.sequence, "uid": place.uid,
        "state": event.state.value, "event": record.name, "severity": record.severity,
        "body": plain(record.body), **{name: plain(value) for name, value in words.items()},
        "trace_id": f"{trace.trace_id:032x}" if trace else None,
        "span_id": f"{trace.span_id:016x}" if trace and trace.span_id else None,
        "scope": read.scope.name, "resource": plain(plain_mapping(read.resource.attributes)),
        "attributes": plain(attributes),
    }


def plain(value: Any) -> Any:
    """A value in JSON: bytes in base64, and what is no number as text, as in OTLP JSON."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def _dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _cell(column: str, value: Any) -> Any:
    """A value for a table: text, a number, or nothing."""
    if column in _INTEGERS and not (isinstance(value, int) and abs(value) <= _INTEGER_MAX):
        return None if value is None else str(value)
    return _dumped(value) if isinstance(value, (dict, list, bool)) else value


# -- lines --------------------------------------------------------------------------


def json_lines(events: Iterable[RetainedEvent], *, content: bool = True) -> Iterator[str]:
    """A JSON object for each event, with the keys of ``COLUMNS``."""
    for event in events:
        yield _dumped(flat(event, content=content)) + "\n"


def csv_lines(events: Iterable[RetainedEvent], *, content: bool = True) -> Iterator[str]:
    """RFC 4180: a head with ``COLUMNS``, then a line for each event; what is nested is JSON."""
    yield _csv(COLUMNS)
    for event in events:
        yield _csv([_cell(name, value) for name, value in flat(event, content=content).items()])


def _csv(cells: Sequence[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerow(cells)
    return buffer.getvalue()


def otlp_json_lines(events: Iterable[RetainedEvent], *, content: bool = True) -> Iterator[str]:
    """Requests in OTLP JSON, one a line, as a Collector's ``file`` exporter writes them."""
    remaining = iter(events)
    while some := list(islice(remaining, _EVENTS_A_LINE)):
        request = ExportLogsServiceRequest.FromString(
            build_request([(event.stored.envelope, event.stored.payload) for event in some])
        )
        yield _dumped(_otlp_json(request, content)) + "\n"


def _otlp_json(request: ExportLogsServiceRequest, content: bool) -> dict[str, Any]:
    found: dict[str, Any] = MessageToDict(request, use_integers_for_enums=True)
    for of_resource in found.get("resourceLogs", ()):
        for of_scope in of_resource.get("scopeLogs", ()):
            for log in of_scope.get("logRecords", ()):
                # OTLP JSON has ids in hexadecimal, where protobuf's own JSON has base64.
                for name in {"traceId", "spanId"} & log.keys():
                    log[name] = base64.b64decode(log[name]).hex()
                if not content:
                    log["attributes"] = [
                        pair for pair in log.get("attributes", ())
                        if pair["key"] not in names.CONTENT
                    ]
    return found


def cloud_event_lines(events: Iterable[RetainedEvent], *, content: bool = True) -> Iterator[str]:
    """A CloudEvent in JSON for each event; a record without a name is none."""
    capture = Capture.EVENT_ONLY if content else Capture.NO_CONTENT
    for event in events:
        if event.event is None or not event.event.name:
            continue
        try:
            found = to_cloud_event(event.event, capture=capture)
        except EventError:
            continue
        found["data"]["attributes"][EVENT_NAME] = event.event.name
        yield _dumped(found) + "\n"


# -- tables -------------------------------------------------------------------------


TABLES = (
    Table(
        name="events",
        columns={
            "id": "INTEGER PRIMARY KEY",
            **{name: "INTEGER" if name in _INTEGERS else "TEXT" for name in COLUMNS},
        },
        indexed=("time", "event", "store", "record", "agent", "conversation", "trace_id", "uid",
                 "state"),
    ),
    Table(
        name="event_records",
        columns={"event_id": 'INTEGER NOT NULL REFERENCES "events" ("id")',
                 "record": "TEXT NOT NULL"},
        indexed=("event_id", "record"),
    ),
)
"""The events, and each memory record that an event names."""


def table_rows(events: Iterable[RetainedEvent], *, content: bool = True) -> Iterator[Row]:
    """The rows of ``TABLES``, the events numbered in their order."""
    for number, event in enumerate(events, 1):
        cells = flat(event, content=content)
        yield "events", (number, *(_cell(name, value) for name, value in cells.items()))
        words = describe(event.stored.payload)
        records = {words.terms[RECORD], *(text for kind, text in words.also if kind == RECORD)}
        for record in sorted(records - {""}):
            yield "event_records", (number, record)
