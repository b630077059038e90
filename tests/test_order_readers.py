"""Events from OTLP bytes, from a Collector's file export, and ``otel-memoir events``."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as ProtoLogRecord
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    TraceFlags,
    set_span_in_context,
)

from collector import Collector
from otel_memoir.cli import main
from otel_memoir.cli.event_lines import bound_in_words, moment
from otel_memoir.delivery.encoding import stamp_suffix
from otel_memoir.errors import SpoolError
from otel_memoir.spool import State, Stream
from otel_memoir.spool.directory import slots
from otel_memoir.spool.rows import PAGE_ROWS, Absence, absences, stored_records
from otel_memoir.stamping.readers import (
    digest_of,
    event_of,
    events_of_file,
    events_of_request,
    records_of_file,
    uid_of,
)
from otel_memoir.stamping.resolution import resolve
from otel_memoir.stamping.validation import Gap, explain
from otel_memoir.testing import ScriptedCollector
from socket_programs.wiring import agent
from spool_helpers import open_spool, store

NOON = 1_764_000_000 * 10**9
NOWHERE = "http://127.0.0.1:9"


def proto(sequence: int, uid: str = "", *, stream: str = "s1", **given_: Any) -> ProtoLogRecord:
    """A stamped record."""
    log = ProtoLogRecord(time_unix_nano=NOON + sequence)
    log.body.string_value = f"record {sequence}"
    return ProtoLogRecord.FromString(log.SerializeToString() + stamp_suffix(
        uid=uid or f"{stream}-{sequence}", stream_id=stream, epoch=1, sequence=sequence, **given_
    ))


def request(*logs: ProtoLogRecord) -> ExportLogsServiceRequest:
    """A request with some records."""
    made = ExportLogsServiceRequest()
    made.resource_logs.add().scope_logs.add().log_records.extend(logs)
    return made


def line(*logs: ProtoLogRecord) -> str:
    """A line of a file export with some records."""
    return json.dumps({"resourceLogs": [{"scopeLogs": [{"logRecords": [
        {
            "timeUnixNano": str(log.time_unix_nano),
            "body": {"stringValue": log.body.string_value}, "eventName": log.event_name,
            "attributes": [_pair(entry) for entry in log.attributes],
        } for log in logs
    ]}]}]}, separators=(",", ":"))


def _pair(entry: Any) -> dict[str, Any]:
    is_text = entry.value.HasField("string_value")
    value = (
        {"stringValue": entry.value.string_value} if is_text
        else {"intValue": str(entry.value.int_value)}
    )
    return {"key": entry.key, "value": value}


# -- readers ------------------------------------------------------------------


def test_the_stamps_of_a_record_are_read() -> None:
    """From bytes and from the message; its payload is the record."""
    log = proto(7, time_unix_nano=NOON, error_bound_ns=1250)
    for found in (event_of(log, rank=3), event_of(log.SerializeToString(), rank=3)):
        assert found is not None
        assert found.identity == ("s1", 1, 7)
        assert (found.uid, found.unix_ns, found.error_bound_ns) == ("s1-7", NOON, 1250)
        assert (found.rank, found.digest, found.payload) == (3, digest_of(log), log)


def test_causes_are_read_and_what_has_no_time_has_that_of_its_observation() -> None:
    """``memoir.cause.uids``, sorted."""
    log = proto(1)
    log.time_unix_nano, log.observed_time_unix_nano = 0, 5
    entry = log.attributes.add(key="memoir.cause.uids")
    for uid in ("z", "a"):
        entry.value.array_value.values.add(string_value=uid)
    found = event_of(log)
    assert found is not None and found.causes == ("a", "z")
    assert (found.unix_ns, found.error_bound_ns) == (5, None)


@pytest.mark.parametrize("data", [b"", b"\xff\xff", ProtoLogRecord()])
def test_what_has_no_stamps_is_no_event(data: Any) -> None:
    """Nor is what is no record."""
    assert event_of(data) is None


def test_the_digest_does_not_depend_on_the_order_of_attributes_but_on_all_else() -> None:
    """A pipeline may reorder; two records are never one."""
    log, turned = proto(1), proto(1)
    entries = list(turned.attributes)[::-1]
    del turned.attributes[:]
    turned.attributes.extend(entries)
    assert digest_of(log) == digest_of(turned) != digest_of(proto(2))
    turned.body.string_value = "changed"
    assert digest_of(log) != digest_of(turned)
    assert uid_of(log) == uid_of(turned) == "s1-1"
    assert event_of(turned, digest=uid_of) == event_of(log, digest=uid_of)


def test_a_request_and_a_line_of_an_export_give_the_same_events(tmp_path: Path) -> None:
    """And what has no stamps is passed over, but not unseen."""
    logs = [proto(1), ProtoLogRecord(time_unix_nano=5), proto(2, error_bound_ns=9)]
    path = tmp_path / "export.jsonl"
    path.write_text(line(*logs) + "\n")
    of_request = list(events_of_request(request(*logs).SerializeToString()))
    assert [e.sequence for e in of_request] == [1, 2]
    assert list(events_of_file(path)) == of_request
    assert [record.event is None for record in records_of_file(path)] == [False, True, False]


def test_what_a_killed_collector_left_of_a_line_is_passed_over(tmp_path: Path) -> None:
    """The beginning of a request, then whole ones on the same line."""
    whole = [line(proto(n)) for n in (1, 2, 3)]
    path = tmp_path / "export.jsonl"
    path.write_text(whole[0][:90] + whole[1] + whole[2] + "\n" + whole[0] + "\n" + whole[1][:50])
    assert [e.sequence for e in events_of_file(path)] == [2, 3, 1]


@given(st.lists(st.one_of(
    st.text(), st.sampled_from([
        '{"resourceLogs":', "{}", "[]", "5", '{"resourceLogs":[5]}', '{"resourceLogs":5}',
        '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"traceId":"zz"}]}]}]}',
        '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"timeUnixNano":"-1"}]}]}]}',
        '{"resourceLogs":[{"scopeLogs":[{"logRecords":[{"body":{"intValue":"x"}}]}]}]}',
    ])
)))
def test_no_line_makes_the_reader_raise(tmp_path_factory: Any, lines: list[str]) -> None:
    """Whatever is in the file; what follows is still read."""
    path = tmp_path_factory.mktemp("export") / "export.jsonl"
    good = line(proto(1))
    path.write_text("\n".join([*lines, good]) + "\n", encoding="utf-8", errors="replace")
    assert [e.sequence for e in events_of_file(path)] == [1]


def test_gaps_are_cut_where_the_reason_changes() -> None:
    """Overlapping reasons say each number once; what nobody told stays open."""
    told = [(Gap("a", 1, 3, 4), "refused"), (Gap("a", 1, 4, 6), "evicted"),
            (Gap("a", 2, 1, 9), "other epoch"), (Gap("a", 1, 10, 99), "unclean_end")]
    assert explain([Gap("a", 1, 2, 7), Gap("a", 1, 9, 12), Gap("b", 1, 1, 1)], told) == (
        (Gap("a", 1, 2, 2), ""), (Gap("a", 1, 3, 4), "refused"), (Gap("a", 1, 5, 6), "evicted"),
        (Gap("a", 1, 7, 7), ""), (Gap("a", 1, 9, 9), ""), (Gap("a", 1, 10, 12), "unclean_end"),
        (Gap("b", 1, 1, 1), ""),
    )


# -- rows ---------------------------------------------------------------------


def test_rows_are_read_page_by_page_in_order_while_the_file_is_written(tmp_path: Path) -> None:
    """What comes after the first page was read is read too."""
    spool = open_spool(tmp_path, durability="process")
    for number in range(PAGE_ROWS + 2):
        store(spool, f"r{number}")
    assert spool.file is not None
    reading = stored_records(Path(spool.file.path))
    first = next(reading)
    store(spool, "late")
    assert (first.stream.epoch, first.sequence, first.state) == (1, 1, State.PENDING)
    assert b"<r0>" in first.payload and first.envelope == b"envelope"
    assert [row.sequence for row in reading] == list(range(2, PAGE_ROWS + 4))
    spool.close(1.0)


def test_what_is_no_spool_file_says_so(tmp_path: Path) -> None:
    """As every look at a file does."""
    (tmp_path / "other").write_bytes(b"no database, but longer than a header is: " + bytes(200))
    for read in (stored_records, absences):
        with pytest.raises(SpoolError):
            list(read(tmp_path / "other"))


# -- the command --------------------------------------------------------------


def run(*arguments: object) -> Result:
    """Run ``otel-memoir events`` in this process."""
    return CliRunner().invoke(
        main, ["events", *map(str, arguments)], env={"MEMOIR_SPOOL_DIR": ""}
    )


def shown(*arguments: object, code: int = 0) -> Any:
    """What it prints with ``--json``."""
    result = run(*arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


def alter(directory: Path, sql: str) -> None:
    """Change a spool file by hand."""
    with closing(sqlite3.connect(slots(directory)[0].database)) as connection, connection:
        assert connection.execute(sql).rowcount > 0


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A dead spool: two delivered records, then three of another life that wait."""
    with ScriptedCollector() as receiver, agent(tmp_path / "spool", receiver.endpoint) as it:
        it.emit(2)
        assert it.processor.wait_delivered(30.0)
    with agent(tmp_path / "spool", NOWHERE, shutdown_timeout_s=0.0) as it:
        it.logger.emit(LogRecord(
            timestamp=5, body="three\nlines  " + "x" * 100, event_name="memoir.note"
        ))
        it.emit(2)
    return tmp_path / "spool"


