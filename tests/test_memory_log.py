"""``MemoryLog``: events with receipts, and changes whose intention comes first."""

from __future__ import annotations

import asyncio
import inspect
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from opentelemetry import trace
from opentelemetry._logs import NoOpLoggerProvider
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from memory_log_helpers import TIMEOUT_S, arrived, logs_of
from otel_memoir import DurableLogRecordProcessor, MemoryLog, Receipt
from otel_memoir.errors import MemoirError, SettingsError, SpoolRefusedError, WriteConflictError
from otel_memoir.events import Capture, names
from otel_memoir.events.tables import EVENTS
from otel_memoir.memory_log.recorder import Recorder
from otel_memoir.testing import Answer, RecordedRecord, ScriptedCollector
from socket_programs.wiring import FAST

KEY = "0123456789abcdef"


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, collector: ScriptedCollector) -> Iterator[Callable[..., MemoryLog]]:
    """Makes logs of one directory; all are closed at the end."""
    with logs_of(tmp_path / "spool", collector) as new:
        yield new


def named(collector: ScriptedCollector, log: MemoryLog) -> list[str]:
    """The names of the events that arrived."""
    return [record.event_name for record in arrived(collector, log)]


CALLS: dict[str, Callable[[Recorder], Receipt]] = {
    names.EVENT_RECORD_CREATED: lambda log: log.created("r", content="tea", ttl=60.0),
    names.EVENT_RECORD_UPDATED: lambda log: log.updated("r", content="tea", before="water"),
    names.EVENT_RECORD_DELETED: lambda log: log.deleted("r"),
    names.EVENT_RECORD_SUPERSEDED: lambda log: log.superseded("r", by="s"),
    names.EVENT_RECORD_EXPIRED: lambda log: log.expired(count=3, ttl=60.0),
    names.EVENT_RECORD_MOVED: lambda log: log.moved("r", to="archive", origin="core"),
    names.EVENT_RECORD_REJECTED: lambda log: log.rejected("duplicate", "r"),
    names.EVENT_RECORD_READ: lambda log: log.read("r", hit=True),
    names.EVENT_RECORD_PROMOTED: lambda log: log.promoted("r", to="belief"),
    names.EVENT_RECORD_ERASED: lambda log: log.erased("r", basis="she asked"),
    names.EVENT_RECALL_COMPLETED: lambda log: log.recalled(["r", "s"], query="tea?", top_k=5),
    names.EVENT_CONTEXT_INJECTED: lambda log: log.injected(["r"], tokens=12),
    names.EVENT_EXTRACTION_COMPLETED: lambda log: log.extracted(candidates=3, accepted=1),
    names.EVENT_CONSOLIDATION_COMPLETED: lambda log: log.consolidated(inputs=["r"], outputs=["s"]),
    names.EVENT_WRITE_CONFLICT: lambda log: log.conflicted("r", expected_version=1),
    names.EVENT_STORE_CREATED: lambda log: log.store_created("s"),
    names.EVENT_STORE_DELETED: lambda log: log.store_deleted("s", count=2),
    names.EVENT_STORE_CLEARED: lambda log: log.store_cleared("s"),
}
BY_THEMSELVES = ("memoir.change.", "memoir.reflection.", "memoir.lock.", "memoir.delivery.",
                 "memoir.health.")


