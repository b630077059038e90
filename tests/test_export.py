"""Retained events for other tools, and for a collector that lost them."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlite_utils
from click.testing import CliRunner, Result
from opentelemetry._logs import LogRecord, SeverityNumber

from collector import Collector
from otel_memoir.cli import main
from otel_memoir.delivery.backoff import Backoff
from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.errors import SpoolError
from otel_memoir.events import Capture, MemoryEvent, from_cloud_event, to_log_record
from otel_memoir.retrieval import export as export_module
from otel_memoir.retrieval.export import export_to_file
from otel_memoir.retrieval.forms import COLUMNS
from otel_memoir.retrieval.query import Retrieval, events
from otel_memoir.retrieval.redeliver import Redelivered, Redelivery
from otel_memoir.settings import Settings
from otel_memoir.spool import State
from otel_memoir.spool.directory import slots
from otel_memoir.spool.rows import stored_records
from otel_memoir.spool.table_file import write_tables
from otel_memoir.stamping.readers import event_of, events_of_file
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector
from retrieval_world import NOON_NS, writer
from socket_programs.wiring import agent
from spool_helpers import problems_of

NOWHERE = "http://127.0.0.1:9"
TIMEOUT_S = 20.0


def run(*arguments: object, endpoint: str = NOWHERE) -> Result:
    """Run ``otel-memoir export`` in this process."""
    return CliRunner().invoke(
        main, ["export", *(str(argument) for argument in arguments)],
        env={"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "MEMOIR_SPOOL_DIR": ""},
    )


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """Events with content, and a record that is none, with what JSON cannot say."""
    directory = tmp_path / "spool"
    with agent(directory, NOWHERE, shutdown_timeout_s=0.0) as it:
        it.logger.emit(to_log_record(MemoryEvent(
            "memoir.record.updated", record_id="r1", store_id="s1", record_version=3,
            content={"gen_ai.memory.records": [{"text": "likes tea"}]},
        ), capture=Capture.EVENT_ONLY))
        it.logger.emit(to_log_record(MemoryEvent("memoir.recall.completed", attributes={
            "memoir.record.ids": ("r1", "r2"), "gen_ai.memory.record.count": 2,
        }, agent_name="planner")))
        it.logger.emit(LogRecord(
            body={"nested": [1, None, 2.5]}, severity_number=SeverityNumber.WARN,
            attributes={"big": 2**62, "nan": float("nan"), "bytes": b"\x00\xff", "text": 'a,"b"\n'},
        ))
    return directory


def exported(spool: Path, form: str, *more: object) -> str:
    """What is written to a file."""
    target = spool.parent / f"out.{form}"
    result = run(spool, "--format", form, "--output", target, *more)
    assert result.exit_code == 0, result.output
    assert target.stat().st_mode & 0o777 == 0o600
    return target.read_bytes().decode() if form != "sqlite" else str(target)


# -- forms --------------------------------------------------------------------------


def test_json_lines_have_the_same_fields_for_each_event(spool: Path) -> None:
    """Attributes carry the event's name, as formats without one have it."""
    lines = [json.loads(line) for line in exported(spool, "jsonl").splitlines()]
    assert [tuple(line) for line in lines] == [COLUMNS] * 3
    one, recall, other = lines
    assert (one["event"], one["store"], one["record"], one["record_version"]) == (
        "memoir.record.updated", "s1", "r1", 3)
    assert one["attributes"]["otel.event.name"] == "memoir.record.updated"
    assert one["attributes"]["gen_ai.memory.records"] == [{"text": "likes tea"}]
    assert recall["agent_name"] == "planner"
    assert recall["attributes"]["memoir.record.ids"] == ["r1", "r2"]
    assert other["event"] == "" and "otel.event.name" not in other["attributes"]
    assert other["attributes"]["big"] == 2**62 and other["attributes"]["nan"] == "NaN"
    assert other["attributes"]["bytes"] == "AP8=" and other["body"] == {"nested": [1, None, 2.5]}
    assert other["resource"]["service.name"] == "agent" and other["scope"] == "agent"
    assert [line["sequence"] for line in lines] == [1, 2, 3]
    assert {line["state"] for line in lines} == {"pending"}


