"""Whatever the locks tell, attribute and value, is in the registry."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.context import attach
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import set_span_in_context

from locks.actors import Actor, Stage
from otel_memoir.errors import DeadlockError, LockTimeoutError, OwnerDiedError
from otel_memoir.events import names, undeclared
from otel_memoir.locks import LockManager, states
from otel_memoir.locks.modes import NAMES
from otel_memoir.locks.report import REFUSED, REORDERED, REPORTED

yaml = pytest.importorskip("yaml", reason="needs PyYAML: install the development tools")

TOOLS = Path(__file__).resolve().parent.parent / "tools"

OUTCOMES = {states.GRANTED, states.TIMEOUT, states.VICTIM, states.DIED, states.CANCELLED}

Said = list[tuple[str, Any]]


class Declared:
    """The attributes of the registry, and their values where those are a list."""

    def __init__(self) -> None:
        sys.path.insert(0, str(TOOLS))
        try:
            import vocabulary
        finally:
            sys.path.pop(0)
        self.values: dict[str, set[str] | None] = {}
        for name, item in vocabulary.Vocabulary().attributes.items():
            members = item["type"].get("members") if isinstance(item["type"], dict) else None
            self.values[name] = {one["id"] for one in members} if members else None

    def missing(self, said: Iterable[tuple[str, Any]]) -> Said:
        """What is said, and not declared."""
        return [
            (name, value) for name, value in said
            if name not in self.values or value not in (self.values[name] or {value})
        ]  # fmt: skip


@pytest.fixture(scope="module")
def declared() -> Declared:
    """The registry."""
    return Declared()


class Listener:
    """Hears what a manager tells, in each of the three signals."""

    def __init__(self, **options: Any) -> None:
        self.logs, self.metrics = InMemoryLogRecordExporter(), InMemoryMetricReader()
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self.logs))
        tracer = TracerProvider(shutdown_on_exit=False).get_tracer("test")
        self.spans: list[Any] = [tracer.start_span("unit") for _ in range(5)]
        self.stage = Stage(
            "threads", logger_provider=loggers, long_wait_s=0.0,
            meter_provider=MeterProvider([self.metrics], shutdown_on_exit=False), **options,
        )  # fmt: skip

    def actors(self, count: int) -> list[Actor]:
        """Units, each in a span of its own."""
        actors = self.stage.actors(count)
        for actor, span in zip(actors, self.spans):
            actor.do(lambda span=span: attach(set_span_in_context(span)) and None).get()
        return actors

    def records(self) -> list[Any]:
        """The events."""
        return [one.log_record for one in self.logs.get_finished_logs()]

    def said(self) -> Said:
        """All attributes with all their values."""
        found = [dict(record.attributes) for record in self.records()]
        for span in self.spans:
            found += [dict(one.attributes) for one in (*span.events, *span.links)]
        data = self.metrics.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found += [dict(point.attributes or {}) for point in metric.data.data_points]
        return [pair for attributes in found for pair in attributes.items()]


async def give_up(locks: LockManager) -> None:
    """Wait for a lock, and be cancelled."""
    task = asyncio.create_task(acquired(locks))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def acquired(locks: LockManager) -> None:
    """Wait for a lock."""
    await locks.acquire_async("k")


def contend(listener: Listener) -> None:
    """Waits that end well, in time, by a death, given up; a deadlock of merged modes; a loss."""
    one, two, three = listener.actors(3)
    lease = one.acquire("k", ttl=3600.0).get()
    two.do(lambda: asyncio.run(give_up(listener.stage.locks))).get()
    asked = two.acquire("k")
    listener.stage.sleeps(two)
    one.release(lease).get()
    assert isinstance(one.acquire("k", timeout=0.001).error(), LockTimeoutError)
    mine = one.acquire("s", "update").get()
    merged = two.acquire_all({"s": "shared", "s/1": "exclusive"}, priority=1)
    listener.stage.sleeps(two)
    assert isinstance(one.acquire("k").error(), DeadlockError)
    one.release(mine).get()
    two.release(merged.get()).get()
    two.release(asked.get()).get()
    three.acquire("d").get()
    last = one.acquire("d")
    listener.stage.sleeps(one)
    three.end()
    assert isinstance(last.error(), OwnerDiedError)


def test_all_that_is_told_of_contention_is_declared(declared: Declared) -> None:
    """In the events, on the spans, and in the metrics."""
    listener = Listener()
    with listener.stage:
        contend(listener)
    said = listener.said()
    assert declared.missing(said) == []
    assert [undeclared(record) for record in listener.records()] == [()] * len(listener.records())
    assert {value for name, value in said if name == names.LOCK_OUTCOME} == OUTCOMES
    assert (names.LOCK_MODE, "shared_intent_exclusive") in said
    assert {record.event_name for record in listener.records()} == {
        names.EVENT_LOCK_CONTENDED, names.EVENT_LOCK_TIMEOUT, names.EVENT_LOCK_DEADLOCK,
        names.EVENT_LOCK_LOST,
    }  # fmt: skip


def test_every_mode_outcome_and_resolution_is_declared(declared: Declared) -> None:
    """Those too that no test happens to send; and no other."""
    assert declared.values[names.LOCK_MODE] == set(NAMES)
    assert declared.values[names.LOCK_OUTCOME] == OUTCOMES
    assert declared.values[names.DEADLOCK_RESOLUTION] == {REFUSED, REORDERED, REPORTED}


def test_a_name_or_a_value_that_is_not_declared_is_seen(declared: Declared) -> None:
    """Negative control."""
    told = [(names.LOCK_MODE, "exclusiv"), ("memoir.lock.clas", "x"), (names.LOCK_MODE, "shared")]
    assert declared.missing(told) == told[:2]
