"""Every form of an event: nothing is lost on the way, and others can read it."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import trace as otel_trace
from opentelemetry._logs import LogRecord
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as ProtoLogRecord
from opentelemetry.sdk._logs import ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from events.making import EVERYTHING, PATIENT, TEXT, events, full_event
from otel_memoir.delivery.encoding import encode_record, stamp_suffix
from otel_memoir.errors import EventError
from otel_memoir.events import (
    MemoryEvent,
    Opaque,
    TraceRef,
    current_trace,
    from_cloud_event,
    from_log_record,
    from_otlp,
    from_otlp_json,
    from_otlp_json_request,
    from_otlp_request,
    names,
    to_cloud_event,
    to_log_record,
    to_otlp,
    to_otlp_json,
)
from otel_memoir.events.record import Record

STRANGE = Record(
    name="disk.full", body="words", severity=13, trace=TraceRef(1, 2, 1), observed_unix_ns=5,
    attributes={names.LOG_RECORD_UID: "u", names.STREAM_ID: "s", names.STREAM_EPOCH: 1,
                names.SEQUENCE: 1, "x": [1, {"y": b"1"}]},
)
Form = tuple[Callable[..., Any], Callable[[Any], Any]]


def to_json_text(event: MemoryEvent | Opaque, **options: Any) -> str:
    """OTLP JSON as it goes over a wire; strictly JSON."""
    return json.dumps(to_otlp_json(event, **options), allow_nan=False)


def to_cloud_text(event: MemoryEvent | Opaque, **options: Any) -> str:
    """A CloudEvent as it goes over a wire; strictly JSON."""
    return json.dumps(to_cloud_event(event, **options), allow_nan=False)


FORMS: dict[str, Form] = {
    "LogRecord": (to_log_record, from_log_record),
    "OTLP": (to_otlp, from_otlp),
    "OTLP JSON": (to_json_text, lambda text: from_otlp_json(json.loads(text))),
    "CloudEvents": (to_cloud_text, lambda text: from_cloud_event(json.loads(text))),
}
each_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())


@each_form
def test_a_full_event_comes_back_from_every_form(form: Form) -> None:
    """With stamps, trace, content and attributes of strangers."""
    write, read = form
    assert read(write(full_event(), capture=EVERYTHING)) == full_event()


@pytest.mark.parametrize("name", ["OTLP", "OTLP JSON"])
@PATIENT
@given(event=events())
@example(event=MemoryEvent(names.EVENT_RECORD_READ, record_id="r", attributes={"x": None}))
def test_any_event_comes_back_from_otlp(name: str, event: MemoryEvent) -> None:
    """Bit for bit: 1 is not 1.0, and b"1" is not "1"."""
    write, read = FORMS[name]
    back = read(write(event, capture=EVERYTHING))
    assert back == event
    assert repr(back.to_attributes(content=True)) == repr(event.to_attributes(content=True))


@PATIENT
@given(event=events(stamped=True))
def test_any_stamped_event_comes_back_from_a_cloud_event(event: MemoryEvent) -> None:
    """In plain JSON where that says it all, also to a reader whose numbers are doubles."""
    text = to_cloud_text(event, capture=EVERYTHING)
    back = from_cloud_event(json.loads(text, parse_int=lambda digits: int(float(digits))))
    assert isinstance(back, MemoryEvent)
    assert back == event
    for key, value in event.to_attributes(content=True).items():
        assert repr(back.to_attributes(content=True)[key]) == repr(value)


@PATIENT
@given(event=events())
def test_any_event_comes_back_from_a_log_record(event: MemoryEvent) -> None:
    """With an observed timestamp, which the API adds where there is none."""
    record = to_log_record(event, capture=EVERYTHING)
    expected = dataclasses.replace(event, observed_unix_ns=record.observed_timestamp)
    assert from_log_record(record) == expected


@PATIENT
@given(event=events())
def test_a_log_record_that_our_encoder_stores_is_the_event_again(event: MemoryEvent) -> None:
    """The way that an event takes: the API, the SDK, our encoder, the spool."""
    record = to_log_record(event, capture=EVERYTHING)
    encoded = encode_record(ReadWriteLogRecord(record, Resource.get_empty()))
    assert not encoded.repaired
    assert from_otlp(encoded.payload) == from_log_record(record)


def test_stamps_that_the_spool_appends_are_read() -> None:
    """The last of a field counts, also where the payload had stamps of its own before."""
    payload = to_otlp(full_event(), capture=EVERYTHING) + stamp_suffix(
        uid="fresh", stream_id="s2", epoch=3, sequence=2**40, time_unix_nano=17,
        error_bound_ns=5, clock_status="uncalibrated",
    )
    assert from_otlp(payload) == full_event(
        uid="fresh", stream_id="s2", stream_epoch=3, sequence=2**40, time_unix_ns=17,
        clock_error_bound_ns=5, clock_status="uncalibrated",
    )


def as_protobuf_json(document: dict[str, Any]) -> dict[str, Any]:
    """OTLP JSON as protobuf's own mapping has it, which writes ids in base64."""
    ids = {key: base64.b64encode(bytes.fromhex(document[key])).decode()
           for key in ("traceId", "spanId") if key in document}
    return {**document, **ids}