def test_csv_is_read_back_with_what_is_nested_as_json(spool: Path) -> None:
    """A text with a comma, a quote and a line end stays one cell."""
    rows = list(csv.DictReader(io.StringIO(exported(spool, "csv"), newline="")))
    assert tuple(rows[0]) == COLUMNS and len(rows) == 3
    assert rows[0]["record"] == "r1" and rows[0]["record_version"] == "3"
    assert json.loads(rows[2]["attributes"])["text"] == 'a,"b"\n'
    assert json.loads(rows[0]["attributes"])["otel.event.name"] == "memoir.record.updated"


def test_cloud_events_are_read_back_as_the_events_that_they_were(spool: Path) -> None:
    """A record without a name is no event, and not among them."""
    lines = [json.loads(line) for line in exported(spool, "cloudevents").splitlines()]
    assert [line["type"] for line in lines] == ["memoir.record.updated", "memoir.recall.completed"]
    assert lines[0]["data"]["attributes"]["otel.event.name"] == "memoir.record.updated"
    found = from_cloud_event(lines[0])
    assert isinstance(found, MemoryEvent) and found.record_id == "r1"
    assert found.uid == events(spool).events[0].place.uid


def test_a_sqlite_file_opens_with_sqlite_utils(spool: Path) -> None:
    """Plain tables with indexes, a foreign key to each named memory record, and JSON that
    SQLite's own functions read."""
    database = sqlite_utils.Database(exported(spool, "sqlite"))
    assert set(database.table_names()) == {"events", "event_records"}
    assert tuple(database["events"].columns_dict) == ("id", *COLUMNS)
    assert database["events"].pks == ["id"] and database["events"].count == 3
    indexed = {column for index in database["events"].indexes for column in index.columns}
    assert {"time", "event", "record", "uid"} <= indexed
    assert database["event_records"].foreign_keys[0].other_table == "events"
    named = database.query(
        "SELECT e.event, r.record FROM event_records r JOIN events e ON e.id = r.event_id "
        "WHERE r.record = 'r1' ORDER BY e.id"
    )
    assert [row["event"] for row in named] == ["memoir.record.updated", "memoir.recall.completed"]
    (row,) = database.query(
        "SELECT json_extract(attributes, '$.big') AS big FROM events WHERE id = 3"
    )
    assert row["big"] == 2**62
    database["events"].enable_fts(["body"])
    assert [row["record"] for row in database["events"].search("updated")] == ["r1"]
    database.close()


@pytest.mark.parametrize("form", ["jsonl", "csv", "otlp-json", "cloudevents"])
def test_content_can_be_left_out(spool: Path, form: str) -> None:
    """It is there unless told otherwise, since somebody opted in when it was stored."""
    assert "likes tea" in exported(spool, form)
    without = exported(spool, form, "--without-content")
    assert "likes tea" not in without and "memoir.record.updated" in without


def test_filters_choose_what_is_written_and_stdout_takes_lines(spool: Path) -> None:
    """The same ones as of ``events``."""
    result = run(spool, "--record", "r2")
    assert result.exit_code == 0
    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == [
        "memoir.recall.completed"]
    assert run(spool, "--format", "sqlite").exit_code == 2
    found = json.loads(run(spool, "--output", spool.parent / "o", "--json").stdout)
    assert found == {"output": str(spool.parent / "o"), "events": 3, "damaged": []}


def test_a_damaged_record_is_told_and_left_out(tmp_path: Path) -> None:
    """Exit code 1: not everything is in the file."""
    with writer(tmp_path / "spool") as it:
        for number in range(3):
            it.append(MemoryEvent("memoir.record.updated", record_id="r"), NOON_NS + number)
        it.file.connection.execute("UPDATE record SET payload = zeroblob(9) WHERE id = 2")
        result = run(tmp_path / "spool", "--output", tmp_path / "out")
    assert result.exit_code == 1 and "checksum" in result.stderr
    assert len((tmp_path / "out").read_text().splitlines()) == 2


def test_a_spool_file_that_cannot_be_read_fails_the_command_and_not_the_others(
    tmp_path: Path
) -> None:
    """What can be had is written, or sent again."""
    directory = tmp_path / "spool"
    with writer(directory, 2) as it, ScriptedCollector() as again:
        it.append(MemoryEvent("memoir.record.updated", record_id="r"), NOON_NS)
        (directory / "memoir-0001.db").write_bytes(b"no database, but longer than one" * 9)
        result = run(directory, "--output", tmp_path / "out")
        assert result.exit_code == 1 and "memoir-0001" in result.stderr
        assert len((tmp_path / "out").read_text().splitlines()) == 1
        result = run(directory, "--redeliver", "--since", "2025-01-01", endpoint=again.endpoint)
        assert result.exit_code == 1 and "memoir-0001" in result.stdout
        assert len(again.taken) == 1