def test_it_lists_what_waits_and_what_is_delivered_and_kept(spool: Path) -> None:
    """With state, place, time, name and body."""
    found = shown(spool)
    assert [(e["state"], e["epoch"], e["sequence"]) for e in found["events"]] == [
        ("delivered", 1, 1), ("delivered", 1, 2), ("pending", 2, 1), ("pending", 2, 2),
        ("pending", 2, 3),
    ]
    assert [e["event"] for e in found["events"]] == ["", "", "memoir.note", "", ""]
    assert found["events"][0]["body"] == "hello"
    times = [e["unix_ns"] for e in found["events"]]
    assert times == sorted(times)  # of the stamps, though one record has a time of its own
    assert len({e["uid"] for e in found["events"]}) == 5
    assert (found["unstamped"], found["damaged"]) == (0, [])
    assert "gaps" not in found


def test_a_person_gets_a_table_with_one_line_a_record(spool: Path) -> None:
    """A long body is cut."""
    lines = run(spool).stdout.splitlines()
    assert len(lines) == 6
    assert lines[0].split()[:4] == ["state", "stream", "epoch", "sequence"]
    assert "memoir.note" in lines[3] and "three lines x" in lines[3] and lines[3].endswith("…")


def test_several_spools_are_brought_into_one_order(spool: Path, tmp_path: Path) -> None:
    """By directory, or those of the option; each stream in its own order."""
    with agent(tmp_path / "other", NOWHERE, shutdown_timeout_s=0.0) as it:
        it.emit(3)
    found = shown(tmp_path / "other", spool, "--order")
    assert len(found["events"]) == 8
    assert [e["unix_ns"] for e in found["events"]] == sorted(e["unix_ns"] for e in found["events"])
    assert found["gaps"] == found["conflicts"] == found["regressions"] == found["dismissed"] == []
    assert len(shown("--spool-dir", spool)["events"]) == 5


