"""What the trace, the log and the metrics say of contention, with the SDK and without."""

from __future__ import annotations

import asyncio
import gc
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.context import attach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider

from locks.actors import Actor, Stage, TaskActor
from otel_memoir.errors import DeadlockError, LockTimeoutError
from otel_memoir.events import names
from otel_memoir.locks import LockManager

DEADLOCK = names.EVENT_LOCK_DEADLOCK


class Observed:
    """A stage whose manager tells a real SDK, in memory."""

    def __init__(self, processors: tuple[Any, ...] = (), **options: Any) -> None:
        self.exporter = InMemoryLogRecordExporter()
        self.loggers = LoggerProvider(shutdown_on_exit=False)
        self.loggers.add_log_record_processor(SimpleLogRecordProcessor(self.exporter))
        for processor in processors:
            self.loggers.add_log_record_processor(processor)
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        self.stage = Stage(
            "mixed", logger_provider=self.loggers, meter_provider=self.meters, **options
        )

    def within(self, actor: Actor, span: trace.Span) -> None:
        """Make a span the current one of a unit."""

        def enter() -> None:
            attach(trace.set_span_in_context(span))

        actor.do(enter).get()

    def logged(self, name: str) -> list[Any]:
        """The events of a name, as they were emitted."""
        records = [one.log_record for one in self.exporter.get_finished_logs()]
        return [one for one in records if one.event_name == name]

    def metrics(self) -> dict[str, dict[str, float]]:
        """By name and class, the sum, the last value or the count."""
        data = self.reader.get_metrics_data()
        found: dict[str, dict[str, float]] = {}
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        label = next(iter(dict(point.attributes or {}).values()), "")
                        value = getattr(point, "value", None)
                        value = point.count if value is None else value  # type: ignore[union-attr]
                        found.setdefault(metric.name, {})[str(label)] = value
        return found


@pytest.fixture
def observed() -> Iterator[Observed]:
    """Both forms of events."""
    made = Observed()
    with made.stage:
        yield made


def deadlock_of(observed: Observed, spans: list[trace.Span]) -> list[Actor]:
    """Two tasks and a thread in a circle, each in a span."""
    actors = observed.stage.actors(3)
    for actor, span, key in zip(actors, spans, "abc"):
        observed.within(actor, span)
        actor.acquire(f"notes/{key}").get()
    waits = [(actors[0], "b"), (actors[1], "c")]
    for actor, key in waits:
        actor.acquire(f"notes/{key}", priority=1)
        observed.stage.sleeps(actor)
    assert isinstance(actors[2].acquire("notes/a").error(), DeadlockError)
    return actors


def spans_of(observed: Observed) -> list[Any]:
    """One that records, one that is not sampled, one that has ended."""
    recording = observed.tracer.start_span("recording")
    context = trace.SpanContext(1, 2, False, trace.TraceFlags(0))
    ended = observed.tracer.start_span("ended")
    ended.end()
    return [recording, trace.NonRecordingSpan(context), ended]


def test_each_unit_of_a_deadlock_tells_of_it_once_in_its_own_span(observed: Observed) -> None:
    """All with one deadlock id, whether the span records, is not sampled, or has ended."""
    spans = spans_of(observed)
    actors = deadlock_of(observed, spans)
    events = observed.logged(DEADLOCK)
    assert {one.span_id for one in events} == {one.get_span_context().span_id for one in spans}
    assert len(events) == 3
    assert len({one.attributes[names.DEADLOCK_ID] for one in events}) == 1
    assert {one.attributes[names.LOCK_UNIT] for one in events} == {a.unit for a in actors}
    roles = [one.attributes[names.DEADLOCK_ROLE] for one in events]
    assert sorted(roles) == ["survivor", "survivor", "victim"]
    assert all("deadlock" in one.body for one in events)


def test_each_recording_span_gets_exactly_one_span_event(observed: Observed) -> None:
    """And the ended one none, without a warning."""
    spans = spans_of(observed)
    deadlock_of(observed, spans)
    assert [event.name for event in spans[0].events] == [DEADLOCK]
    assert list(spans[2].events) == []