@pytest.mark.parametrize("form", ["jsonl", "sqlite"])
def test_a_file_that_cannot_be_written_whole_leaves_what_was_there(
    spool: Path, tmp_path: Path, form: str
) -> None:
    """Also where the last event is the one that fails; nothing else is left behind."""
    target = tmp_path / "out"
    target.write_text("before")

    def failing() -> Iterator[Any]:
        yield from events(spool)
        raise SpoolError("read", target="x", cause="gone")

    with pytest.raises(SpoolError, match="gone"):
        export_to_file(failing(), target, form=form)
    assert target.read_text() == "before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "spool"]
    with pytest.raises(SpoolError, match="--output"):
        export_to_file(events(spool), tmp_path / "no" / "out", form=form)


def test_without_the_temporary_file_half_an_export_would_be_seen(
    spool: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    import contextlib

    monkeypatch.setattr(export_module, "_replaced", contextlib.nullcontext)

    def failing() -> Iterator[Any]:
        yield from events(spool)
        raise SpoolError("read", target="x", cause="gone")

    (tmp_path / "out").write_text("before")
    with pytest.raises(SpoolError):
        export_to_file(failing(), tmp_path / "out", form="jsonl")
    assert (tmp_path / "out").read_text() != "before"


def test_a_table_file_that_is_none_says_so(tmp_path: Path) -> None:
    """No error of SQLite's comes out."""
    (tmp_path / "x").write_bytes(b"something else that is long enough" * 99)
    with pytest.raises(SpoolError, match="Choose another file"):
        write_tables(tmp_path / "x", export_module.TABLES, [])


def test_otlp_json_is_read_as_a_collectors_own_export_is(spool: Path) -> None:
    """Ids in hexadecimal, numbers as OTLP has them: the same records come back."""
    target = spool.parent / "out.otlp-json"
    exported(spool, "otlp-json")
    stored = [event_of(r.payload) for s in slots(spool) for r in stored_records(s.database)]
    assert list(events_of_file(target)) == stored


# -- sending again ------------------------------------------------------------------


@pytest.fixture
def lost(tmp_path: Path) -> Path:
    """Two streams of delivered events, and their collector is gone with them."""
    directory = tmp_path / "spool"
    with ScriptedCollector() as receiver:
        for first in (0, 20):
            with agent(directory, receiver.endpoint) as it:
                for number in range(first, first + 20):
                    it.logger.emit(to_log_record(
                        MemoryEvent("memoir.record.updated", record_id=f"r{number}")
                    ))
                assert it.processor.wait_delivered(TIMEOUT_S)
    return directory


def uids(directory: Path) -> list[str]:
    """The uids of all that is retained, in order."""
    return [event.place.uid for event in events(directory, limit=10_000)]


def contents(directory: Path) -> dict[str, bytes]:
    """The spool files as they are."""
    return {slot.name: slot.database.read_bytes() for slot in slots(directory)}


def test_delivered_records_are_sent_again_with_their_bytes_and_uids(lost: Path) -> None:
    """A request has one stream, which its header names; no spool file is changed."""
    before = contents(lost)
    payloads = {r.payload for s in slots(lost) for r in stored_records(s.database)}
    with ScriptedCollector() as again:
        result = run(lost, "--redeliver", "--since", "1h", "--endpoint", again.endpoint)
        assert result.exit_code == 0, result.output
        arrived = [r.attributes["log.record.uid"] for r in again.taken]
        sent = {record.proto.SerializeToString() for record in again.taken}
        for request in again.requests:
            streams = {r.attributes["memoir.stream.epoch"] for r in request.records}
            assert len(streams) == 1
    assert arrived == uids(lost) and len(arrived) == 40
    assert {event_of(each) for each in sent} == {event_of(each) for each in payloads}
    assert "40 read, 40 taken, 0 rejected, 0 refused, 0 left; 2 request(s)" in result.stdout
    assert contents(lost) == before and problems_of(lost) == []


def test_a_time_range_is_needed_and_kept(lost: Path) -> None:
    """Nobody sends everything again by mistake."""
    assert run(lost, "--redeliver").exit_code == 2
    middle = events(lost, limit=1000).events[15].place.unix_ns
    with ScriptedCollector() as again:
        result = run(lost, "--redeliver", "--since", middle, "--until", middle + 1, "--json",
                     endpoint=again.endpoint)
        assert len(again.taken) == 1
    found = json.loads(result.stdout)
    assert (found["read"], found["taken"], found["left"], found["why"]) == (1, 1, 0, "")


def test_it_works_beside_a_living_process_and_on_a_copy(lost: Path, tmp_path: Path) -> None:
    """What waits is sent, too; the living process goes on and counts what it delivers itself."""
    with ScriptedCollector() as own, agent(lost, own.endpoint) as it:
        it.emit(3)
        assert it.processor.wait_delivered(TIMEOUT_S)
        shutil.copytree(lost, tmp_path / "copy")
        for directory in (lost, tmp_path / "copy"):
            with ScriptedCollector() as again:
                result = run(directory, "--redeliver", "--since", "1h", endpoint=again.endpoint)
                assert result.exit_code == 0, result.output
                assert len(again.taken) == 43
        it.emit(1)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.unaccounted == 0 and it.totals.delivered == it.totals.accepted
    assert problems_of(lost) == []


class Scripted:
    """A sender that answers as told, without a network.

    Args:
        answer: The outcome for the memory records of a request.
    """

    def __init__(self, answer: Callable[[list[str]], Outcome]) -> None:
        self.answer = answer
        self.taken: list[str] = []
        self.sizes: list[int] = []

    def send(self, request: bytes, *, headers: object, timeout: float | None = None) -> Outcome:
        """As a sender's."""
        from otel_memoir.events import from_otlp_request

        names = [e.record_id or "" for e in from_otlp_request(request)
                 if isinstance(e, MemoryEvent)]
        self.sizes.append(len(names))
        outcome = self.answer(names)
        if outcome.verdict is Verdict.DELIVERED:
            self.taken += names[: len(names) - outcome.rejected]
        return outcome

    def close(self) -> None:
        """As a sender's."""

    def forget(self) -> None:
        """As a sender's."""


YES = Outcome(verdict=Verdict.DELIVERED, code="200")


def redelivered(
    directory: Path, answer: Callable[[list[str]], Outcome], **given: Any
) -> tuple[Redelivered, Scripted]:
    """Send all again to a scripted destination."""
    sender = Scripted(answer)
    redelivery = Redelivery(
        sender, Settings(request_records_max=8),
        **{"patience_s": 5.0, "backoff": Backoff(initial_s=0.001, maximum_s=0.002), **given},
    )
    return redelivery.run(Retrieval(directory).every()), sender


def test_a_destination_that_is_away_for_a_while_gets_each_stream_in_order(lost: Path) -> None:
    """Retried with the backoff; what may have arrived twice is counted."""
    tries = iter([Outcome(verdict=Verdict.RETRY, code="http 503", ambiguous=True)] * 3)
    result, sender = redelivered(lost, lambda names: next(tries, YES))
    names = [f"r{number}" for number in range(40)]
    assert [name for name in sender.taken if name in names[:20]] == names[:20]
    assert [name for name in sender.taken if name in names[20:]] == names[20:]
    assert (result.taken, result.left, result.ambiguous, result.requests) == (40, 0, 3, 9)
    assert result.is_complete


def test_a_destination_that_stays_away_is_given_up_on(lost: Path) -> None:
    """What is left is said, with the last answer."""
    no = Outcome(verdict=Verdict.RETRY, code="connection refused", message="nobody there")
    result, _ = redelivered(lost, lambda names: no, patience_s=0.05)
    assert result.taken == 0 and result.left > 0 and not result.is_complete
    assert "connection refused" in result.why and "0.05 s" in result.why


def test_a_hold_ends_it_with_the_remedy(lost: Path) -> None:
    """A person is at the keyboard: nothing waits for one."""
    hold = Outcome(verdict=Verdict.HOLD, code="http 401", message="no", hint="Set the token.")
    result, sender = redelivered(lost, lambda names: hold)
    assert result.why == "http 401: no. Set the token." and len(sender.sizes) == 1


def test_told_to_stop_it_stops_in_the_middle_of_a_wait(lost: Path) -> None:
    """Set by another thread, or a signal."""
    stop = threading.Event()
    no = Outcome(verdict=Verdict.RETRY, code="http 503", retry_after_s=30.0)
    timer = threading.Timer(0.2, stop.set)
    timer.start()
    result, _ = redelivered(lost, lambda names: no, patience_s=100.0, stop=stop)
    timer.join()
    assert "told to stop" in result.why


def test_what_is_too_large_is_halved_and_a_poison_record_does_not_stop_the_rest(
    lost: Path
) -> None:
    """Each of its siblings arrives; it is counted as refused."""
    def answer(names: list[str]) -> Outcome:
        bad = len(names) > 4 or "r13" in names
        return Outcome(verdict=Verdict.HALVE, code="http 400") if bad else YES

    result, sender = redelivered(lost, answer)
    assert sorted(sender.taken) == sorted(f"r{n}" for n in range(40) if n != 13)
    assert (result.taken, result.refused, result.left) == (39, 1, 0)
    assert not result.is_complete


def test_rejected_records_are_counted_as_such(lost: Path) -> None:
    """A partial success says how many, not which."""
    partial = Outcome(verdict=Verdict.DELIVERED, code="200", rejected=2)
    result, _ = redelivered(lost, lambda names: partial)
    assert (result.taken, result.rejected, result.left) == (28, 12, 0)
    assert not result.is_complete


def test_a_refused_request_makes_the_command_fail(lost: Path) -> None:
    """The exit code is for scripts."""
    def answer(request: RecordedRequest) -> Answer:
        return Answer(status=401, message="who are you")

    with ScriptedCollector(answer) as again:
        result = run(lost, "--redeliver", "--since", "1h", endpoint=again.endpoint)
    assert result.exit_code == 1
    assert "stopped: http 401" in result.stdout and "40 left" not in result.stdout.split("stop")[1]


# -- the real thing -------------------------------------------------------------------


@pytest.mark.collector
@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_collector_that_lost_its_file_gets_the_same_uids_again(
    protocol: str, collector: Collector, tmp_path: Path
) -> None:
    """Its disk is gone; what the spool retains is as good as what it had."""
    directory = tmp_path / "spool"
    endpoint = collector.grpc_endpoint if protocol == "grpc" else collector.http_endpoint
    with agent(directory, endpoint, protocol=protocol) as it:
        it.emit(500)
        assert it.processor.wait_delivered(TIMEOUT_S)
    had = collector.wait_received(500)
    collector.stop()
    collector.output.unlink()
    fresh = Collector(collector._binary, collector.directory)
    with fresh:
        endpoint = fresh.grpc_endpoint if protocol == "grpc" else fresh.http_endpoint
        assert fresh.received() == []
        result = run(directory, "--redeliver", "--since", "1h", "--endpoint", endpoint,
                     "--protocol", protocol)
        assert result.exit_code == 0, result.output
        again = fresh.wait_received(500)
    assert [r.uid for r in again] == [r.uid for r in had] == uids(directory)
    assert again == had, "the same records, not only the same ids"
    assert problems_of(directory) == []


@pytest.mark.collector
def test_a_collector_takes_each_line_of_otlp_json(
    spool: Path, collector: Collector
) -> None:
    """Over OTLP/HTTP in JSON: what arrives is what was delivered in protobuf."""
    with agent(spool, collector.http_endpoint) as it:
        it.processor.wait_delivered(TIMEOUT_S)
        it.emit(3)
        assert it.processor.wait_delivered(TIMEOUT_S)
    delivered = collector.wait_received(6)
    for line in exported(spool, "otlp-json").splitlines():
        answer = requests.post(
            f"{collector.http_endpoint}/v1/logs", data=line.encode(), timeout=TIMEOUT_S,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 200, answer.text
    again = collector.wait_received(12)[6:]
    key = lambda record: record.uid  # noqa: E731
    assert repr(sorted(again, key=key)) == repr(sorted(delivered, key=key))


def test_states_choose_what_is_sent_again(tmp_path: Path) -> None:
    """What still waits can be left to the process that has it."""
    with writer(tmp_path) as it:
        it.append(MemoryEvent("memoir.record.updated", record_id="r0"), NOON_NS)
        it.settle(State.DELIVERED)
        it.append(MemoryEvent("memoir.record.updated", record_id="r1"), NOON_NS + 1)
        with ScriptedCollector() as again:
            result = run(tmp_path, "--redeliver", "--since", "2025-01-01", "--state", "delivered",
                         endpoint=again.endpoint)
            assert result.exit_code == 0, result.output
            assert [r.attributes["gen_ai.memory.record.id"] for r in again.taken] == ["r0"]
    assert os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") is None