@PATIENT
@given(event=events())
@example(event=full_event())
def test_otlp_json_says_what_otlp_says(event: MemoryEvent) -> None:
    """Judged by protobuf's own parser of JSON, but for the ids, which OTLP writes in hex."""
    document = json.loads(to_json_text(event, capture=EVERYTHING))
    message = json_format.ParseDict(as_protobuf_json(document), ProtoLogRecord())
    assert message == ProtoLogRecord.FromString(to_otlp(event, capture=EVERYTHING))


def test_otlp_json_follows_the_rules_of_otlp() -> None:
    """Ids in hex, 64-bit integers as text, enum values as numbers, names in camel case."""
    document = to_otlp_json(full_event())
    assert document["traceId"] == "80000000000000000000000000000001"
    assert document["spanId"] == "8000000000000001"
    assert document["timeUnixNano"] == "1700000000123456789"
    assert document["severityNumber"] == 9
    assert document["eventName"] == names.EVENT_RECORD_UPDATED
    assert {"key": names.SEQUENCE, "value": {"intValue": "4711"}} in document["attributes"]


def test_otlp_json_is_read_as_others_write_it() -> None:
    """Numbers for integers, fields of the future, absent values."""
    event = from_otlp_json({
        "timeUnixNano": 17, "eventName": names.EVENT_RECORD_READ, "ofTheFuture": {"x": 1},
        "traceId": "", "attributes": [
            {"key": names.GEN_AI_MEMORY_RECORD_ID, "value": {"stringValue": "r"}},
            {"key": names.RECORD_VERSION, "value": {"intValue": 3}},
            {"key": names.SCHEMA_VERSION, "value": {"intValue": 1}},
            {"key": "theirs", "value": {}}, {"key": "more", "value": {"doubleValue": "NaN"}}],
    })
    assert isinstance(event, MemoryEvent)
    assert (event.time_unix_ns, event.record_version, event.trace) == (17, 3, None)
    assert event.attributes["theirs"] is None
    assert str(event.attributes["more"]) == "nan"


def test_a_cloud_event_has_what_the_specification_asks_for() -> None:
    """CloudEvents 1.0, and its extensions sequence and distributed tracing."""
    document = to_cloud_event(full_event())
    assert {key: value for key, value in document.items() if key != "data"} == {
        "specversion": "1.0",
        "id": "01890a5d-ac96-774b-bcce-b302099a8057",
        "source": "urn:otel-memoir:stream:9f86d081884c7d65:1",
        "type": "memoir.record.updated",
        "subject": "mem_42",
        "time": "2023-11-14T22:13:20.123456789Z",
        "dataschema": "urn:otel-memoir:schema:1",
        "datacontenttype": "application/json",
        "sequence": "00000000000000004711",
        "traceparent": "00-80000000000000000000000000000001-8000000000000001-01",
    }
    # "CE attribute names MUST consist of lower-case letters ('a' to 'z') or digits."
    assert all(re.fullmatch("[a-z0-9]+", key) for key in document)
    assert document["data"]["attributes"]["their.attribute"] == [
        1, {"nested": {"bytesValue": "AA=="}}]


