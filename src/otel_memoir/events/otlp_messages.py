"""OTLP's messages, built and taken apart. Loaded on first use: protobuf takes 20 ms to import."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, KeyValue, KeyValueList
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, SeverityNumber

from otel_memoir.errors import EventError
from otel_memoir.events.model import TraceRef
from otel_memoir.events.record import Record, severity_text


def payload_of(record: Record) -> bytes:
    """The bytes of a ``LogRecord`` message."""
    return _message(record).SerializeToString()


def record_of(payload: bytes) -> Record:
    """What the bytes of a ``LogRecord`` message say.

    Raises:
        EventError: They are no such message.
    """
    return _record(_parsed(LogRecord(), payload))


def records_of(request: bytes) -> Iterator[tuple[Record, bytes]]:
    """Each record of an ``ExportLogsServiceRequest``, with its bytes, in order.

    Raises:
        EventError: The bytes are no such message.
    """
    for resource in _parsed(ExportLogsServiceRequest(), request).resource_logs:
        for scope in resource.scope_logs:
            for record in scope.log_records:
                yield _record(record), record.SerializeToString()


def _parsed(message: Any, data: bytes) -> Any:
    try:
        message.ParseFromString(data)
    except DecodeError as error:
        raise EventError(
            "read event", target=f"of {len(data)} bytes", cause=error,
            hint=f"Give the bytes of one OTLP {type(message).__name__}.",
        ) from error
    return message


def _message(record: Record) -> LogRecord:
    message = LogRecord(
        time_unix_nano=record.time_unix_ns or 0,
        observed_time_unix_nano=record.observed_unix_ns or 0,
        severity_number=SeverityNumber.ValueType(record.severity),
        severity_text=severity_text(record.severity),
        body=_any_value(record.body), event_name=record.name,
        attributes=_key_values(record.attributes),
    )
    if record.trace is not None:
        message.trace_id = record.trace.trace_id.to_bytes(16, "big")
        message.span_id = record.trace.span_id.to_bytes(8, "big") if record.trace.span_id else b""
        message.flags = record.trace.flags
    return message


def _key_values(items: Any) -> list[KeyValue]:
    return [KeyValue(key=key, value=_any_value(value)) for key, value in items.items()]


def _any_value(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, str):
        return AnyValue(string_value=value)
    if isinstance(value, int):
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, bytes):
        return AnyValue(bytes_value=value)
    if isinstance(value, Mapping):
        return AnyValue(kvlist_value=KeyValueList(values=_key_values(value)))
    if isinstance(value, (list, tuple)):
        return AnyValue(array_value=ArrayValue(values=map(_any_value, value)))
    return AnyValue()


def _record(message: LogRecord) -> Record:
    trace = None
    if len(message.trace_id) == 16 and any(message.trace_id):
        span = message.span_id if len(message.span_id) == 8 else b""
        trace = TraceRef(
            int.from_bytes(message.trace_id, "big"), int.from_bytes(span, "big"), message.flags
        )
    return Record(
        name=message.event_name, attributes=plain_mapping(message.attributes),
        time_unix_ns=message.time_unix_nano or None,
        observed_unix_ns=message.observed_time_unix_nano or None,
        severity=message.severity_number, trace=trace, body=_value(message.body),
    )


def plain_mapping(pairs: Any) -> dict[str, Any]:
    """KeyValues as a dictionary; of a key that is there twice the last one counts."""
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: AnyValue) -> Any:
    which = value.WhichOneof("value")
    if which is None:
        return None
    found = getattr(value, which)
    if which == "kvlist_value":
        return plain_mapping(found.values)
    return [_value(item) for item in found.values] if which == "array_value" else found
