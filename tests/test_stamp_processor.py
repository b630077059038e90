"""Live stamps for foreign exporters, with the SDK's own provider, processors and limits."""

from __future__ import annotations

import json
import multiprocessing
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord as ProtoLogRecord
from opentelemetry.sdk._logs import (
    LoggerProvider,
    LogRecordProcessor,
    ReadWriteLogRecord,
)
from opentelemetry.sdk._logs.export import (
    BatchLogRecordProcessor,
    InMemoryLogRecordExporter,
)

from collector import Collector, ReceivedRecord
from otel_memoir import DurableLogExporter, DurableLogRecordProcessor, StampLogRecordProcessor
from otel_memoir.clock import Reading, SystemClock
from otel_memoir.delivery.encoding import SEQUENCE, STREAM_EPOCH, STREAM_ID, UID
from otel_memoir.errors import SettingsError
from otel_memoir.sdk.marks import STAMPS
from otel_memoir.sdk.stamp_processor import LiveStream
from otel_memoir.stamping import HybridClock
from otel_memoir.testing import ScriptedCollector
from spool_helpers import totals_of

NOON = 1_764_000_000 * 10**9
FULL = {f"key {n}": n for n in range(128)}
Triple = tuple[str, int, int]


class Dial:
    """A clock that shows what it is set to."""

    def __init__(self, unix_ns: int = NOON, bound_ns: int | None = None, status: str = "") -> None:
        self.unix_ns, self.bound_ns, self.status, self.epoch = unix_ns, bound_ns, status, 0

    def read(self) -> Reading:
        """Look at it."""
        return self.unix_ns, self.bound_ns


class Wired:
    """A provider with processors, before an exporter that keeps what it gets."""

    def __init__(self, *processors: LogRecordProcessor) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.provider = LoggerProvider(shutdown_on_exit=False)
        for processor in (*processors, BatchLogRecordProcessor(self.exporter)):
            self.provider.add_log_record_processor(processor)
        self.logger = self.provider.get_logger("app.part")

    def emit(self, record: LogRecord | None = None, **given: Any) -> None:
        """Emit a record."""
        self.logger.emit(record or LogRecord(**{"body": "b", **given}))

    def exported(self) -> list[Any]:
        """What the batch processor had in its queue until now, as log records."""
        self.provider.force_flush()
        return [data.log_record for data in self.exporter.get_finished_logs()]


