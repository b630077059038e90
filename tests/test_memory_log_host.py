"""``MemoryLog`` in a host that does everything wrong: it is not harmed, and nothing is hidden."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor
from opentelemetry.sdk._logs.export import BatchLogRecordProcessor, InMemoryLogRecordExporter
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from memory_log_helpers import TIMEOUT_S, arrived, logs_of
from otel_memoir import MemoryLog
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError
from otel_memoir.events import names
from otel_memoir.memory_log import BoundLog
from otel_memoir.memory_log import receipt as receipts_of
from otel_memoir.testing import Answer, ScriptedCollector
from spool_helpers import select
from test_memory_log import CALLS

KEY = "0123456789abcdef"
ANYONE_WAITS = threading.Event()


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


@pytest.fixture
def make(tmp_path: Path, collector: ScriptedCollector) -> Iterator[Callable[..., MemoryLog]]:
    """Makes logs of one directory; all are closed at the end."""
    with logs_of(tmp_path / "spool", collector, content_hash_key=KEY) as new:
        yield new


class Unsayable:
    """What has no text, and raises no error of ours."""

    def __repr__(self) -> str:
        raise OSError("no text")


class Unreadable(dict[str, Any]):
    """A mapping of an application whose database is gone."""

    def items(self) -> Any:
        raise OSError("gone")

    def keys(self) -> Any:
        raise OSError("gone")


def _endless() -> list[Any]:
    found: list[Any] = []
    found.append(found)
    return found


def _deep() -> list[Any]:
    found: list[Any] = []
    for _ in range(3_000):
        found = [found]
    return found


MISTAKES: dict[str, Callable[[], Any]] = {
    "none": lambda: None, "unsayable": Unsayable, "in a list": lambda: [Unsayable()],
    "unreadable": lambda: Unreadable(a=1), "endless": _endless, "deep": _deep,
    "bytes": lambda: b"\xff", "surrogate": lambda: "\ud800", "large": lambda: 2**70,
    "generator": lambda: (one for one in "ab"), "unhashable": dict,
}
POSITIONS: dict[str, Callable[[BoundLog, Any], object]] = {
    "record": lambda log, bad: log.created(bad),
    "content": lambda log, bad: log.created("r", content=bad),
    "importance": lambda log, bad: log.created("r", importance=bad),
    "operation": lambda log, bad: log.created("r", operation=bad),
    "provider": lambda log, bad: log.created("r", provider_name=bad),
    "attributes": lambda log, bad: log.created("r", attributes=bad),
    "an attribute": lambda log, bad: log.created("r", attributes={"theirs": bad}),
    "no such field": lambda log, bad: log.created("r", nobody=bad),  # type: ignore[call-arg]  # the mistake
    "recalled": lambda log, bad: log.recalled(bad, query=bad),
    "injected": lambda log, bad: log.injected(bad),
    "consolidated": lambda log, bad: log.consolidated(inputs=bad, outputs=bad),
    "bound": lambda log, bad: log.bind(attributes=bad, agent_name=bad).read("r"),
    "made": lambda log, bad: _change(log, {}, {"content": bad, "outcome": bad, "reason": bad}),
    "change": lambda log, bad: _change(log, {"agent_name": bad, "attributes": bad}, {}),
    "store": lambda log, bad: _change(log, {"store_id": bad}, {}),
}


def _change(log: Any, fields: dict[str, Any], made: dict[str, Any]) -> None:
    with log.change("alice", **fields) as change:
        change.made(**made)


def test_no_mistake_of_the_application_raises_into_it(make: Callable[..., MemoryLog]) -> None:
    """Whatever is given where; what can be told is told. One log, since making many is slow."""
    log = make(durability="process")
    for position, call in POSITIONS.items():
        for kind, mistake in MISTAKES.items():
            try:
                call(log, mistake())
            except Exception as error:
                pytest.fail(f"{position}, {kind}: {error!r:.200}")
    assert log.created("r").is_stored


def test_whatever_is_wrong_with_what_is_said_of_a_change_it_is_told_that_it_failed(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """It was told as if it had been made."""
    log = make()
    with pytest.raises(ValueError, match="theirs"), log.change("alice") as change:
        change.made(content=Unsayable(), attributes={"theirs": Unsayable()})
        raise ValueError("theirs")
    _, outcome = arrived(collector, log)
    assert outcome.attributes[names.OUTCOME] == "failure"
    assert outcome.attributes[names.ERROR_TYPE] == "ValueError"


def test_whatever_is_wrong_with_what_is_said_of_an_intention_it_is_on_disk(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Unless the auditor's switch keeps the change from beginning."""
    wrong: Any = {"agent_name": 5}
    log = make()
    with log.change("alice", **wrong) as change:
        assert change.intended is not None
        assert change.intended.is_stored
    intended, outcome = arrived(collector, log)
    assert intended.event_name == names.EVENT_CHANGE_INTENDED
    assert outcome.attributes[names.CHANGE_ID] == change.id
    with pytest.raises(MemoirError, match="agent_name"), make(on_failure="raise").change(
        "alice", **wrong
    ):
        pytest.fail("it began")