@PATIENT
@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1))
def test_sequences_of_cloud_events_compare_as_the_numbers_do(one: int, other: int) -> None:
    """The extension says: lexicographically."""
    first, second = (to_cloud_event(full_event(sequence=n))["sequence"] for n in (one, other))
    assert (first < second) == (one < other)


@PATIENT
@given(TEXT, st.integers(0, 2**63 - 1))
def test_each_stream_and_epoch_is_a_source_of_its_own(stream_id: str, epoch: int) -> None:
    """The scope of a sequence is its source, so epochs must not share one."""
    document = to_cloud_event(full_event(stream_id=stream_id, stream_epoch=epoch))
    assert re.fullmatch(r"[!-~]+", document["source"])
    back = from_cloud_event(document)
    assert isinstance(back, MemoryEvent)
    assert (back.stream_id, back.stream_epoch) == (stream_id, epoch)


@pytest.mark.parametrize("trace", [TraceRef(1), TraceRef(1, 0, 1), TraceRef(1, 2, 0x301)])
def test_what_a_traceparent_cannot_say_stands_in_the_data(trace: TraceRef) -> None:
    """A trace without a span, which W3C takes for invalid, and flags above eight bits."""
    document = to_cloud_event(full_event(trace=trace))
    assert ("traceparent" in document) == bool(trace.span_id)
    back = from_cloud_event(document)
    assert isinstance(back, MemoryEvent)
    assert back.trace == trace


@pytest.mark.parametrize("text", [
    "2023-11-14T22:13:20.123456789Z", "2023-11-14T23:13:20.123456789+01:00"])
def test_a_cloud_event_may_come_back_in_another_time_zone(text: str) -> None:
    """RFC 3339 allows it, and brokers rewrite."""
    back = from_cloud_event({**to_cloud_event(full_event()), "time": text})
    assert isinstance(back, MemoryEvent)
    assert back.time_unix_ns == full_event().time_unix_ns


@pytest.mark.parametrize("field", ["uid", "stream_id", "stream_epoch", "sequence"])
def test_an_event_without_stamps_is_no_cloud_event_yet(field: str) -> None:
    """An id that is made up could not be recognised again."""
    with pytest.raises(EventError, match="is missing. Only emitted events have stamps"):
        to_cloud_event(full_event(**{field: None}))


@pytest.mark.parametrize(("read", "nonsense"), [
    (from_otlp, b"\xff\xff\xff"),
    (from_otlp_json, []),
    (from_otlp_json, {"timeUnixNano": "soon"}),
    (from_otlp_json, {"attributes": [{"value": {}}]}),
    (from_otlp_json, {"attributes": [{"key": "x", "value": {"bytesValue": "?"}}]}),
    (from_log_record, LogRecord(timestamp=-1)),
    (from_log_record, LogRecord(attributes=3)),  # type: ignore[arg-type]
    (from_cloud_event, {}),
    (from_cloud_event, {**to_cloud_event(full_event()), "specversion": "0.3"}),
    (from_cloud_event, {**to_cloud_event(full_event()), "source": "/somebody/else"}),
    (from_cloud_event, {**to_cloud_event(full_event()), "time": "yesterday"}),
])
def test_what_is_of_no_form_at_all_is_refused_in_words(
    read: Callable[[Any], Any], nonsense: Any
) -> None:
    """No exception of a parser comes out."""
    with pytest.raises(EventError, match="read event"):
        read(nonsense)


NONSENSE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner,
                                                                 max_size=2),
    max_leaves=4,
)


@st.composite
def spoiled(draw: st.DrawFn, document: dict[str, Any]) -> dict[str, Any]:
    """A document with nonsense in one place."""
    parts = [document, *(part for part in document.values() if isinstance(part, dict))]
    spoilt = json.loads(json.dumps(document))
    part = draw(st.sampled_from(range(len(parts))))
    inner = spoilt if part == 0 else [p for p in spoilt.values() if isinstance(p, dict)][part - 1]
    inner[draw(st.sampled_from(sorted(inner)))] = draw(NONSENSE)
    return spoilt