def test_there_is_a_method_for_every_event_that_an_application_tells() -> None:
    """The others come of changes, reflections, locks, delivery and health."""
    assert set(CALLS) == {name for name in EVENTS if not name.startswith(BY_THEMSELVES)}
    methods = {
        name for name, _ in inspect.getmembers(Recorder, inspect.isfunction)
        if not name.startswith("_")
    }
    assert len(methods) == len(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_each_method_tells_its_event_and_gives_a_receipt_of_it(
    name: str, make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """On disk when it returns; delivered when it says so."""
    log = make(agent_name="planner", content_hash_key=KEY)
    receipt = CALLS[name](log.bind(conversation_id="c1"))
    assert receipt.is_stored
    assert receipt.wait(TIMEOUT_S)
    [record] = collector.delivered
    assert record.event_name == name
    assert (record.uid, record.sequence) == (receipt.uid, receipt.sequence)
    assert record.attributes[names.GEN_AI_AGENT_NAME] == "planner"
    assert record.attributes[names.GEN_AI_CONVERSATION_ID] == "c1"
    assert record.attributes[names.GEN_AI_MEMORY_STORE_ID] in ("profile", "s")


# -- receipts ---------------------------------------------------------------------


def test_a_receipt_follows_its_event_from_disk_to_the_first_hop(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Also in another process, which is told no more than its text."""
    collector.respond = lambda _: Answer(status=503)
    log = make()
    receipt = log.created("r")
    assert receipt.state() == "pending"
    elsewhere = make().receipt(str(receipt))
    assert elsewhere.state() == "pending"
    assert elsewhere.uid == receipt.uid
    collector.respond = lambda _: Answer()
    assert receipt.wait(TIMEOUT_S)
    assert elsewhere.wait(TIMEOUT_S)
    assert elsewhere.is_stored
    log.close()
    assert Receipt.parse(str(receipt), spool_dir=log.directory).state() == "delivered"


@pytest.mark.parametrize(
    ("partial", "state"), [(1, "rejected"), (0, "delivered")], ids=["all of one", "none"]
)
def test_a_receipt_tells_what_the_destination_rejected(
    partial: int, state: str, make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """With what the destination said."""
    collector.respond = lambda _: Answer(rejected=partial, message="no thanks")
    receipt = make().created("r")
    assert receipt.wait(TIMEOUT_S) == (state == "delivered")
    assert receipt.state() == state


def test_a_receipt_of_one_of_many_is_found_in_a_long_ledger(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Several lives, many batches; the first and the last, in each life."""
    receipts = []
    for _ in range(3):
        log = make(request_records_max=2)
        receipts += [log.created(f"r{number}") for number in range(9)]
        assert log.wait_delivered(TIMEOUT_S)
        log.close()
    log = make()
    log.created("one that waits")
    assert {str(log.receipt(str(one)).state()) for one in receipts} == {"delivered"}
    beyond = str(receipts[-1]).replace("/9/", "/99/")
    assert log.receipt(beyond).state() == "unknown"


def test_what_is_no_receipt_is_said(make: Callable[..., MemoryLog]) -> None:
    """A clear error, not a lookup that finds nothing."""
    with pytest.raises(MemoirError, match="str\\(receipt\\)"):
        make().receipt("r1")


def test_an_event_that_is_refused_has_a_receipt_that_says_why(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """It raises nothing; the auditor's switch does."""
    given = {"attributes": {"theirs": "x" * 400}}
    receipt = make(record_bytes_max=300).created("r", **given)
    assert receipt.details() == ("refused", "too_large", "")
    assert not receipt.wait_stored(TIMEOUT_S)
    with pytest.raises(SpoolRefusedError):
        make(record_bytes_max=300, on_failure="raise").created("r", **given)


def test_an_event_that_cannot_be_made_is_said_and_raises_only_for_auditors(
    make: Callable[..., MemoryLog],
) -> None:
    """The application goes on."""
    assert make().created(None).state() == "refused"  # type: ignore[arg-type]  # the mistake
    with pytest.raises(MemoirError, match="record_id"):
        make(on_failure="raise").created(None)  # type: ignore[arg-type]  # the mistake


@pytest.mark.parametrize(
    ("given", "hint"),
    [({"text": "tea"}, "content"), ({"version": 1}, "record_version"), ({"ttl": "1d"}, "ttl")],
)
def test_what_cannot_be_told_of_an_event_costs_only_that(
    given: Any, hint: str, make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """That it happened is told, and marked; an auditor's log raises, and says what is meant."""
    log = make(agent_name="planner")
    assert log.created("alice", **given).is_stored
    [record] = arrived(collector, log)
    assert record.event_name == names.EVENT_RECORD_CREATED
    assert record.attributes[names.GEN_AI_MEMORY_RECORD_ID] == "alice"
    assert record.attributes[names.GEN_AI_AGENT_NAME] == "planner"
    assert record.attributes[names.REPAIRED] is True
    with pytest.raises(MemoirError, match=hint):
        make(on_failure="raise").created("alice", **given)


def test_a_choice_or_a_name_that_there_is_not_is_said_when_the_log_is_made(tmp_path: Path) -> None:
    """``Raise`` is not ``raise``: an auditor must not find out later."""
    with pytest.raises(SettingsError, match="degrade"):
        MemoryLog(spool_dir=str(tmp_path), on_failure="Raise")  # type: ignore[arg-type]  # it
    with pytest.raises(SettingsError, match="Did you mean store_id"):
        MemoryLog(spool_dir=str(tmp_path), store="profile")


# -- changes ----------------------------------------------------------------------


def test_the_intention_is_on_disk_before_the_block_begins(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """And the outcome names it."""
    log = make(content_hash_key=KEY)
    with log.change("profile/alice", reason="she said so", expected_version=3) as change:
        assert change.intended is not None
        assert change.intended.is_stored
        change.made(content="coffee", before="tea", version=4)
    intended, outcome = arrived(collector, log)
    assert intended.event_name == names.EVENT_CHANGE_INTENDED
    assert outcome.event_name == names.EVENT_RECORD_UPDATED
    said = outcome.attributes
    assert said[names.CHANGE_ID] == intended.attributes[names.CHANGE_ID] == change.id
    assert said[names.CAUSE_UIDS] == [intended.uid]
    assert said[names.RECORD_VERSION] == 4
    assert said[names.BEFORE_HASH] != said[names.AFTER_HASH]
    assert (said[names.GEN_AI_MEMORY_STORE_ID], said[names.GEN_AI_MEMORY_RECORD_ID]) == (
        "profile", "alice",
    )
    assert change.outcome is not None
    assert change.outcome.uid == outcome.uid


@pytest.mark.parametrize(
    ("error", "outcome"), [(ValueError("no"), "failure"), (KeyboardInterrupt(), "unknown")]
)
def test_a_block_that_raises_has_an_outcome_too(
    error: BaseException, outcome: str, make: Callable[..., MemoryLog],
    collector: ScriptedCollector,
) -> None:
    """What was interrupted may have happened: that is not called a failure."""
    log = make()
    with pytest.raises(type(error)), log.change("alice"):
        raise error
    _, told = arrived(collector, log)
    assert told.attributes[names.OUTCOME] == outcome
    assert told.attributes[names.ERROR_TYPE] == type(error).__name__


def test_a_change_that_is_called_off_says_so(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Nothing was changed, by a decision."""
    log = make()
    with log.change("alice") as change:
        change.reject("duplicate")
    assert named(collector, log) == [names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_REJECTED]


def test_a_stale_change_is_refused_before_its_block_begins(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """The control: the version that is expected is let through."""
    log, begun = make(), []
    with (
        pytest.raises(WriteConflictError) as caught,
        log.change("alice", expected_version=3, version_of=lambda: 5),
    ):
        begun.append("stale")
    assert (caught.value.expected, caught.value.found) == (3, 5)
    with log.change("alice", expected_version=5, version_of=lambda: 5):
        begun.append("fresh")
    assert begun == ["fresh"]
    conflict = arrived(collector, log)[0]
    assert conflict.event_name == names.EVENT_WRITE_CONFLICT
    assert conflict.attributes[names.CONFLICT_ACTUAL_VERSION] == 5


def test_without_a_store_to_ask_the_version_that_was_told_of_last_counts(
    make: Callable[..., MemoryLog],
) -> None:
    """Of this process; what it knows nothing of is let through."""
    log = make()
    with log.change("alice", expected_version=7) as change:
        change.made(version=8)
    with pytest.raises(WriteConflictError), log.bind(turn_id="t").change(
        "alice", expected_version=7
    ):
        pytest.fail("it began")
    with log.change("alice", expected_version=8):
        pass


def test_a_store_that_refuses_a_stale_write_itself_is_told_of(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """The block found out; the intention has its answer."""
    log = make()
    with (
        pytest.raises(WriteConflictError),
        log.change("alice", expected_version=3) as change,
    ):
        raise change.conflict(found=4)
    assert named(collector, log) == [names.EVENT_CHANGE_INTENDED, names.EVENT_WRITE_CONFLICT]


@pytest.mark.parametrize("on_failure", ["raise", "degrade"])
def test_an_auditor_s_change_does_not_begin_without_its_intention(
    on_failure: Any, make: Callable[..., MemoryLog]
) -> None:
    """The other way round, the application matters more than the record."""
    log, begun = make(on_failure=on_failure, record_bytes_max=256), []
    fields: Any = {"attributes": {"theirs": "x" * 400}}
    try:
        with log.change("alice", **fields):
            begun.append(1)
    except SpoolRefusedError:
        pass
    assert bool(begun) == (on_failure == "degrade")


def test_a_key_is_held_for_the_time_of_the_change(make: Callable[..., MemoryLog]) -> None:
    """By the lock manager, under the name that anybody else would lock."""
    log = make()
    with log.change("alice", hold=True) as change:
        assert change.lease is not None
        assert [key.key for key in log.locks.snapshot().keys] == ["profile", "profile/alice"]
    assert log.locks.snapshot().keys == ()


def test_a_fork_child_ends_no_change_of_its_parent(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Both leave the block."""
    log = make()
    change = log.change("alice")
    with change:
        child = os.fork()
        if child == 0:
            change.__exit__(None, None, None)
            os._exit(0 if change.outcome is None else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert named(collector, log) == [names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED]


@pytest.mark.parametrize("key", ["", "/", "profile/", "a//b"])
def test_a_key_that_names_no_memory_record_is_an_error_before_anything_happens(
    key: str, make: Callable[..., MemoryLog]
) -> None:
    """With what a key is."""
    with pytest.raises(MemoirError, match="store/(collection/)?record"):
        make().change(key)


def test_an_operation_that_changes_no_memory_record_is_an_error(
    make: Callable[..., MemoryLog],
) -> None:
    """With those that do."""
    with pytest.raises(SettingsError, match="upsert_memory"):
        make().change("alice", operation="search_memory")


def test_without_a_directory_a_change_does_not_wait_for_a_disk_that_is_not_there(
    tmp_path: Path, make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """It waited for the whole of ``emit_timeout_s``. An auditor's change does not begin."""
    (tmp_path / "file").write_text("no directory")
    given = {"spool_dir": str(tmp_path / "file"), "emit_timeout_s": 3600.0}
    with make(**given).change("alice") as change:
        assert change.intended is not None
        assert not change.intended.is_stored
    with pytest.raises(MemoirError, match="has not begun"), make(
        **given, on_failure="raise"
    ).change("alice"):
        pytest.fail("it began")


# -- reflections -------------------------------------------------------------------


def test_a_reflection_of_a_bound_log_says_what_the_log_says(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """And holds the memory under the name that a change locks."""
    log = make().bind(agent_name="planner", conversation_id="c1")
    with log.reflect("consolidate", keys="profile/alice") as reflection:
        with pytest.raises(MemoirError), reflection.unlocked(), log.change("alice", hold=True):
            pass
        reflection.refresh()
    events = {record.event_name: record for record in _all(collector, 5)}
    assert list(events) == [
        names.EVENT_REFLECTION_STARTED, names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED,
        names.EVENT_WRITE_CONFLICT, names.EVENT_REFLECTION_COMPLETED,
    ]
    for record in events.values():
        assert record.attributes[names.GEN_AI_AGENT_NAME] == "planner"
        assert record.attributes[names.GEN_AI_CONVERSATION_ID] == "c1"
    conflict = events[names.EVENT_WRITE_CONFLICT].attributes
    assert conflict[names.GEN_AI_MEMORY_STORE_ID] == "profile"
    assert conflict[names.GEN_AI_MEMORY_RECORD_ID] == "alice"


def _all(collector: ScriptedCollector, count: int) -> list[RecordedRecord]:
    assert collector.wait_for(count, timeout=TIMEOUT_S)
    return collector.delivered


# -- asking -------------------------------------------------------------------------


def test_a_log_finds_what_it_told_delivered_or_not(make: Callable[..., MemoryLog]) -> None:
    """Of its own process and of those before it, in the order in which it happened."""
    first = make()
    first.created("alice")
    first.created("bob")
    assert first.wait_delivered(TIMEOUT_S)
    first.close()
    log = make()
    with log.change("alice") as change:
        change.made(version=2)
    told = [event.event.name for event in log.history("alice") if event.event is not None]
    assert told == [
        names.EVENT_RECORD_CREATED, names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED,
    ]
    page = log.events(event=names.EVENT_RECORD_CREATED, limit=1)
    [one] = page.events
    assert (one.state, page.has_more) == ("delivered", True)
    rest = log.events(event=names.EVENT_RECORD_CREATED, after=page.cursor)
    assert [event.event.record_id for event in rest.events if event.event] == ["bob"]


# -- asyncio ------------------------------------------------------------------------


def test_nothing_blocks_an_event_loop(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """blockbuster raises where a loop's thread touches a disk or waits for a lock."""
    log = make()

    async def main() -> tuple[bool, bool, bool]:
        first = log.created("r")
        stored = await first.stored(TIMEOUT_S)
        async with log.change("alice", hold=True, version_of=version, expected_version=1) as change:
            intended = change.intended is not None and change.intended.is_stored
            change.made(version=2)
        assert change.outcome is not None
        return stored, intended, await change.outcome.delivered(TIMEOUT_S)

    async def version() -> int:
        return 1

    with blockbuster_ctx():
        assert asyncio.run(main()) == (True, True, True)
    assert named(collector, log) == [
        names.EVENT_RECORD_CREATED, names.EVENT_CHANGE_INTENDED, names.EVENT_RECORD_UPDATED,
    ]


def test_a_receipt_of_the_very_first_event_of_a_loop_has_its_number_later(
    make: Callable[..., MemoryLog],
) -> None:
    """It is handed over before the file is open."""
    log = make()

    async def main() -> tuple[int, bool, int]:
        receipt = log.created("r")
        before = receipt.sequence
        return before, await receipt.stored(TIMEOUT_S), receipt.sequence

    assert asyncio.run(main()) == (0, True, 1)


def test_a_task_that_is_cancelled_inside_a_change_leaves_an_outcome_and_no_lock(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """``unknown``: the write may be on its way."""
    log = make()

    async def main() -> None:
        begun = asyncio.Event()

        async def change() -> None:
            async with log.change("alice", hold=True):
                begun.set()
                await asyncio.Event().wait()

        task = asyncio.create_task(change())
        await begun.wait()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    assert log.locks.snapshot().keys == ()
    assert arrived(collector, log)[-1].attributes[names.OUTCOME] == "unknown"


def test_an_async_log_closes_without_blocking(make: Callable[..., MemoryLog]) -> None:
    """And once."""

    made = make()

    async def main() -> None:
        async with made as log:
            await log.created("r").stored(TIMEOUT_S)
        await log.aclose()

    with blockbuster_ctx():
        asyncio.run(main())


# -- spans ----------------------------------------------------------------------------


@pytest.fixture
def spans() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def test_each_operation_on_memory_is_the_official_span_with_its_event_inside(
    make: Callable[..., MemoryLog], spans: tuple[TracerProvider, InMemorySpanExporter],
    collector: ScriptedCollector,
) -> None:
    """So that a viewer of traces alone shows it."""
    log = make(tracer_provider=spans[0])
    log.recalled(["r", "s"])
    log.created("r", provider_name="mem0")
    recall, create = spans[1].get_finished_spans()
    assert (recall.name, recall.kind) == ("search_memory", SpanKind.INTERNAL)
    assert dict(recall.attributes or {}) == {
        names.GEN_AI_OPERATION_NAME: "search_memory", names.GEN_AI_MEMORY_STORE_ID: "profile",
        names.GEN_AI_MEMORY_RECORD_COUNT: 2,
    }
    assert (create.name, create.kind) == ("create_memory", SpanKind.CLIENT)
    told = arrived(collector, log)[0].proto
    assert recall.context is not None
    assert int.from_bytes(told.span_id, "big") == recall.context.span_id


def test_the_span_of_a_change_covers_its_block_and_fails_with_it(
    make: Callable[..., MemoryLog], spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """Spans of the block are its children."""
    log = make(tracer_provider=spans[0])
    tracer = spans[0].get_tracer("app")
    with pytest.raises(ValueError, match="no"), log.change("alice"), tracer.start_as_current_span(
        "put"
    ):
        raise ValueError("no")
    put, change = spans[1].get_finished_spans()
    assert put.parent is not None
    assert change.context is not None
    assert put.parent.span_id == change.context.span_id
    assert change.status.status_code is StatusCode.ERROR
    assert dict(change.attributes or {})[names.ERROR_TYPE] == "ValueError"


def test_without_spans_there_are_none(
    make: Callable[..., MemoryLog], spans: tuple[TracerProvider, InMemorySpanExporter]
) -> None:
    """The event has the span of the caller."""
    log = make(tracer_provider=spans[0], spans=False)
    with spans[0].get_tracer("app").start_as_current_span("mine"):
        log.created("r")
    assert [span.name for span in spans[1].get_finished_spans()] == ["mine"]


# -- content ----------------------------------------------------------------------------


@pytest.mark.parametrize("capture", [Capture.NO_CONTENT, Capture.EVENT_ONLY])
def test_content_is_told_only_where_the_user_opted_in(
    capture: Capture, make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """A keyed hash and a size always are."""
    log = make(capture=capture, content_hash_key=KEY)
    log.created("r", content="likes tea")
    log.recalled([], query="tea?")
    created, recalled = arrived(collector, log)
    told = str(created.proto) + str(recalled.proto)
    assert ("likes tea" in told, "tea?" in told) == (capture.on_events,) * 2
    assert created.attributes[names.AFTER_HASH].startswith("hmac-sha256:")
    assert created.attributes[names.CONTENT_SIZE] == len('"likes tea"')
    assert recalled.attributes[names.QUERY_SIZE] == len('"tea?"')


# -- wiring -------------------------------------------------------------------------------


def test_a_provider_that_is_durable_already_is_used_as_it_is(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """One spool, one courier; the application shuts it down."""
    provider = LoggerProvider()
    processor = DurableLogRecordProcessor(
        spool_dir=str(tmp_path), endpoint=collector.endpoint, environ={}, **FAST
    )
    provider.add_log_record_processor(processor)
    with MemoryLog(logger_provider=provider, environ={}) as log:
        receipt = log.created("r")
    assert receipt.is_stored
    assert processor.status().totals.accepted == 1
    provider.get_logger("app").emit(body="after the log was closed")
    assert processor.status().totals.accepted == 2
    provider.shutdown()


def test_a_provider_that_is_not_durable_becomes_it(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Two logs around it share one pipeline."""
    provider = LoggerProvider()
    first, second = make(logger_provider=provider), make(logger_provider=provider)
    assert first.created("r").sequence == 1
    assert second.created("s").sequence == 2
    provider.shutdown()


def test_a_provider_that_stores_nothing_is_said_to(make: Callable[..., MemoryLog]) -> None:
    """Not everything that has ``get_logger`` is a logger provider of the SDK."""
    log = make(logger_provider=NoOpLoggerProvider())
    assert log.created("r").state() == "unknown"
    with pytest.raises(MemoirError, match="no durable processor"):
        make(logger_provider=NoOpLoggerProvider(), on_failure="raise").created("r")


def test_constructing_opens_no_file_and_a_log_closes_once(
    make: Callable[..., MemoryLog], tmp_path: Path
) -> None:
    """What is told after the end is refused."""
    log = make()
    assert not (tmp_path / "spool").exists()
    log.created("r")
    log.close()
    log.close()
    assert log.created("late").state() == "refused"


def test_settings_of_a_log_change_while_it_goes_on(make: Callable[..., MemoryLog]) -> None:
    """All or nothing; and its health is told to whom it was given."""
    log = make(endpoint="http://127.0.0.1:9")
    with ScriptedCollector() as elsewhere:
        receipt = log.created("r")
        with pytest.raises(SettingsError, match="durability"):
            log.change_settings(endpoint=elsewhere.endpoint, durability="batch")
        assert log.settings.endpoint == "http://127.0.0.1:9"
        log.change_settings(endpoint=elsewhere.endpoint)
        assert receipt.wait(TIMEOUT_S)
    assert log.settings.endpoint == elsewhere.endpoint


def test_settings_are_given_once(tmp_path: Path) -> None:
    """In an object, or by name."""
    from otel_memoir import Settings

    with pytest.raises(SettingsError, match="linger_s"):
        MemoryLog(settings=Settings(spool_dir=str(tmp_path)), linger_s=1.0)


INSTALL = """
import sys, otel_memoir
from opentelemetry._logs import get_logger_provider
log = otel_memoir.install(spool_dir=sys.argv[1], endpoint=sys.argv[2])
assert otel_memoir.install() is log
get_logger_provider().get_logger("anybody").emit(body="an application's own", event_name="app.one")
log.created("r")
print(log.status().totals.accepted)
"""


def test_one_line_makes_every_record_of_a_process_durable(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """The provider of the process; the SDK shuts it down at its end."""
    import subprocess

    done = subprocess.run(
        [sys.executable, "-c", INSTALL, str(tmp_path), collector.endpoint],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.stdout.strip() == "2", done.stderr
    assert collector.wait_for(2, timeout=TIMEOUT_S)


def test_the_current_span_is_that_of_the_event_without_spans_of_its_own(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """No tracer provider: no span, no trace."""
    log = make()
    assert not trace.get_current_span().get_span_context().is_valid
    log.created("r")
    assert arrived(collector, log)[0].proto.trace_id == b""