def test_a_missing_number_is_told_with_its_cause_or_as_one_that_nobody_told(spool: Path) -> None:
    """A loss that is on file is no error of the file's; one that is not is."""
    alter(spool, "DELETE FROM record WHERE sequence = 2 AND stream = 2")
    assert [g["cause"] for g in shown(spool, "--order", code=1)["gaps"]] == [""]
    assert shown(spool)["events"][3]["sequence"] == 3
    alter(spool, "INSERT INTO gap (stream, cause, records, first_sequence, last_sequence, "
                 "noticed_unix_ns) VALUES (2, 'evicted', 1, 2, 2, 0)")
    (gap,) = shown(spool, "--order")["gaps"]
    assert (gap["epoch"], gap["first"], gap["last"], gap["cause"]) == (2, 2, 2, "evicted")
    said = run(spool, "--order")
    assert said.exit_code == 0 and "sequence 2 is not here: evicted" in said.stdout


def test_delivered_records_that_are_pruned_are_no_gap_that_nobody_told(spool: Path) -> None:
    """The ledger remembers them."""
    alter(spool, "DELETE FROM record WHERE stream = 1 AND sequence = 1")
    alter(spool, "UPDATE batch SET pruned = 1, last_sequence = 1, last_id = 1 WHERE stream = 1")
    path = slots(spool)[0].database
    assert [a.cause for a in absences(path)] == ["delivered, pruned"]
    assert isinstance(absences(path)[0], Absence)
    assert isinstance(absences(path)[0].stream, Stream)
    (gap,) = shown(spool, "--order")["gaps"]
    assert gap["cause"] == "delivered, pruned"


@pytest.mark.parametrize("sql", [
    "UPDATE record SET payload = zeroblob(9) WHERE sequence = 2 AND stream = 2",
    "UPDATE envelope SET bytes = zeroblob(9)",
])
def test_a_damaged_record_is_told_and_the_others_are_shown(spool: Path, sql: str) -> None:
    """Exit code 1: something is wrong."""
    alter(spool, sql)
    found = shown(spool, code=1)
    assert len(found["damaged"]) + len(found["events"]) == 5 and found["damaged"]


