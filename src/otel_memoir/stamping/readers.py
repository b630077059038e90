"""Events from what carries them: OTLP bytes, and the lines of a Collector's file export.

    for event in events_of_file(Path("export.jsonl")):
        ...
    resolution = resolve(events_of_file(Path("export.jsonl")))

A record without stamps is no event, and is passed over; so is what a Collector that was
killed has left of a line.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import InstrumentationScope
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from otel_memoir.delivery.encoding import CLOCK_ERROR_BOUND, SEQUENCE, STREAM_EPOCH, STREAM_ID, UID
from otel_memoir.stamping.event import StampedEvent

CAUSES = "memoir.cause.uids"

_BEGIN_OF_REQUEST = '{"resourceLogs":'
_ID_FIELDS = ("traceId", "spanId")


@dataclass(frozen=True, kw_only=True)
class ReadRecord:
    """A record as it was read.

    Attributes:
        log: The record.

        resource: Its resource.

        scope: Its instrumentation scope.

        event: Its stamps; ``None`` if it has none. Its payload is the record.
    """

    log: LogRecord
    resource: Resource
    scope: InstrumentationScope
    event: StampedEvent | None


def digest_of(log: LogRecord) -> str:
    """What copies of a record share: all that is in it, whatever the order of its attributes.

    A pipeline that adds attributes to some of the copies makes others of them: there
    ``uid_of`` is the better digest.
    """
    whole = LogRecord()
    whole.CopyFrom(log)
    del whole.attributes[:]
    digest = hashlib.blake2b(whole.SerializeToString(deterministic=True), digest_size=16)
    for entry in sorted(each.SerializeToString(deterministic=True) for each in log.attributes):
        digest.update(len(entry).to_bytes(8, "big") + entry)
    return digest.hexdigest()


def uid_of(log: LogRecord) -> str:
    """The id of a record's emission; empty if it has none."""
    return next((e.value.string_value for e in log.attributes if e.key == UID), "")


Digest = Callable[[LogRecord], str]


def event_of(
    log: LogRecord | bytes, *, rank: int = 0, digest: Digest = digest_of
) -> StampedEvent | None:
    """The stamps of a record; ``None`` if it has none, or they are none.

    Args:
        log: The record, or its bytes.

        rank: Of two sources the one that is preferred has the smaller one.

        digest: What copies of a record share.
    """
    try:
        log = LogRecord.FromString(log) if isinstance(log, bytes) else log
    except DecodeError:
        return None
    found = {entry.key: entry.value for entry in log.attributes}
    if not {UID, STREAM_ID, STREAM_EPOCH, SEQUENCE} <= found.keys():
        return None
    bound = found.get(CLOCK_ERROR_BOUND)
    causes = found[CAUSES].array_value.values if CAUSES in found else ()
    return StampedEvent(
        uid=found[UID].string_value, stream=found[STREAM_ID].string_value,
        epoch=found[STREAM_EPOCH].int_value, sequence=found[SEQUENCE].int_value,
        unix_ns=log.time_unix_nano or log.observed_time_unix_nano,
        error_bound_ns=bound.int_value if bound is not None else None,
        causes=tuple(sorted(cause.string_value for cause in causes)),
        digest=digest(log), rank=rank, payload=log,
    )


def records_of_request(
    request: ExportLogsServiceRequest | bytes, *, rank: int = 0, digest: Digest = digest_of
) -> Iterator[ReadRecord]:
    """The records of an OTLP request, in order.

    Raises:
        google.protobuf.message.DecodeError: These bytes are no request.
    """
    if isinstance(request, bytes):
        request = ExportLogsServiceRequest.FromString(request)
    for of_resource in request.resource_logs:
        for of_scope in of_resource.scope_logs:
            for log in of_scope.log_records:
                yield ReadRecord(
                    log=log, resource=of_resource.resource, scope=of_scope.scope,
                    event=event_of(log, rank=rank, digest=digest),
                )


def records_of_file(
    path: Path, *, rank: int = 0, digest: Digest = digest_of
) -> Iterator[ReadRecord]:
    """The records of a file that a Collector's ``file`` exporter wrote: OTLP/JSON, line by line.

    Raises:
        OSError: The file cannot be read.
    """
    with path.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            for request in _requests_in(line.rstrip("\n")):
                yield from records_of_request(request, rank=rank, digest=digest)


def events_of_request(
    request: ExportLogsServiceRequest | bytes, *, rank: int = 0, digest: Digest = digest_of
) -> Iterator[StampedEvent]:
    """The stamped records of an OTLP request. Raises as ``records_of_request``."""
    for record in records_of_request(request, rank=rank, digest=digest):
        if record.event is not None:
            yield record.event


def events_of_file(
    path: Path, *, rank: int = 0, digest: Digest = digest_of
) -> Iterator[StampedEvent]:
    """The stamped records of a Collector's file export. Raises as ``records_of_file``."""
    for record in records_of_file(path, rank=rank, digest=digest):
        if record.event is not None:
            yield record.event


def _requests_in(line: str) -> Iterator[ExportLogsServiceRequest]:
    """The requests on a line: usually one.

    The exporter writes a request and its line end apart, and a large request in parts. A
    kill in between leaves two on one line, or the beginning of one before the next.
    """
    decoder, position = json.JSONDecoder(), 0
    while position < len(line):
        try:
            found, position = decoder.raw_decode(line, position)
            yield _request(found)
        except (json.JSONDecodeError, ParseError, TypeError, ValueError, AttributeError):
            position = line.find(_BEGIN_OF_REQUEST, position + 1)
            if position < 0:
                return


def _request(found: Any) -> ExportLogsServiceRequest:
    for of_resource in found.get("resourceLogs", ()):
        for of_scope in of_resource.get("scopeLogs", ()):
            for log in of_scope.get("logRecords", ()):
                # OTLP/JSON has ids in hexadecimal, where protobuf's own JSON has base64.
                for name in _ID_FIELDS:
                    if log.get(name):
                        log[name] = base64.b64encode(bytes.fromhex(log[name])).decode()
    return ParseDict(found, ExportLogsServiceRequest(), ignore_unknown_fields=True)