@pytest.fixture(autouse=True)
def _ended(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ends every batch processor that a test made."""
    made: list[BatchLogRecordProcessor] = []
    begin = BatchLogRecordProcessor.__init__

    def note(self: BatchLogRecordProcessor, *args: Any, **given: Any) -> None:
        begin(self, *args, **given)
        made.append(self)

    monkeypatch.setattr(BatchLogRecordProcessor, "__init__", note)
    yield
    for processor in made:
        processor.shutdown()


def stamping(clock: Any = None, **given: Any) -> StampLogRecordProcessor:
    """The processor, with a hybrid clock that no other test shares."""
    return StampLogRecordProcessor(clock=clock or Dial(), hybrid=HybridClock(), **given)


def triple(log: Any) -> Triple:
    """Which record of which stream it is."""
    found = log.attributes
    return found[STREAM_ID], found[STREAM_EPOCH], found[SEQUENCE]


def stamps_of(log: Any) -> dict[str, Any]:
    """The attributes that are stamps."""
    return {name: value for name, value in log.attributes.items() if name in STAMPS}


# -- what is put on -----------------------------------------------------------


def test_a_record_gets_id_stream_epoch_and_number_and_keeps_its_own_attributes() -> None:
    """From 1, without a hole; without a bound or status that nobody knows."""
    wired = Wired(stamping())
    for number in range(3):
        wired.emit(attributes={"mine": number})
    found = wired.exported()
    assert [triple(log)[1:] for log in found] == [(1, 1), (1, 2), (1, 3)]
    assert len({triple(log)[0] for log in found}) == 1
    assert len({log.attributes[UID] for log in found}) == 3
    assert [set(stamps_of(log)) for log in found] == [{UID, STREAM_ID, STREAM_EPOCH, SEQUENCE}] * 3
    assert [log.attributes["mine"] for log in found] == [0, 1, 2]


def test_the_bound_and_a_status_that_is_not_normal_are_put_on_too() -> None:
    """The bound contains how far the stamp leads the clock."""
    clock = Dial(bound_ns=1000, status="holdover")
    wired = Wired(stamping(clock))
    wired.emit()
    wired.emit()
    first, second = (stamps_of(log) for log in wired.exported())
    assert first["memoir.clock.error_bound"] == 1000
    assert second["memoir.clock.error_bound"] == 1001
    assert first["memoir.clock.status"] == "holdover"


@pytest.mark.parametrize(("mode", "given_ns", "expected"), [
    ("correct", None, NOON), ("correct", 5, 5), ("observe", None, None), ("observe", 5, 5),
    (None, None, None),
])
def test_only_in_correct_mode_a_record_without_a_time_of_its_own_gets_the_clocks(
    mode: Any, given_ns: int | None, expected: int | None
) -> None:
    """A time that the application gave is what it means."""
    wired = Wired(stamping(mode=mode))
    wired.emit(timestamp=given_ns)
    assert [log.timestamp for log in wired.exported()] == [expected]


def test_the_mode_is_the_clocks_unless_it_is_given() -> None:
    """A clock that corrects corrects the timestamps too."""
    clock = Dial()
    clock.mode = "correct"  # type: ignore[attr-defined]  # a SynchronizedClock has one
    wired = Wired(stamping(clock))
    wired.emit()
    assert [log.timestamp for log in wired.exported()] == [NOON]
    with pytest.raises(SettingsError, match="neither observe nor correct"):
        stamping(mode="perhaps")


@pytest.mark.parametrize(("chosen", "stamped"), [
    ({}, True), ({"scope": "app"}, True), ({"scope": "app.part"}, True), ({"scope": "ap"}, False),
    ({"scope": "app.part.deeper"}, False), ({"event_prefix": "memoir."}, True),
    ({"event_prefix": "other."}, False), ({"scope": "app", "event_prefix": "other."}, False),
])
def test_only_the_chosen_records_are_stamped(chosen: dict[str, str], stamped: bool) -> None:
    """By scope, by the beginning of the event's name, or both."""
    wired = Wired(stamping(**chosen))
    wired.emit(event_name="memoir.record.created", attributes={"mine": 1})
    assert [bool(stamps_of(log)) for log in wired.exported()] == [stamped]


def test_stamps_are_no_reason_to_make_a_record() -> None:
    """Those that export decide (``Logger.enabled``)."""
    assert stamping().enabled() is False


# -- one record, several emissions --------------------------------------------


def test_a_record_that_is_emitted_twice_has_two_stamps_and_the_queue_keeps_the_first() -> None:
    """Both wait in the queue of the batch processor when the second one is stamped."""
    wired, record = Wired(stamping()), LogRecord(body="again", attributes={"mine": 1})
    wired.emit(record)
    wired.emit(record)
    first, second = wired.exported()
    assert (triple(first)[2], triple(second)[2]) == (1, 2)
    assert first.attributes[UID] != second.attributes[UID]
    assert dict(record.attributes or {}) == {"mine": 1}
    assert record.timestamp is None


def test_a_stamped_record_that_somebody_emits_again_gets_fresh_stamps() -> None:
    """A processor that forwards records to another provider."""
    behind = Wired(stamping())

    class Forward(LogRecordProcessor):
        def on_emit(self, log_record: ReadWriteLogRecord) -> None:
            behind.emit(log_record.log_record)

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    before = Wired(stamping(), Forward())
    before.emit()
    (mine,), (theirs,) = before.exported(), behind.exported()
    assert triple(mine)[0] != triple(theirs)[0]
    assert mine.attributes[UID] != theirs.attributes[UID]
    assert len(stamps_of(theirs)) == 4


def test_what_was_queued_before_the_stamps_stays_without_them() -> None:
    """A batch processor that is registered first shares the attributes object."""
    exporter = InMemoryLogRecordExporter()
    first = BatchLogRecordProcessor(exporter)
    wired = Wired(first, stamping(mode="correct"))
    wired.emit(attributes={"mine": 1})
    assert len(stamps_of(wired.exported()[0])) == 4
    (early,) = exporter.get_finished_logs()
    assert dict(early.log_record.attributes or {}) == {"mine": 1}


class Meet(LogRecordProcessor):
    """Lets threads go on when all of them are there."""

    def __init__(self, threads: int) -> None:
        self._barrier = threading.Barrier(threads, timeout=30.0)

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self._barrier.wait()

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


class InPlace(StampLogRecordProcessor):
    """Writes its stamps into the application's record, as one would at first."""

    def _stamp(self, record: ReadWriteLogRecord) -> None:
        stamp = self._stream.take()
        attributes: Any = record.log_record.attributes
        attributes[UID] = str(stamp.sequence)
        attributes[STREAM_ID], attributes[STREAM_EPOCH] = "s", 1
        attributes[SEQUENCE] = stamp.sequence


def emitted_at_once(processor: StampLogRecordProcessor) -> list[Triple]:
    """Emit one and the same record on two threads, each step at the same time."""
    wired, record = Wired(Meet(2), processor, Meet(2)), LogRecord(body="shared")
    threads = [threading.Thread(target=wired.emit, args=(record,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    return sorted(triple(log) for log in wired.exported())


def test_a_record_that_two_threads_emit_at_once_has_two_stamps() -> None:
    """The application's object is shared, its stamped copies are not."""
    one, other = emitted_at_once(stamping())
    assert (one[2], other[2]) == (1, 2)


def test_stamps_that_are_written_into_the_shared_record_are_lost() -> None:
    """Negative control of the test above."""
    one, other = emitted_at_once(InPlace(clock=Dial(), hybrid=HybridClock()))
    assert one == other


# -- limits -------------------------------------------------------------------


def test_a_full_record_keeps_all_it_has_and_gets_its_stamps() -> None:
    """128 attributes is the SDK's limit; the oldest would make room."""
    wired = Wired(stamping(Dial(bound_ns=1)))
    wired.emit(attributes=FULL)
    (log,) = wired.exported()
    assert {name: log.attributes[name] for name in FULL} == FULL
    assert len(log.attributes) == 128 + 5
    assert log.attributes.dropped == 0


def test_attributes_written_by_hand_cost_a_full_record_its_oldest() -> None:
    """Negative control of the test above: the limit is there."""
    wired = Wired(InPlace(clock=Dial(), hybrid=HybridClock()))
    wired.emit(attributes=FULL)
    (log,) = wired.exported()
    assert "key 0" not in log.attributes and log.attributes.dropped == 4


def test_an_id_is_whole_however_short_values_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """``OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT`` would cut it; it cuts the application's."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")
    wired = Wired(stamping())
    wired.emit(attributes={"long": "x" * 50})
    (log,) = wired.exported()
    assert len(log.attributes[UID]) == 36 and len(log.attributes[STREAM_ID]) == 32
    assert log.attributes["long"] == "x" * 10


class Adds(LogRecordProcessor):
    """Adds an attribute to each record."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        attributes: Any = log_record.log_record.attributes
        attributes["added later"] = "y" * 50

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


def test_the_limits_hold_for_processors_that_come_after(monkeypatch: pytest.MonkeyPatch) -> None:
    """With as much room as there was before; what was dropped stays counted."""
    monkeypatch.setenv("OTEL_ATTRIBUTE_COUNT_LIMIT", "2")
    monkeypatch.setenv("OTEL_ATTRIBUTE_VALUE_LENGTH_LIMIT", "10")
    wired = Wired(stamping(), Adds())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the SDK warns of what it drops
        wired.emit(attributes={"a": 1, "b": 2, "c": 3})
    wired.emit(attributes={"a": 1})
    full, roomy = (log.attributes for log in wired.exported())
    assert len(stamps_of_dict(full)) == len(stamps_of_dict(roomy)) == 4
    assert full["added later"] == roomy["added later"] == "y" * 10
    assert full.dropped == 2 and "b" not in full and full["c"] == 3
    assert roomy.dropped == 0 and roomy["a"] == 1


def stamps_of_dict(attributes: Any) -> set[str]:
    """The names of stamps among attributes."""
    return STAMPS & set(attributes)


def test_nested_values_stay_as_they_are() -> None:
    """Maps, lists, bytes and nothing."""
    values = {"map": {"a": [1, {"b": None}]}, "bytes": b"x", "list": (1, "a", 2.5), "none": None}
    wired, plain = Wired(stamping()), Wired()
    wired.emit(attributes=values)
    plain.emit(attributes=values)
    (log,), (without,) = wired.exported(), plain.exported()
    assert {k: v for k, v in log.attributes.items() if k not in STAMPS} == dict(without.attributes)


# -- threads, forks, signals --------------------------------------------------


def take(stream: LiveStream, count: int) -> list[tuple[str, int, int, int]]:
    """Take stamps."""
    found = [stream.take() for _ in range(count)]
    return [(s.stream.stream_id, s.stream.epoch, s.sequence, s.unix_ns) for s in found]


def in_order(stamps: list[tuple[str, int, int, int]]) -> bool:
    """Whether no two have a number twice, and the times of each stream increase with it."""
    streams = {stamp[:2] for stamp in stamps}
    each = [sorted(s[2:] for s in stamps if s[:2] == stream) for stream in streams]
    return len({s[:3] for s in stamps}) == len(stamps) and all(
        earlier < later for line in each for (_, earlier), (_, later) in pairwise(line)
    )


def test_threads_get_every_number_once_in_the_order_of_the_times() -> None:
    """Time and number are taken together."""
    stream, taken = LiveStream(Dial(), HybridClock()), []
    threads = [
        threading.Thread(target=lambda: taken.extend(take(stream, 2000))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60.0)
    assert in_order(taken)
    assert {s[2] for s in taken} == set(range(1, 16_001))


def from_child(work: Callable[[], Any]) -> Any:
    """What a fork child makes of something."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            with os.fdopen(write, "w") as pipe:
                json.dump(work(), pipe)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    os.waitpid(pid, 0)
    return json.loads(text)


@pytest.mark.parametrize("hooked", [True, False], ids=["with fork hooks", "without"])
def test_fork_children_never_give_a_number_of_their_parent(hooked: bool) -> None:
    """Also where fork hooks are not called (uWSGI): the pid tells."""
    processor = stamping()
    stream = processor._stream if hooked else LiveStream(Dial(), HybridClock())
    taken = take(stream, 5)
    for _ in range(2):
        taken += [tuple(s) for s in from_child(lambda: take(stream, 5))]
        taken += take(stream, 5)
    grandchildren = from_child(
        lambda: take(stream, 2) + from_child(lambda: take(stream, 2)) + take(stream, 2)
    )
    taken += [tuple(s) for s in grandchildren]
    assert in_order(taken)
    assert len({s[0] for s in taken}) == 5


def test_a_child_that_keeps_its_parents_stream_repeats_its_numbers() -> None:
    """Negative control of the test above."""

    class Careless(LiveStream):
        """Takes every process for its own."""

        def forget(self) -> None:
            self.pid = os.getpid()

    stream = Careless(Dial(), HybridClock())
    take(stream, 5)
    child = [tuple(s) for s in from_child(lambda: take(stream, 5))]
    assert not in_order(child + take(stream, 5))


def test_a_fork_while_another_thread_takes_a_stamp_leaves_the_child_free() -> None:
    """Nobody is there to let its lock go."""
    inside, go = threading.Event(), threading.Event()

    class Slow(Dial):
        """A clock that a thread is stuck in."""

        def read(self) -> Reading:
            if threading.current_thread() is not threading.main_thread():
                inside.set()
                go.wait(30.0)
            return super().read()

    processor = stamping(Slow())
    stuck = threading.Thread(target=processor._stream.take)
    stuck.start()
    assert inside.wait(30.0)
    begin_s = time.monotonic()
    child = from_child(lambda: take(processor._stream, 1))
    go.set()
    stuck.join(30.0)
    assert child[0][2] == 1 and time.monotonic() - begin_s < 20.0


def _spawned(queue: Any) -> None:
    queue.put(take(stamping()._stream, 5))


def test_a_spawned_process_has_a_stream_of_its_own() -> None:
    """It begins from nothing, its stream as well."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=_spawned, args=(queue,))
    process.start()
    child = [tuple(s) for s in queue.get(timeout=60.0)]
    process.join(60.0)
    queue.close()
    queue.join_thread()
    assert in_order(child + take(stamping()._stream, 5))


def test_a_record_emitted_while_its_thread_takes_a_stamp_neither_waits_nor_repeats(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal handler, a finaliser, a clock that logs: it gets a stream of its own."""
    nested: list[Any] = []

    class Logs(Dial):
        """A clock that emits a record each time that it is read, three deep."""

        depth = 0

        def read(self) -> Reading:
            if self.depth < 3:
                self.depth += 1
                nested.extend(take(stream, 1))
                self.depth -= 1
            return super().read()

    class NoWait:
        """A lock that its holder does not ask for again."""

        def __init__(self) -> None:
            self._held = False

        def acquire(self, timeout: float) -> bool:
            assert not self._held, "a thread waits for itself"
            self._held = True
            return True

        def release(self) -> None:
            self._held = False

    monkeypatch.setattr(threading, "Lock", NoWait)
    stream = LiveStream(Logs(), HybridClock())
    taken = take(stream, 4) + nested
    assert in_order(taken)
    assert len(taken) == 16 and len({s[0] for s in taken}) == 4


def test_a_clock_that_goes_back_begins_an_epoch_of_the_stream() -> None:
    """Numbers begin again, so no two records share one, and within it times increase."""
    clock = Dial()
    stream = LiveStream(clock, HybridClock())
    taken = take(stream, 2)
    clock.unix_ns, clock.epoch = 1000, 1
    taken += take(stream, 2)
    assert [s[1:] for s in taken] == [(1, 1, NOON), (1, 2, NOON + 1), (2, 1, 1000), (2, 2, 1001)]


def test_a_clock_that_goes_back_in_secret_is_overruled() -> None:
    """Without an epoch nothing goes back."""
    clock = Dial()
    stream = LiveStream(clock, HybridClock())
    taken = take(stream, 2)
    clock.unix_ns = 1000
    assert [s[3] for s in taken + take(stream, 1)] == [NOON, NOON + 1, NOON + 2]


# -- it never raises ----------------------------------------------------------


class Broken(Dial):
    """A clock that raises."""

    def read(self) -> Reading:
        raise RuntimeError("a clock of the application")


@pytest.mark.parametrize("attributes", [None, {}, {"a": object()}, {1: 2}, [("a", 1)], 5])
def test_nothing_raises_and_the_record_goes_on(attributes: Any) -> None:
    """Whatever the record, and whatever the clock."""
    class Spoils(LogRecordProcessor):
        def on_emit(self, log_record: ReadWriteLogRecord) -> None:
            log_record.log_record.attributes = attributes

        def shutdown(self) -> None:
            pass

        def force_flush(self, timeout_millis: int = 30000) -> bool:
            return True

    for clock in (Dial(), Broken()):
        processor = stamping(clock)
        wired = Wired(Spoils(), processor)
        wired.emit()
        assert len(wired.exported()) == 1
        processor.shutdown()
        processor.shutdown()
        assert processor.force_flush()
        wired.emit()
        assert len(wired.exported()) == 2


# -- beside the durable processor ---------------------------------------------


@pytest.fixture
def receiver() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def durable(tmp_path: Path, receiver: ScriptedCollector) -> DurableLogRecordProcessor:
    """A durable processor."""
    return DurableLogRecordProcessor(
        spool_dir=str(tmp_path / "spool"), endpoint=receiver.endpoint, disk_free_bytes_min=0,
        clock=SystemClock(),
    )


def delivered(processor: DurableLogRecordProcessor, receiver: ScriptedCollector) -> list[
    ProtoLogRecord
]:
    """What a durable processor delivered, as it arrived."""
    assert processor.wait_delivered(30.0)
    processor.shutdown()
    return [
        log for request in receiver.requests
        for resource in ExportLogsServiceRequest.FromString(request.body).resource_logs
        for scope in resource.scope_logs for log in scope.log_records
    ]


def names(log: ProtoLogRecord) -> list[str]:
    """The keys of a record's attributes, as often as they are there."""
    return sorted(entry.key for entry in log.attributes)


class Redacts(LogRecordProcessor):
    """Takes out what must not leave."""

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        log_record.log_record.body = "(redacted)"
        attributes: Any = log_record.log_record.attributes
        del attributes["secret"]

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


@pytest.mark.parametrize("mode", ["observe", "correct"])
def test_before_the_durable_processor_a_record_has_one_stamp_on_each_way_and_one_id(
    mode: Any, tmp_path: Path, receiver: ScriptedCollector
) -> None:
    """The durable stream counts its own, and what stands between is not undone."""
    processor = durable(tmp_path, receiver)
    live = stamping(Dial(bound_ns=5, status="holdover"), mode=mode)
    wired = Wired(live, Redacts(), processor)
    wired.emit(attributes={"secret": 1, "mine": 2})
    (foreign,), (stored,) = wired.exported(), delivered(processor, receiver)
    assert names(stored) == sorted([UID, STREAM_ID, STREAM_EPOCH, SEQUENCE, "mine"])
    values = {entry.key: entry.value for entry in stored.attributes}
    assert values[UID].string_value == foreign.attributes[UID]
    assert values[STREAM_ID].string_value != foreign.attributes[STREAM_ID]
    assert stored.body.string_value == foreign.body == "(redacted)"
    assert stored.time_unix_nano != NOON  # the durable stream's own time


def test_behind_the_durable_processor_the_mark_that_it_stored_the_record_stays(
    tmp_path: Path, receiver: ScriptedCollector
) -> None:
    """As under ``OTEL_LOGS_EXPORTER=memoir``: processor, then its exporter behind a batch."""
    processor = durable(tmp_path, receiver)
    exporter = DurableLogExporter(pipeline=processor.pipeline)
    wired = Wired(processor, stamping(), BatchLogRecordProcessor(exporter))
    wired.emit(attributes={"mine": 2})
    assert len(stamps_of(wired.exported()[0])) == 4
    (stored,) = delivered(processor, receiver)
    assert names(stored) == sorted([UID, STREAM_ID, STREAM_EPOCH, SEQUENCE, "mine"])
    assert totals_of(tmp_path / "spool").accepted == 1
    exporter.shutdown()


def test_two_of_them_stamp_a_record_once() -> None:
    """The first one does."""
    first, second = stamping(), stamping()
    wired = Wired(first, second)
    wired.emit()
    wired.emit()
    assert [triple(log)[2] for log in wired.exported()] == [1, 2]
    assert second._stream.take().sequence == 1
    assert triple(wired.exported()[0])[0] == first._stream.take().stream.stream_id


# -- as a real Collector receives it ------------------------------------------


def check_arrived(received: list[ReceivedRecord]) -> None:
    """A full record with its stamps, and one record that was emitted twice."""
    full = [r for r in received if r.body == "full"]
    again = [r for r in received if r.body == "again"]
    assert len(full) == 1 and len(again) == 2
    assert {name: full[0].attributes[name] for name in FULL} == FULL
    assert len(full[0].attributes) == 128 + 4
    assert len({r.uid for r in received}) == 3
    assert sorted(r.attributes[SEQUENCE] for r in received) == [1, 2, 3]
    assert len({r.attributes[STREAM_ID] for r in received}) == 1


def emit_three(provider: LoggerProvider) -> None:
    """A record with 128 attributes, and one record twice."""
    logger, again = provider.get_logger("app"), LogRecord(body="again")
    logger.emit(LogRecord(body="full", attributes=FULL))
    logger.emit(again)
    logger.emit(again)


@pytest.mark.collector
def test_a_collector_gets_full_records_and_fresh_stamps_from_the_durable_processor(
    collector: Collector, tmp_path: Path
) -> None:
    """Stamps are appended to the encoded record, outside every limit."""
    provider = LoggerProvider(shutdown_on_exit=False)
    processor = DurableLogRecordProcessor(
        spool_dir=str(tmp_path / "spool"), endpoint=collector.http_endpoint,
        disk_free_bytes_min=0, clock=SystemClock(),
    )
    provider.add_log_record_processor(processor)
    emit_three(provider)
    assert processor.wait_delivered(30.0)
    provider.shutdown()
    check_arrived(collector.wait_received(3, timeout=30.0))


@pytest.mark.collector
def test_a_collector_gets_full_records_and_fresh_stamps_from_the_official_exporter(
    collector: Collector
) -> None:
    """Through a batch processor, which holds both emissions at once."""
    provider = LoggerProvider(shutdown_on_exit=False)
    provider.add_log_record_processor(stamping())
    provider.add_log_record_processor(BatchLogRecordProcessor(
        OTLPLogExporter(endpoint=f"{collector.http_endpoint}/v1/logs")
    ))
    emit_three(provider)
    provider.shutdown()
    check_arrived(collector.wait_received(3, timeout=30.0))
