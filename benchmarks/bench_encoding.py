"""What encoding costs: our encoder against the official one, and the stamps.

Run ``python benchmarks/bench_encoding.py``. Rounds are interleaved, so that a slow
moment of the machine hits both sides; the figures are medians over the rounds. The
official encoder is measured at what it is best at, many records in one request, and as a
record that must be on disk before its emit returns would need it, one by one.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from otel_memoir.delivery.encoding import StampTemplate, encode_record
from otel_memoir.delivery.request import build_request

_CONTEXT = set_span_in_context(
    NonRecordingSpan(
        SpanContext(
            trace_id=0x1234_5678_9ABC_DEF0_1234_5678_9ABC_DEF0,
            span_id=0x1234_5678_9ABC_DEF0,
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        )
    ),
    Context(),
)

RECORDS = 500
ROUNDS = 15


def typical_records() -> list[ReadableLogRecord]:
    """Build records as memory events are: a line of text, five attributes, a trace."""
    resource = Resource({"service.name": "bench", "host.name": "here"})
    scope = InstrumentationScope("bench", "1.0")
    records = []
    for number in range(RECORDS):
        # The logger wraps each record so, and the attributes become BoundedAttributes.
        wrapped = ReadWriteLogRecord(_typical(number), resource, scope)
        records.append(ReadableLogRecord(wrapped.log_record, resource, scope, wrapped.limits))
    return records


def _typical(number: int) -> LogRecord:
    return LogRecord(
        timestamp=1_760_000_000_000_000_000 + number,
        context=_CONTEXT,
        severity_number=SeverityNumber.INFO,
        severity_text="INFO",
        body=f"memory record {number} of user u1 was updated by consolidation",
        event_name="memoir.record.updated",
        attributes={
            "gen_ai.memory.store.id": "profile",
            "gen_ai.memory.record.id": f"record-{number}",
            "memoir.version": number,
            "memoir.score": 0.75,
            "memoir.outcome": "success",
        },
    )


def round_us(work: Callable[[], object]) -> float:
    """Time one round; return microseconds per record."""
    begin_ns = time.perf_counter_ns()
    work()
    return (time.perf_counter_ns() - begin_ns) / RECORDS / 1000


def figures() -> dict[str, float]:
    """Measure each side in interleaved rounds; return medians in µs per record."""
    records = typical_records()
    rows = [encode_record(record)[:2] for record in records]
    template = StampTemplate("0192f0c8-7d2a-7c3e-9a64-0f6f3f0d9a11", 3)
    uid = "01J9Z3NDEKTSV4RRFFQ69G5FAV"
    sides: dict[str, Callable[[], object]] = {
        "official, 500 at once": lambda: encode_logs(records).SerializeToString(),
        "official, one by one": lambda: [
            encode_logs([record]).SerializeToString() for record in records
        ],
        "encode_record": lambda: [encode_record(record) for record in records],
        "stamp suffix": lambda: [
            template.suffix(uid, n, 1_760_000_000_000_000_000, 1_250_000)
            for n in range(100_000, 100_000 + RECORDS)
        ],
        "build_request": lambda: build_request(rows),
    }
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, work in sides.items():
            taken[name].append(round_us(work))
    return {name: statistics.median(times) for name, times in taken.items()}


def main() -> None:
    """Print the figures."""
    medians = figures()
    official = medians["official, 500 at once"]
    print(f"{RECORDS} typical records, median of {ROUNDS} interleaved rounds, per record:")
    for name, median in medians.items():
        print(f"  {name:22}{median:8.2f} µs {median / official:8.3f} of official, 500 at once")


if __name__ == "__main__":
    main()
