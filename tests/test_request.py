"""Rows become one request, in their order and byte for byte."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import ResourceLogs, ScopeLogs
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.delivery.encoding import encode_record
from otel_memoir.delivery.request import build_request, split_envelope
from otel_memoir.errors import SpoolCorruptError

RESOURCES = [
    Resource({"service.name": "one"}, "https://schema/1"),
    Resource({"n": 2}),
    Resource({}),
]
SCOPES = [
    InstrumentationScope("a", "1", "https://schema/a", {"k": [1, "v"]}),
    InstrumentationScope("b"),
    None,
]


def a_record(body: str, resource: int = 0, scope: int = 0) -> ReadableLogRecord:
    """A record of one of the resources and scopes above."""
    log = LogRecord(body=body, observed_timestamp=1)
    return ReadableLogRecord(log, RESOURCES[resource], SCOPES[scope])


def rows_of(records: list[ReadableLogRecord]) -> list[tuple[bytes, bytes]]:
    """The rows that the spool would hold."""
    return [encode_record(record)[:2] for record in records]


def parsed(rows: list[tuple[bytes, bytes]]) -> ExportLogsServiceRequest:
    """What a server reads."""
    return ExportLogsServiceRequest.FromString(build_request(rows))


def flat(request: ExportLogsServiceRequest) -> list[tuple[Any, ...]]:
    """Each record with its resource and scope, in the order of the request."""
    return [
        (str(logs.resource), logs.schema_url, str(part.scope), part.schema_url, str(record))
        for logs in request.resource_logs
        for part in logs.scope_logs
        for record in part.log_records
    ]


def runs_of(request: ExportLogsServiceRequest) -> list[list[list[str]]]:
    """The bodies by resource and scope, as the request groups them."""
    return [
        [[record.body.string_value for record in part.log_records] for part in logs.scope_logs]
        for logs in request.resource_logs
    ]


def test_neighbours_share_what_they_have_in_common() -> None:
    """One ResourceLogs per run of a resource, in it one ScopeLogs per run of a scope."""
    places = [(0, 0), (0, 0), (0, 1), (1, 1), (1, 1), (0, 0)]
    records = [a_record(str(n), *place) for n, place in enumerate(places)]
    assert runs_of(parsed(rows_of(records))) == [[["0", "1"], ["2"]], [["3", "4"]], [["5"]]]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), max_size=12))
def test_each_record_arrives_in_order_with_its_own_resource_and_scope(
    places: list[tuple[int, int]],
) -> None:
    """Against the official encoder, given one record at a time."""
    records = [a_record(str(n), *place) for n, place in enumerate(places)]
    assert flat(parsed(rows_of(records))) == [
        line for record in records for line in flat(encode_logs([record]))
    ]


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20))
def test_a_batch_of_one_resource_and_scope_is_the_official_request(bodies: list[str]) -> None:
    """Where the official encoder does not reorder, the whole message is equal."""
    records = [a_record(body) for body in bodies]
    assert parsed(rows_of(records)) == encode_logs(records)


def test_the_official_encoder_reorders_and_ours_does_not() -> None:
    """Why the requests are not compared whole where scopes alternate."""
    records = [a_record("0", scope=0), a_record("1", scope=1), a_record("2", scope=0)]
    assert runs_of(encode_logs(records)) == [[["0", "2"], ["1"]]]
    assert runs_of(parsed(rows_of(records))) == [[["0"], ["1"], ["2"]]]


def test_a_payload_is_in_the_request_byte_for_byte() -> None:
    """Nothing is parsed: also bytes that are no record pass through, once each."""
    envelope = rows_of([a_record("x")])[0][0]
    payloads = [bytes([n]) * size for n, size in ((250, 1), (251, 127), (252, 128), (253, 20000))]
    request = build_request((envelope, payload) for payload in payloads)
    assert [request.count(payload) for payload in payloads[1:]] == [1, 1, 1]
    assert request.endswith(payloads[-1])


def test_the_same_rows_always_give_the_same_bytes() -> None:
    """A request that is sent again is the request that was sent before."""
    rows = rows_of([a_record(str(n), n % 3, n % 2) for n in range(9)])
    assert build_request(rows) == build_request(iter(list(rows)))


def test_no_rows_give_a_request_without_records() -> None:
    """The empty probe of the courier."""
    assert build_request([]) == b""
    assert not ExportLogsServiceRequest.FromString(b"").resource_logs


def test_an_envelope_splits_into_the_parts_of_the_two_messages() -> None:
    """Each part parses as the message it belongs to."""
    resource_part, scope_part = split_envelope(rows_of([a_record("x")])[0][0])
    logs, part = ResourceLogs.FromString(resource_part), ScopeLogs.FromString(scope_part)
    assert logs.resource.attributes[0].value.string_value == "one"
    assert (logs.schema_url, part.schema_url) == ("https://schema/1", "https://schema/a")
    assert (part.scope.name, part.scope.version) == ("a", "1")


def test_a_damaged_envelope_is_reported_and_never_sent() -> None:
    """Cut at any byte, or longer than it says."""
    envelope, payload = rows_of([a_record("x")])[0]
    for damaged in [*(envelope[:end] for end in range(len(envelope))), envelope + b"x"]:
        with pytest.raises(SpoolCorruptError, match="do not add up"):
            build_request([(damaged, payload)])