# -- others in the same process -----------------------------------------------------


class RaisingSpans(SpanProcessor):
    """Raises at the end of each span."""

    def on_end(self, span: Any) -> None:
        raise OSError("theirs")


class RaisingTracers(TracerProvider):
    """Gives tracers that make no spans."""

    def get_tracer(self, *_: Any, **__: Any) -> Any:
        return object()


def _raising_spans() -> TracerProvider:
    provider = TracerProvider()
    provider.add_span_processor(RaisingSpans())
    return provider


@pytest.mark.parametrize("tracers", [_raising_spans, RaisingTracers])
def test_a_tracer_that_raises_costs_the_span_and_nothing_else(
    tracers: Callable[[], TracerProvider], make: Callable[..., MemoryLog]
) -> None:
    """The event is stored; the block's own error comes out as it is."""
    log = make(tracer_provider=tracers())
    for call in CALLS.values():
        assert call(log).is_stored
    with pytest.raises(ValueError, match="theirs"), log.change("alice"):
        raise ValueError("theirs")


class RaisingLogs(LogRecordProcessor):
    """Raises at each record."""

    def on_emit(self, log_record: Any) -> None:
        raise OSError("theirs")

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        return True


@pytest.mark.parametrize("on_failure", ["raise", "degrade"])
def test_a_processor_that_raises_behind_ours_does_not_make_a_stored_event_a_refused_one(
    on_failure: str, make: Callable[..., MemoryLog]
) -> None:
    """It said ``refused`` of what was on disk."""
    provider = LoggerProvider()
    log = make(logger_provider=provider, on_failure=on_failure)
    provider.add_log_record_processor(RaisingLogs())
    assert log.created("r").is_stored


def test_a_processor_that_raises_before_ours_is_said_and_raised_only_for_auditors(
    make: Callable[..., MemoryLog]
) -> None:
    """Nothing was stored."""
    provider = LoggerProvider()
    provider.add_log_record_processor(RaisingLogs())
    assert make(logger_provider=provider).created("r").details() == ("refused", "theirs", "")
    with pytest.raises(OSError, match="theirs"):
        make(logger_provider=provider, on_failure="raise").created("r")


# -- a change that does not begin, or begins twice ------------------------------------