def test_an_export_is_read_beside_or_instead_and_its_gap_events_explain_its_gaps(
    tmp_path: Path
) -> None:
    """A conflict, a copy, a regression, and a gap that an event of the export tells of."""
    gap = proto(1, stream="ops")
    gap.event_name = "memoir.delivery.gap"
    for name, value in (("first_sequence", 4), ("last_sequence", 5), ("stream.epoch", 1)):
        gap.attributes.add(key=f"memoir.gap.{name}").value.int_value = value
    gap.attributes.add(key="memoir.gap.stream.id").value.string_value = "s1"
    gap.attributes.add(key="memoir.gap.cause").value.string_value = "unclean_end"
    late = proto(6, time_unix_nano=NOON)
    path = tmp_path / "export.jsonl"
    path.write_text(
        line(proto(1), proto(2), proto(2), proto(2, "clone"), late, gap, ProtoLogRecord()) + "\n"
    )
    found = shown("--from-file", path, "--order", code=1)
    assert [(g["first"], g["last"], g["cause"]) for g in found["gaps"]] == [
        (3, 3, ""), (4, 5, "unclean_end"),
    ]
    assert [sorted(e["uid"] for e in group) for group in found["conflicts"]] == [["clone", "s1-2"]]
    assert (found["regressions"], found["unstamped"]) == (["s1-6"], 1)
    assert len(found["events"]) == 5
    said = run("--from-file", path, "--order").stdout
    for sentence in ("1 record(s) without stamps", "nobody told why", "conflict: s1 epoch 1",
                     "time regression: s1 epoch 1 sequence 6", "sequence 4 to 5 is not here"):
        assert sentence in said
    one = shown("--from-file", path, "--order", "--policy", "last_writer", code=1)
    assert len(one["events"]) == 4 and one["events"][0]["state"] == "exported"


def test_nothing_to_show_is_said(tmp_path: Path) -> None:
    """An empty directory is no error."""
    assert run(tmp_path).stdout.strip() == "there are no records"


@pytest.mark.parametrize(("unix_ns", "text"), [
    (NOON + 5, "2025-11-24T16:00:00.000000005Z"), (0, "1970-01-01T00:00:00.000000000Z"),
    (2**70, f"{2**70} ns"),
])
def test_a_time_is_shown_to_the_nanosecond(unix_ns: int, text: str) -> None:
    """Or as it is, where no calendar has it."""
    assert moment(unix_ns) == text


@pytest.mark.parametrize(("bound_ns", "text"), [
    (None, "-"), (0, "±0 ns"), (999, "±999 ns"), (1250, "±1.2 µs"), (1_250_000, "±1.2 ms"),
    (2 * 10**9, "±2.0 s"),
])
def test_a_bound_is_shown_in_a_unit_that_a_person_would_use(
    bound_ns: int | None, text: str
) -> None:
    """A bound that nobody knows is none that is zero."""
    assert bound_in_words(bound_ns) == text


# -- with a real Collector ----------------------------------------------------


@pytest.mark.collector
def test_what_a_collector_exported_and_what_the_spool_kept_are_copies_of_each_other(
    collector: Collector, tmp_path: Path
) -> None:
    """Ids, nested values, bytes, numbers and text come back as they went."""
    context = set_span_in_context(NonRecordingSpan(SpanContext(
        0x1234_5678_9ABC_DEF0_1234_5678_9ABC_DEF0, 0x1234_5678_9ABC_DEF0, False, TraceFlags(1)
    )))
    with agent(tmp_path / "spool", collector.http_endpoint) as it:
        it.emit(20, nested={"a": [1, 2.5, "x", None, {"b": b"\x00\xff"}]}, text="ü\u2028\x00 €")
        it.logger.emit(LogRecord(
            timestamp=NOON, context=context, severity_number=SeverityNumber.WARN,
            severity_text="WARN", body={"k": ""}, event_name="memoir.note",
            attributes={"float": 0.1, "big": 2**62, "empty": "", "list": []},
        ))
        assert it.processor.wait_delivered(30.0)
    collector.wait_received(21, timeout=30.0)
    stored = [
        event_of(row.payload) for slot in slots(tmp_path / "spool")
        for row in stored_records(slot.database)
    ]
    exported = list(events_of_file(collector.output))
    both = resolve([*exported, *(event for event in stored if event is not None)])
    assert len(exported) == len(stored) == len(both.events) == 21
    assert both.conflicts == both.gaps == ()
    found = shown(tmp_path / "spool", "--from-file", collector.output, "--order")
    assert len(found["events"]) == 21 and found["conflicts"] == []
