"""Reflections under a test's control: of threads and of tasks alike, told to a real SDK."""

from __future__ import annotations

from typing import Any

from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from locks.actors import Actor, Answer, Stage, ThreadActor
from otel_memoir import LockManager, Reflections
from otel_memoir.events import MemoryEvent, from_log_record, undeclared

STARTED, COMPLETED, FAILED, SKIPPED = (
    f"memoir.reflection.{how}" for how in ("started", "completed", "failed", "skipped")
)
CONFLICT = "memoir.write.conflict"
ENDS = (COMPLETED, FAILED, SKIPPED)


class Told:
    """Reflections of one agent, and what a real SDK was told of them."""

    def __init__(self, locks: LockManager, **options: Any) -> None:
        self._logs, self._spans = InMemoryLogRecordExporter(), InMemorySpanExporter()
        loggers = LoggerProvider(shutdown_on_exit=False)
        loggers.add_log_record_processor(SimpleLogRecordProcessor(self._logs))
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.locks = locks
        self.reflections = Reflections(locks, **{
            "agent_name": "planner", "tracer_provider": self.tracers, "logger_provider": loggers,
            **options,
        })
        self.reflect = self.reflections.reflect

    def events(self, *which: str) -> list[MemoryEvent]:
        """The events of some names, or all, in order; each is declared in all it says."""
        found = [from_log_record(one.log_record) for one in self._logs.get_finished_logs()]
        assert [undeclared(one) for one in found] == [()] * len(found)
        return [one for one in found
                if isinstance(one, MemoryEvent) and (not which or one.name in which)]

    def names(self) -> list[str]:
        """The names of all events, in order."""
        return [event.name for event in self.events()]

    def spans(self) -> list[ReadableSpan]:
        """All spans that have ended."""
        return list(self._spans.get_finished_spans())


class Scene(Stage):
    """A stage whose units reflect."""

    def __init__(self, shape: str = "threads", **options: Any) -> None:
        super().__init__(shape)
        self.told = Told(self.locks, **options)
        self.reflect = self.told.reflect


def enter(actor: Actor, block: Any) -> Answer:
    """Have a unit enter a block, by ``with`` or ``async with`` as its kind does."""
    return actor.do(block.__enter__ if isinstance(actor, ThreadActor) else block.__aenter__)


def leave(actor: Actor, block: Any, error: BaseException | None = None) -> Answer:
    """Have a unit leave a block, as it ends or with an error."""
    how = block.__exit__ if isinstance(actor, ThreadActor) else block.__aexit__
    return actor.do(lambda: how(type(error) if error else None, error, None))


def held(locks: LockManager) -> bool:
    """Whether anything is held or waited for, or watched."""
    return locks.snapshot().keys != () or locks._engine.watches != ()