def test_a_change_that_is_cancelled_before_its_block_begins_has_an_outcome(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """Its intention is on its way to disk; nobody would end it before the process did."""
    log = make()

    async def main() -> list[Any]:
        async def change() -> None:
            async with log.change("alice", hold=True):
                pytest.fail("it began")

        task = asyncio.create_task(change())
        asyncio.get_running_loop().call_soon(task.cancel)
        return await asyncio.gather(task, return_exceptions=True)

    [ended] = asyncio.run(main())
    assert isinstance(ended, asyncio.CancelledError)
    assert log.locks.snapshot().keys == ()
    intended, outcome = arrived(collector, log)
    assert outcome.attributes[names.CAUSE_UIDS] == [intended.uid]
    assert outcome.attributes[names.OUTCOME] == "failure"
    assert outcome.attributes[names.REASON] == "the change did not begin"


def test_a_change_is_used_once(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """A second block had an intention without an outcome."""
    log = make()
    change = log.change("alice")
    with change:
        pass
    with pytest.raises(MemoirError, match="for each block"), change:
        pytest.fail("it began")
    assert len(arrived(collector, log)) == 2


# -- what is said -----------------------------------------------------------------------


def test_attributes_of_a_log_of_a_bound_one_and_of_a_call_add_up(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """The nearer one wins."""
    log = make(attributes={"a": 1, "b": 1, "c": 1})
    log.bind(attributes={"b": 2, "c": 2}).created("r", attributes={"c": 3})
    [record] = arrived(collector, log)
    assert {key: record.attributes[key] for key in "abc"} == {"a": 1, "b": 2, "c": 3}


def test_none_is_content_of_a_change_too(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """As it is of ``created``."""
    log = make()
    with log.change("alice") as change:
        change.made(content=None)
    assert names.AFTER_HASH in arrived(collector, log)[-1].attributes


def test_a_change_whose_process_died_is_told_of_with_its_intention_as_the_cause(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """So that the two are found together."""
    child = os.fork()
    if child == 0:
        make().change("alice").__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    log = make()
    log.created("r")
    assert collector.wait_for(3, timeout=TIMEOUT_S)
    told = {record.event_name: record for record in collector.delivered}
    unknown = told[names.EVENT_CHANGE_UNKNOWN]
    assert unknown.attributes[names.CAUSE_UIDS] == [told[names.EVENT_CHANGE_INTENDED].uid]


# -- receipts and waits -------------------------------------------------------------------


def until(condition: Callable[[], Any]) -> bool:
    """Wait for what no event tells; return whether it came."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        ANYONE_WAITS.wait(0.02)
    return True


def test_a_receipt_says_the_same_once_the_ledger_is_compacted(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """What was delivered became ``partly rejected``, with what a neighbour was refused."""
    log = make(request_records_max=1, retain_s=0.0, when_full="refuse")
    states, receipts = [], []
    for number in range(9):
        no = number == 4
        collector.respond = lambda _, no=no: Answer(rejected=int(no), message="no")  # type: ignore[misc]
        receipts.append(log.created(f"r{number}"))
        receipts[-1].wait(TIMEOUT_S)
        states.append(receipts[-1].state())
    assert states == ["delivered"] * 4 + ["rejected"] + ["delivered"] * 4
    [path] = log.directory.glob("*.db")

    def rows() -> int:
        log.created("more").wait(TIMEOUT_S)  # what was delivered is tidied up as others come
        return int(select(path, "SELECT count(*) FROM batch WHERE last_sequence <= 9")[0][0])

    collector.respond = lambda _: Answer()
    assert until(lambda: rows() <= 3)
    assert [receipt.state() for receipt in receipts] == states


def test_what_is_refused_on_a_loop_after_the_end_is_refused_at_once(
    make: Callable[..., MemoryLog],
) -> None:
    """A change waited for the whole of ``emit_timeout_s``, and a receipt for ever."""
    log = make(emit_timeout_s=3600.0)
    log.close()

    async def main() -> tuple[bool, str]:
        receipt = log.created("r")
        async with log.change("alice") as change:
            pass
        assert change.outcome is not None
        return await receipt.stored(), change.outcome.state()

    assert asyncio.run(main()) == (False, "refused")


def test_what_has_no_disk_is_known_to_be_delivered_while_its_process_lives(
    tmp_path: Path, make: Callable[..., MemoryLog]
) -> None:
    """A task that waited for it waited for ever."""
    (tmp_path / "file").write_text("no directory")
    log = make(spool_dir=str(tmp_path / "file"))
    receipt = log.created("r")
    assert receipt.wait(TIMEOUT_S)
    assert asyncio.run(receipt.delivered(TIMEOUT_S))
    assert not receipt.is_stored


def test_many_tasks_that_wait_share_their_looks(
    make: Callable[..., MemoryLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each opened the files by itself, at each ring: that took seconds of processor time."""
    looks: list[int] = []
    look = receipts_of.whereabouts_of_all
    monkeypatch.setattr(
        receipts_of, "whereabouts_of_all",
        lambda directory, wanted: looks.append(len(wanted)) or look(directory, wanted),
    )
    log = make()

    async def main() -> list[bool]:
        receipts = [log.created(f"r{number}") for number in range(200)]
        return await asyncio.gather(*(one.delivered(TIMEOUT_S) for one in receipts))

    assert asyncio.run(main()) == [True] * 200
    assert len(looks) < 200 + 50


def test_waits_end_with_their_time_when_they_are_cancelled_and_when_the_leader_leaves(
    make: Callable[..., MemoryLog], collector: ScriptedCollector
) -> None:
    """The one who looks for all is as free to go as the others."""
    collector.respond = lambda _: Answer(status=503)
    log = make()

    async def main() -> tuple[bool, bool]:
        receipt = log.created("r")
        assert not await receipt.delivered(0.1)
        leader = asyncio.create_task(receipt.delivered())
        brief = asyncio.create_task(receipt.delivered(0.3))
        patient = asyncio.create_task(receipt.delivered(TIMEOUT_S))
        assert not await brief
        leader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leader
        collector.respond = lambda _: Answer()
        return brief.result(), await patient

    assert asyncio.run(main()) == (False, True)


def test_a_loop_is_told_once_of_many_commits(make: Callable[..., MemoryLog]) -> None:
    """Each task was told of each emit by itself: 256 held their loop for seconds."""
    log = make()
    told: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        call = loop.call_soon_threadsafe

        def counting(*args: Any, **given: Any) -> Any:
            told.append(1)
            return call(*args, **given)

        await log.created("first").stored(TIMEOUT_S)
        loop.call_soon_threadsafe = counting  # type: ignore[method-assign]  # to count
        receipts = [log.created(f"r{number}") for number in range(100)]
        assert all(await asyncio.gather(*(one.stored(TIMEOUT_S) for one in receipts)))

    asyncio.run(main())
    assert len(told) < 100


def test_receipts_are_equal_by_their_event_and_can_be_sent_to_another_process(
    make: Callable[..., MemoryLog],
) -> None:
    """A receipt of a refusal has no event: it equals itself."""
    log = make()
    receipt, refused = log.created("r"), log.created(None)  # type: ignore[arg-type]  # the mistake
    again = pickle.loads(pickle.dumps(receipt))
    assert again == receipt == log.receipt(str(receipt)) == copy.deepcopy(receipt)
    assert len({receipt, again, refused, log.created("s")}) == 3
    assert again.wait(TIMEOUT_S)
    assert pickle.loads(pickle.dumps(refused)).state() == "refused"


def test_a_log_is_copied_with_an_agent_and_stays_in_its_process(
    make: Callable[..., MemoryLog],
) -> None:
    """A copy is the log itself; what would be pickled says what to do instead."""
    log = make()
    bound = log.bind(agent_name="planner")
    assert copy.deepcopy({"log": log, "bound": [bound]}) == {"log": log, "bound": [bound]}
    for one in (log, bound):
        with pytest.raises(TypeError, match="make one in the other process"):
            pickle.dumps(one)


def test_a_provider_that_sends_by_itself_is_said_to_send_twice(
    make: Callable[..., MemoryLog], caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """``install`` beside the stock processor: two records for each, with nothing said."""
    monkeypatch.setattr(complaints, "_said", {})
    provider = LoggerProvider()
    provider.add_log_record_processor(BatchLogRecordProcessor(InMemoryLogRecordExporter()))
    make(logger_provider=provider)
    make(logger_provider=provider)
    assert caplog.text.count("arrives twice") == 1
    provider.shutdown()
