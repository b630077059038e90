"""Settings are changed in a running process, by code: all of a change, or nothing."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from otel_memoir import DurableLogExporter
from otel_memoir.clock import SynchronizedClock
from otel_memoir.delivery.dispatch import Dispatcher
from otel_memoir.errors import SettingsError
from otel_memoir.sdk import live_settings
from otel_memoir.settings import Settings
from otel_memoir.spool.model import Refused
from otel_memoir.stamping import process_clock
from otel_memoir.testing import Answer, ScriptedCollector
from socket_programs.wiring import Agent, agent, numbers
from spool_helpers import problems_of

TIMEOUT_S = 15.0
FOR_EVER_S = 3600.0
ANYONE_WAITS = threading.Event()


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


@pytest.fixture
def other() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def until(condition: Callable[[], Any]) -> bool:
    """Wait for what no event tells; return whether it came."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not condition():
        if time.monotonic() >= deadline_s:
            return False
        ANYONE_WAITS.wait(0.01)
    return True


def deliver(it: Agent, count: int = 1) -> None:
    it.emit(count)
    assert it.processor.wait_delivered(TIMEOUT_S)


# -- where to -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [404, 401])
def test_a_hold_ends_at_once_when_the_endpoint_is_changed(
    collector: ScriptedCollector, other: ScriptedCollector, tmp_path: Path, status: int
) -> None:
    """Nobody waits for the next probe, which is an hour away."""
    collector.respond = lambda request: Answer(status=status)
    with agent(tmp_path, collector.endpoint, hold_probe_interval_s=FOR_EVER_S) as it:
        it.emit(20)
        courier = it.processor.pipeline.courier
        assert until(lambda: courier is not None and courier.hold)
        it.processor.change_settings(endpoint=other.endpoint)
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert until(lambda: it.processor.status().hold is None)
    assert numbers(other.delivered) == it.emitted
    assert not collector.delivered