def test_units_that_share_a_span_give_it_one_event(observed: Observed) -> None:
    """Children of ``gather`` have their parent's span; each still logs its own."""
    span = observed.tracer.start_span("shared")
    deadlock_of(observed, [span, span, span])
    assert len(observed.logged(DEADLOCK)) == 3
    assert len(span.events) == 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(("events", "logged", "marked"), [("log", 3, 0), ("span_event", 0, 1)])
def test_one_form_can_be_chosen(
    events: str, logged: int, marked: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By MEMOIR_LOCK_EVENTS."""
    monkeypatch.setenv("MEMOIR_LOCK_EVENTS", events)
    observed = Observed()
    with observed.stage:
        spans = spans_of(observed)
        deadlock_of(observed, spans)
        assert len(observed.logged(DEADLOCK)) == logged
        assert len(spans[0].events) == marked


class Bridge:
    """The specification's event to span event bridge, in short; the SDK ships none."""

    def on_emit(self, record: Any) -> None:
        """Copy an event onto the recording span of its own context."""
        span = trace.get_current_span(record.log_record.context)
        if record.log_record.event_name and span.is_recording():
            span.add_event(record.log_record.event_name, dict(record.log_record.attributes))

    def shutdown(self) -> None:
        """Nothing to do."""

    def force_flush(self, timeout_millis: int = 0) -> bool:
        """Nothing to do."""
        return True


def test_with_the_bridge_in_place_nothing_is_doubled() -> None:
    """The log event has become a span event already."""
    observed = Observed((Bridge(),))
    with observed.stage:
        spans = spans_of(observed)
        deadlock_of(observed, spans)
        assert [event.name for event in spans[0].events] == [DEADLOCK]


def test_with_the_bridge_too_a_span_that_units_share_gets_one_event() -> None:
    """Each of them still logs its own, in the context of that span."""
    observed = Observed((Bridge(),))
    with observed.stage:
        span = observed.tracer.start_span("shared")
        deadlock_of(observed, [span, span, span])
    assert [one.span_id for one in observed.logged(DEADLOCK)] == [
        span.get_span_context().span_id
    ] * 3
    assert len(span.events) == 1  # type: ignore[attr-defined]


def test_a_unit_whose_thread_is_blocked_tells_of_it_in_its_own_span(observed: Observed) -> None:
    """It waits for no lock, so what is known of it is where it took the one that it has."""
    locks = observed.stage.locks
    spans = {name: observed.tracer.start_span(name) for name in ("holder", "blocker")}

    async def hold(held: asyncio.Event) -> None:
        with trace.use_span(spans["holder"]):
            async with locks.hold("notes/a"):
                held.set()
                await asyncio.Event().wait()

    async def block() -> None:
        held = asyncio.Event()
        task = asyncio.create_task(hold(held))
        await held.wait()
        with trace.use_span(spans["blocker"]), pytest.raises(DeadlockError):
            locks.acquire("notes/a")
        task.cancel()

    asyncio.run(block())
    told = {one.attributes[names.DEADLOCK_ROLE]: one for one in observed.logged(DEADLOCK)}
    ids = {name: span.get_span_context().span_id for name, span in spans.items()}
    assert {role: one.span_id for role, one in told.items()} == {
        "survivor": ids["holder"], "victim": ids["blocker"],
    }
    (report,) = locks.deadlocks()
    shown = {one.role: one.span_id for one in report.participants}
    assert shown["survivor"] == trace.format_span_id(ids["holder"])


def test_a_bridge_that_is_not_seen_would_double_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control."""
    monkeypatch.setattr("otel_memoir.locks.telemetry._count", lambda span, name: None)
    observed = Observed((Bridge(),))
    with observed.stage:
        spans = spans_of(observed)
        deadlock_of(observed, spans)
        assert len(spans[0].events) == 2


def test_a_long_wait_is_told_of_and_linked_to_who_was_in_the_way() -> None:
    """What is long is a setting."""
    observed = Observed(long_wait_s=0.0)
    with observed.stage as stage:
        one, two = stage.actors(2)
        spans = [observed.tracer.start_span(name) for name in ("holder", "waiter")]
        for actor, span in zip((one, two), spans):
            observed.within(actor, span)
        lease = one.acquire("notes/a").get()
        asked = two.acquire("notes/a")
        stage.sleeps(two)
        one.release(lease).get()
        asked.get()
        (event,) = observed.logged(names.EVENT_LOCK_CONTENDED)
        assert event.attributes[names.LOCK_HOLDERS] == (one.unit,)
        assert event.attributes[names.LOCK_KEY] == "notes/a"
        (link,) = spans[1].links  # type: ignore[attr-defined]
        assert link.context.span_id == spans[0].get_span_context().span_id


def wait_and_give_up(observed: Observed, spans: list[trace.Span]) -> None:
    """One holds a lock in the first span, another asks for it in vain in the second."""
    one, two = observed.stage.actors(2)
    for actor, span in zip((one, two), spans):
        observed.within(actor, span)
    lease = one.acquire("notes/a").get()
    assert isinstance(two.acquire("notes/a", timeout=0.01).error(), LockTimeoutError)
    one.release(lease).get()


def test_a_long_wait_in_vain_is_linked_too() -> None:
    """Who was in its way is what one asks then."""
    observed = Observed(long_wait_s=0.0)
    with observed.stage:
        spans = [observed.tracer.start_span(name) for name in ("holder", "waiter")]
        wait_and_give_up(observed, spans)
    (link,) = spans[1].links  # type: ignore[attr-defined]
    assert link.context == spans[0].get_span_context()


def test_who_queues_behind_is_not_taken_for_who_is_in_the_way() -> None:
    """One who has taken the first of several keys has no lease yet: then nobody is named."""
    with Stage("threads") as stage:
        one, two, three, four = stage.actors(4)
        one.acquire("b").get()
        two.acquire_all({"a": "exclusive", "b": "exclusive"})
        stage.sleeps(two)
        for actor, priority in ((three, 0), (four, 5)):
            actor.acquire("a", priority=priority)
            stage.sleeps(actor)
        blockers = {wait.unit.id: wait.blocker for wait in stage.locks._engine.table.waits()}
        assert blockers[four.unit] is None


def test_a_span_is_not_linked_to_itself() -> None:
    """Two units of one span wait for each other's locks: there is nothing to follow."""
    observed = Observed(long_wait_s=0.0)
    with observed.stage:
        span = observed.tracer.start_span("shared")
        wait_and_give_up(observed, [span, span])
    assert list(span.links) == []  # type: ignore[attr-defined]


class Broken(Bridge):
    """A processor that fails."""

    def on_emit(self, record: Any) -> None:
        """As a full disk would have it."""
        raise OSError("no")


def test_a_processor_that_fails_keeps_nobody_from_being_told() -> None:
    """Each unit's log event is tried, and each recording span gets its own."""
    observed = Observed((Broken(),))
    with observed.stage:
        spans = [observed.tracer.start_span(name) for name in "abc"]
        deadlock_of(observed, spans)
    assert len(observed.logged(DEADLOCK)) == 3
    assert [len(span.events) for span in spans] == [1, 1, 1]  # type: ignore[attr-defined]


def test_a_short_wait_is_not_told_of(observed: Observed) -> None:
    """Negative control: nor is a lock that was free."""
    stage = observed.stage
    one, two = stage.actors(2)
    lease = one.acquire("notes/a").get()
    asked = two.acquire("notes/a")
    stage.sleeps(two)
    one.release(lease).get()
    asked.get()
    assert observed.exporter.get_finished_logs() == ()


def test_a_timeout_and_a_lost_lease_are_told_of(observed: Observed) -> None:
    """Each in the span of the unit whom it concerns."""
    one, two = observed.stage.actors(2)
    span = observed.tracer.start_span("holder")
    observed.within(one, span)
    one.acquire("notes/a", "shared").get()
    assert isinstance(two.acquire("notes/a", timeout=0.01).error(), LockTimeoutError)
    (event,) = observed.logged(names.EVENT_LOCK_TIMEOUT)
    assert event.attributes[names.LOCK_HOLDERS] == (one.unit,)
    one.end()
    (lost,) = observed.logged(names.EVENT_LOCK_LOST)
    assert lost.span_id == span.get_span_context().span_id


def test_metrics_are_by_class_and_never_by_key(observed: Observed) -> None:
    """Held, waiting, oldest wait, acquired, contended, timeouts, deadlocks, two histograms."""
    deadlock_of(observed, spans_of(observed))
    late = observed.stage.actor()
    assert isinstance(late.acquire("notes/a", timeout=0.01).error(), LockTimeoutError)
    found = observed.metrics()
    assert found["memoir.lock.held"] == {"notes/*": 3}
    assert found["memoir.lock.waiting"] == {"notes/*": 2}
    assert found["memoir.lock.oldest_wait"]["notes/*"] > 0
    assert found["memoir.lock.acquired"]["notes/*"] == 3
    assert found["memoir.lock.contended"]["notes/*"] == 4
    assert found["memoir.lock.timeouts"]["notes/*"] == 1
    assert found["memoir.lock.deadlocks"] == {"refused": 1}
    assert found["memoir.lock.wait_time"]["notes/*"] >= 1
    assert "a" not in str(sorted(found["memoir.lock.acquired"])).replace("notes/*", "")


def test_all_managers_of_a_provider_are_told_of_and_what_is_gone_stays_counted(
    observed: Observed
) -> None:
    """The SDK asks the first instrument of a name, and no second one."""
    one, two = (LockManager(meter_provider=observed.meters) for _ in "12")
    leases = [one.acquire("x/1"), two.acquire("x/1"), two.acquire("y/1")]
    found = observed.metrics()
    assert found["memoir.lock.held"] == {"x/*": 2, "y/*": 1}
    assert found["memoir.lock.acquired"]["x/*"] == 2
    for lease in leases:
        lease.release()
    del one, two, lease, leases
    gc.collect()
    found = observed.metrics()
    assert found.get("memoir.lock.held", {}) == {}
    assert (found["memoir.lock.acquired"]["x/*"], found["memoir.lock.acquired"]["y/*"]) == (2, 1)


def test_histograms_tell_apart_what_takes_seconds_and_less(observed: Observed) -> None:
    """The boundaries of the SDK are for milliseconds: all would be in its first bucket."""
    one, two = observed.stage.actors(2)
    lease = one.acquire("notes/a").get()
    asked = two.acquire("notes/a")
    observed.stage.sleeps(two)
    one.release(lease).get()
    asked.get()
    data = observed.reader.get_metrics_data()
    bounds = {
        metric.name: next(iter(metric.data.data_points)).explicit_bounds  # type: ignore[union-attr]
        for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics for metric in scope.metrics
        if metric.name.endswith("_time")
    }  # fmt: skip
    assert set(bounds) == {"memoir.lock.wait_time", "memoir.lock.hold_time"}
    assert all(one[0] < 0.001 and one[-1] == 300 for one in bounds.values())


def test_a_wait_that_is_cancelled_is_measured_too(observed: Observed) -> None:
    """Who lost patience is what a histogram of waits must not leave out."""
    one, two = observed.stage.actors(2)
    task = next(actor for actor in (one, two) if isinstance(actor, TaskActor))
    other = two if task is one else one
    other.acquire("notes/a").get()
    asked = task.acquire("notes/a")
    observed.stage.sleeps(task)
    task.cancel()
    assert "CancelledError" in repr(asked.error())
    data = observed.reader.get_metrics_data()
    (point,) = (
        point for resource in (data.resource_metrics if data else ())
        for scope in resource.scope_metrics for metric in scope.metrics
        if metric.name == "memoir.lock.wait_time" for point in metric.data.data_points
    )  # fmt: skip
    assert (dict(point.attributes or {})["memoir.lock.outcome"], point.count) == (  # type: ignore[union-attr]
        "cancelled", 1,
    )  # fmt: skip


def test_a_lock_whose_waiter_gave_up_is_measured_when_it_is_let_go(observed: Observed) -> None:
    """It was in somebody's way. What nobody asked for meanwhile is not."""
    one, two = observed.stage.actors(2)
    wanted, free = one.acquire("notes/a").get(), one.acquire("notes/b").get()
    assert isinstance(two.acquire("notes/a", timeout=0.01).error(), LockTimeoutError)
    one.release(free).get()
    assert "memoir.lock.hold_time" not in observed.metrics()
    one.release(wanted).get()
    assert observed.metrics()["memoir.lock.hold_time"] == {"notes/*": 1}
    assert not observed.stage.locks._engine.wanted


def test_what_was_let_go_by_a_downgrade_was_held_since_it_was_granted() -> None:
    """Not for the moment between the two modes."""
    now_ns, measured = [0], []
    with Stage("threads", monotonic_ns=lambda: now_ns[0]) as stage:
        engine = stage.locks._engine
        engine.on_contended = lambda lease: measured.append(now_ns[0] - lease.acquired_ns)
        one, two = stage.actors(2)
        lease = one.acquire("k").get()
        asked = two.acquire("k", "shared")
        stage.sleeps(two)
        now_ns[0] = 5
        one.downgrade(lease).get()
        assert asked.get().held
    assert measured == [5]


def test_a_fork_child_has_counted_nothing() -> None:
    """Its parent tells of what it did; and what another thread locks as it forks is free."""
    program = (
        "import os, threading\n"
        "from otel_memoir.locks import LockManager, metrics\n"
        "locks, gone = LockManager(), LockManager()\n"
        "for one in (locks, gone): one.acquire('s/k').release()\n"
        "instruments, = metrics._global\n"
        "del gone, one\n"
        "instruments.found('refused')\n"
        "def counted():\n"
        "    total = instruments._total('memoir.lock.acquired')()\n"
        "    own = locks.snapshot().classes.get('s/*', {}).get('acquired', 0)\n"
        "    return own + total.get('s/*', 0) + len(instruments._deadlocks)\n"
        "inside, go = threading.Event(), threading.Event()\n"
        "def stay():\n"
        "    with metrics._sharing, instruments._lock: inside.set(); go.wait(30)\n"
        "threading.Thread(target=stay).start()\n"
        "inside.wait(30)\n"
        "child = os.fork()\n"
        "if not child: LockManager(); os._exit(counted())\n"
        "go.set()\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), counted())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.stdout.split() == ["0", "4"], done.stderr


def test_a_fork_child_does_not_have_its_parents_deadlocks() -> None:
    """Its units are others: they would be taken for its own."""
    program = (
        "import os\n"
        "from otel_memoir.locks import DeadlockReport, LockManager\n"
        "locks = LockManager()\n"
        "locks.add_report(DeadlockReport(id='d', resolution='refused', participants=()))\n"
        "child = os.fork()\n"
        "if not child: os._exit(len(locks.deadlocks()))\n"
        "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), len(locks.deadlocks()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_the_snapshot_shows_the_table_the_graph_and_the_last_deadlocks(
    observed: Observed
) -> None:
    """As values, as JSON, as DOT and as Mermaid."""
    actors = deadlock_of(observed, spans_of(observed))
    snapshot = observed.stage.locks.snapshot()
    by_key = {one.key: one for one in snapshot.keys}
    assert [one.unit for one in by_key["notes/b"].waiters] == [actors[0].unit]
    assert [one.unit for one in by_key["notes/b"].holders] == [actors[1].unit]
    assert by_key["notes"].holders[0].mode == "intent_exclusive"
    assert len(snapshot.graph) == 2
    assert len(snapshot.deadlocks) == 1
    assert json.loads(json.dumps(snapshot.to_dict()))["deadlocks"][0]["id"]
    assert f'"{actors[0].unit}" -> "{actors[1].unit}" [label="lock notes/b"]' in snapshot.to_dot()
    assert snapshot.to_mermaid().startswith("flowchart LR\n")
    assert '-->|"lock notes/b"|' in snapshot.to_mermaid()


def test_without_the_sdk_everything_works_and_nothing_is_told() -> None:
    """The room imports the API alone, and works with what that has."""
    program = (
        "import sys, asyncio\n"
        "from otel_memoir.locks import LockManager\n"
        "locks = LockManager(long_wait_s=0)\n"
        "async def child():\n"
        "    async with locks.hold('k', timeout=0.001): pass\n"
        "async def main():\n"
        "    async with locks.hold('k'):\n"
        "        try: await asyncio.create_task(child())\n"
        "        except TimeoutError: print('timeout')\n"
        "asyncio.run(main())\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])\n"
        "print('grpc' in sys.modules, 'sqlite3' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout.split("\n")[:3] == ["timeout", "[]", "False False"], done.stderr