@PATIENT
@given(spoiled(to_otlp_json(full_event())), spoiled(to_cloud_event(full_event())), NONSENSE)
def test_nonsense_in_json_is_refused_in_words_or_passed_on(
    otlp: Any, cloud: Any, nothing: Any
) -> None:
    """Whatever stands wherever."""
    for read, document in ((from_otlp_json, otlp), (from_cloud_event, cloud),
                           (from_otlp_json, nothing), (from_cloud_event, nothing)):
        with contextlib.suppress(EventError):
            assert isinstance(read(document), (MemoryEvent, Opaque))


def test_a_number_that_is_infinite_is_refused_in_words() -> None:
    """JSON has none, but Python reads and writes one."""
    with pytest.raises(EventError):
        from_cloud_event({**to_cloud_event(full_event()), "sequence": float("inf")})


@PATIENT
@given(st.binary(max_size=40), st.integers(0, 400), st.integers(0, 255))
def test_nonsense_in_bytes_is_refused_in_words_or_passed_on(
    noise: bytes, position: int, byte: int
) -> None:
    """Random bytes, and an event with one byte changed."""
    payload = bytearray(to_otlp(full_event()))
    payload[position] = byte
    for data in (noise, bytes(payload)):
        with contextlib.suppress(EventError):
            assert isinstance(from_otlp(data), (MemoryEvent, Opaque))


def test_whole_requests_are_read_in_their_order() -> None:
    """What a receiver gets, and what a Collector's file exporter writes."""
    sent = [full_event(sequence=n) for n in (1, 2, 3)]
    request = ExportLogsServiceRequest()
    for event in sent:
        logs = request.resource_logs.add().scope_logs.add()
        logs.log_records.append(ProtoLogRecord.FromString(to_otlp(event, capture=EVERYTHING)))
    assert list(from_otlp_request(request.SerializeToString())) == sent
    line = {"resourceLogs": [{"scopeLogs": [
        {"logRecords": [to_otlp_json(event, capture=EVERYTHING)]} for event in sent]}]}
    assert list(from_otlp_json_request(line)) == sent
    with pytest.raises(EventError, match="of one OTLP ExportLogsServiceRequest"):
        list(from_otlp_request(b"\xff"))
    with pytest.raises(EventError, match="read event"):
        list(from_otlp_json_request({"resourceLogs": 3}))


def test_an_event_is_emitted_in_its_own_trace_and_in_no_other() -> None:
    """The API would take the current span for an event that has none."""
    flags = otel_trace.TraceFlags(1)
    span = otel_trace.NonRecordingSpan(otel_trace.SpanContext(1, 2, False, flags))
    with otel_trace.use_span(span):
        assert current_trace() == TraceRef(1, 2, 1)
        assert to_log_record(full_event(trace=None)).trace_id == 0
        assert to_log_record(full_event()).trace_id == 2**127 + 1
        assert LogRecord().trace_id == 1  # what the API does
    assert current_trace() is None


@each_form
def test_a_record_of_somebody_else_is_passed_on_untouched(form: Form) -> None:
    """In every form, with the reason why it is no event."""
    write, read = form
    strange = read(write(Opaque(record=STRANGE, reason="", form="", original=None)))
    assert isinstance(strange, Opaque)
    assert "no such event" in strange.reason
    assert write(strange) == write(read(write(strange)))
    for other, reread in FORMS.values():
        again = reread(other(strange))
        assert again.record.attributes == strange.record.attributes
        assert again.record.body == strange.record.body
        assert again.record.trace == strange.record.trace


@PATIENT
@given(st.integers(-(2**31), 2**31 - 1))
def test_a_severity_that_has_no_name_is_passed_on(severity: int) -> None:
    """A record of another program may have any."""
    payload = ProtoLogRecord(severity_number=severity, event_name="x")  # type: ignore[arg-type]
    strange = from_otlp(payload.SerializeToString())
    assert to_otlp(strange) == payload.SerializeToString()
    assert json.loads(to_json_text(strange)).get("severityNumber", 0) == severity
    assert to_log_record(strange).event_name == "x"


def test_protobuf_is_loaded_by_whoever_needs_it_first() -> None:
    """It takes as long to import as all the rest of the room."""
    code = "import sys, otel_memoir.events; print('google.protobuf.message' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