def test_a_change_of_something_else_ends_no_hold(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The control of the test above."""
    collector.respond = lambda request: Answer(status=404)
    with agent(tmp_path, collector.endpoint, hold_probe_interval_s=FOR_EVER_S) as it:
        it.emit(1)
        courier = it.processor.pipeline.courier
        assert until(lambda: courier is not None and courier.hold)
        sent = len(collector.requests)
        it.processor.change_settings(linger_s=0.0, endpoint=collector.endpoint)
        assert not it.processor.wait_delivered(0.3)
        assert len(collector.requests) == sent


def test_new_headers_end_a_hold_for_refused_credentials(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """A token is renewed without a restart."""
    collector.respond = lambda request: Answer(
        status=200 if request.headers.get("authorization") == "new" else 401
    )
    given = {"hold_probe_interval_s": FOR_EVER_S, "headers": {"authorization": "old"}}
    with agent(tmp_path, collector.endpoint, **given) as it:
        it.emit(5)
        courier = it.processor.pipeline.courier
        assert until(lambda: courier is not None and courier.hold)
        it.processor.change_settings(headers={"authorization": "new"})
        assert it.processor.wait_delivered(TIMEOUT_S)


def test_the_request_in_flight_ends_where_it_began_and_the_next_goes_elsewhere(
    collector: ScriptedCollector, other: ScriptedCollector, tmp_path: Path
) -> None:
    """Its answer counts: nothing of it is sent twice."""
    answer = threading.Event()

    def slowly(_: object) -> Answer:
        answer.wait(TIMEOUT_S)
        return Answer()

    collector.respond = slowly
    with agent(tmp_path, collector.endpoint, request_records_max=10, linger_s=0.5) as it:
        it.emit(10)
        assert collector.wait_for(lambda c: len(c.requests) == 1, TIMEOUT_S)
        it.processor.change_settings(endpoint=other.endpoint)
        it.emit(10)
        answer.set()
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert it.totals.ambiguous_attempts == 0
    assert numbers(collector.delivered) == it.emitted[:10]
    assert numbers(other.delivered) == it.emitted[10:]
    assert problems_of(tmp_path) == []


def test_the_protocol_and_the_compression_change_too(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Another protocol is another sender."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        it.processor.change_settings(protocol="grpc", endpoint=collector.grpc_endpoint)
        deliver(it)
        it.processor.change_settings(
            protocol="http/protobuf", endpoint=collector.endpoint, compression="gzip"
        )
        deliver(it)
    assert [request.protocol for request in collector.requests] == ["http", "grpc", "http"]
    assert collector.requests[2].headers["content-encoding"] == "gzip"


# -- how much -----------------------------------------------------------------------


def test_batches_are_as_large_as_the_last_change_says(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """From the next record on."""
    with agent(tmp_path, collector.endpoint, linger_s=0.2, durability="batch") as it:
        deliver(it, 20)
        it.processor.change_settings(request_records_max=3)
        before = len(collector.requests)
        deliver(it, 20)
        sizes = [len(request.records) for request in collector.requests[before:]]
        assert max(sizes) == 3
        assert sum(sizes) == 20


def test_a_record_is_refused_by_the_bound_of_now(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The way in goes by the new value with the next record."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        it.processor.change_settings(record_bytes_max=400)
        it.emit(1, text="x" * 1000)
        assert it.processor.force_flush()
        assert dict(it.totals.refused) == {Refused("too_large"): 1}


def test_what_is_retained_goes_when_retention_is_taken_back(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The writer lets go of it within a round or two."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it, 10)
        assert it.rows("SELECT count(*) FROM record") == [(10,)]
        it.processor.change_settings(retain_s=0.0)
        assert until(lambda: it.rows("SELECT count(*) FROM record") == [(0,)])


def test_a_backoff_that_is_shortened_counts_from_the_next_failure_on(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """With the first settings, the third attempt would be minutes away."""
    collector.respond = lambda request: Answer(status=503)
    with agent(tmp_path, collector.endpoint) as it:
        it.emit(1)
        assert collector.wait_for(lambda c: len(c.requests) >= 2, TIMEOUT_S)
        it.processor.change_settings(backoff_initial_s=FOR_EVER_S, backoff_max_s=FOR_EVER_S)
        courier = it.processor.pipeline.courier
        assert courier is not None
        assert until(lambda: courier._dispatcher.pace.left_s > 5.0)


# -- all parts go by it ---------------------------------------------------------------


def holding(value: object, root: object) -> list[str]:
    """Where a value is held, in any object of ours that can be reached from another."""
    found, seen, todo = [], set(), [("", root)]
    while todo:
        path, one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        for name, held in vars(one).items() if hasattr(one, "__dict__") else ():
            if held is value:
                found.append(f"{path}.{name}")
            inner = list(held) if isinstance(held, (list, tuple)) else [held]
            inner += list(held.values()) if isinstance(held, dict) else []
            todo += [
                (f"{path}.{name}", each) for each in inner
                if type(each).__module__.startswith("otel_memoir") and not isinstance(each, type)
            ]
    return found


def holds_old_settings(it: Agent) -> list[str]:
    before = it.processor.pipeline.settings
    assert holding(before, it.processor)
    it.processor.change_settings(linger_s=0.05)
    after = it.processor.pipeline.settings
    deliver(it)
    courier = it.processor.pipeline.courier
    assert courier is not None
    assert until(lambda: not courier._news)
    assert len(holding(after, it.processor)) >= 10
    return holding(before, it.processor)


def test_no_part_goes_on_with_the_settings_of_before(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """Every part that has settings is given the new ones, the courier's at its next step."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        assert holds_old_settings(it) == []


def test_a_part_that_is_forgotten_is_seen(
    collector: ScriptedCollector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    monkeypatch.setattr(Dispatcher, "use", lambda *_: None)
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        assert holds_old_settings(it) != []


def test_a_change_before_the_first_record_counts(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """There are no parts yet to go by it."""
    with agent(tmp_path, "http://127.0.0.1:1") as it:
        it.processor.change_settings(endpoint=collector.endpoint)
        deliver(it)


def test_the_exporter_changes_its_pipeline(collector: ScriptedCollector, tmp_path: Path) -> None:
    """What holds a pipeline can change its settings."""
    exporter = DurableLogExporter(spool_dir=str(tmp_path), environ={})
    exporter.change_settings(endpoint=collector.endpoint, peer_offset_max_s=0.25)
    assert exporter.pipeline.settings.endpoint == collector.endpoint
    exporter.shutdown()


def test_the_propagators_bound_changes_with_it(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """It is the process's."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        it.processor.change_settings(peer_offset_max_s=0.25)
        assert process_clock.offset_max_ns == 250_000_000


# -- the clock ------------------------------------------------------------------------


def test_time_sources_change_in_the_running_clock_and_its_epoch_stays(
    collector: ScriptedCollector, tmp_path: Path
) -> None:
    """The clock stays the same, so times go on; it asks others, in another order of preference."""
    given = {"clock_sources": "system", "clock_dir": str(tmp_path / "clock")}
    with agent(tmp_path / "spool", collector.endpoint, **given) as it:
        deliver(it)
        clock = it.processor.pipeline._clock
        assert isinstance(clock, SynchronizedClock)
        assert until(lambda: [one.name for one in clock.snapshot().sources] == ["system"])
        epoch = clock.epoch
        it.processor.change_settings(clock_sources="http-date,system?prefer")
        assert until(lambda: len(clock.snapshot().sources) == 2)
        assert {one.name.partition(":")[0] for one in clock.snapshot().sources} >= {"system"}
        assert it.processor.pipeline._clock is clock
        assert clock.epoch == epoch
        deliver(it)
    times = [record.proto.observed_time_unix_nano for record in collector.delivered]
    assert times == sorted(times)


# -- what is refused --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"spool_dir": "elsewhere"}, "spool_dir: it cannot be changed in a running process"),
        ({"durability": "batch"}, "durability: it cannot be changed in a running process"),
        ({"no_such": 1}, "there is no such setting"),
        ({"retain_s": -1.0}, "not a number of at least 0"),
        ({"request_records_max": 2.5}, "not of type int"),
        ({"headers": {"a": 1}}, "no text"),
        ({"endpoint": "collector:4318"}, "does not begin with http:// or https://"),
        ({"protocol": "http/json"}, "not one of"),
        ({"certificate_file": "/no/such/file.pem"}, "is no file"),
        ({"clock_sources": "sundial"}, "it is no source"),
    ],
)
def test_what_cannot_be_used_changes_nothing(
    collector: ScriptedCollector, tmp_path: Path, given: dict[str, Any], says: str
) -> None:
    """Not even what is good beside it."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        before = it.processor.pipeline.settings
        with pytest.raises(SettingsError, match=says):
            it.processor.change_settings(linger_s=0.5, **given)
        assert it.processor.pipeline.settings is before
        deliver(it)


def test_without_the_check_what_is_not_live_would_seem_to_change(
    collector: ScriptedCollector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the settings would say one thing, and the files be in another place."""
    monkeypatch.setattr(live_settings, "_refuse_what_is_not_live", lambda _: None)
    with agent(tmp_path, collector.endpoint) as it:
        it.processor.change_settings(spool_dir="/elsewhere")
        assert it.processor.pipeline.settings.spool_dir == "/elsewhere"


def test_a_sender_of_the_applications_own_goes_by_no_endpoint(tmp_path: Path) -> None:
    """To say yes would be a lie."""

    class Sender:
        def send(self, *_: Any, **__: Any) -> Any:
            raise AssertionError("nothing is sent here")

        def close(self) -> None:
            """Nothing to close."""

        forget = close

    with agent(tmp_path, "http://127.0.0.1:1", sender=Sender()) as it:
        with pytest.raises(SettingsError, match="a sender or a clock of its own"):
            it.processor.change_settings(endpoint="http://127.0.0.1:2")
        it.processor.change_settings(linger_s=0.5)


def test_none_takes_back_what_the_code_said() -> None:
    """Then the environment counts again, which the code had hidden; and after it the default."""
    exporter = DurableLogExporter(environ={"MEMOIR_LINGER": "0.7"}, linger_s=0.1, retain_s=5)
    exporter.change_settings(linger_s=None, retain_s=None)
    settings = exporter.pipeline.settings
    assert (settings.linger_s, settings.retain_s) == (0.7, Settings().retain_s)
    exporter.shutdown()


def test_a_change_may_come_from_the_thread_of_an_event_loop(
    collector: ScriptedCollector, other: ScriptedCollector, tmp_path: Path
) -> None:
    """blockbuster raises where a loop's thread touches a disk or waits for a lock."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)

        async def change() -> None:
            it.processor.change_settings(endpoint=other.endpoint, retain_s=0.0)

        with blockbuster_ctx():
            asyncio.run(change())
        deliver(it)
    assert numbers(other.delivered) == [1]


# -- forks --------------------------------------------------------------------------------


def in_child(work: Callable[[], bool]) -> bool:
    """Whether something holds in a fork child."""
    with warnings.catch_warnings():
        # Python 3.12 warns of forks beside threads: that is what is tried here.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        done = False
        try:
            done = work()
        finally:
            os._exit(0 if done else 1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_fork_child_goes_on_with_what_its_parent_changed(
    collector: ScriptedCollector, other: ScriptedCollector, tmp_path: Path
) -> None:
    """Also if the fork came in the middle of a change, whose thread is not there any more."""
    with agent(tmp_path, collector.endpoint) as it:
        deliver(it)
        it.processor.change_settings(endpoint=other.endpoint, request_records_max=2)
        it.processor.pipeline._live._changing.acquire()

        def emit_and_change() -> bool:
            deliver(it, 5)
            it.processor.change_settings(linger_s=0.0)
            return it.processor.pipeline.settings.request_records_max == 2

        assert in_child(emit_and_change)
        it.processor.pipeline._live._changing.release()
        assert numbers(other.delivered) == [1, 2, 3, 4, 5]
        assert max(len(request.records) for request in other.requests) == 2
