"""What the trace, the log and the metrics are told of locks.

Nothing is told of a lock that was free: a span costs more than ten times such a lock. Of a
deadlock every unit tells: one log event in its own span's context, all with one deadlock id,
and one span event on each span that still records. With the specification's
event-to-span-event bridge in place the log event has become a span event already, and no
second one is added. What was asked for inside a reflection says its id, which is found in the
OpenTelemetry context under the name of that attribute.

It works with the OpenTelemetry API alone, and then does nothing; it never raises.
"""

from __future__ import annotations

import os
import time
import weakref
from collections import deque
from functools import partial
from typing import Any, Literal

from opentelemetry._logs import (
    Logger,
    LoggerProvider,
    LogRecord,
    SeverityNumber,
    get_logger,
)
from opentelemetry.context import Context, get_value
from opentelemetry.trace import NonRecordingSpan, Span, get_current_span, set_span_in_context

from otel_memoir.events import SCHEMA_VERSION, names
from otel_memoir.events.record import severity_text
from otel_memoir.events.sentence import sentence
from otel_memoir.events.tables import EVENTS
from otel_memoir.locks import states
from otel_memoir.locks.effects import guarded
from otel_memoir.locks.metrics import LockMetrics
from otel_memoir.locks.modes import NAMES
from otel_memoir.locks.parts import Claim, Wait
from otel_memoir.locks.report import DeadlockReport, Participant, Verdict

SCOPE = "otel_memoir.ops"
DEADLOCKS_KEPT = 32

LockEvents = Literal["span_event", "log", "both"]
Attributes = dict[str, Any]


_telling: weakref.WeakSet[Telemetry] = weakref.WeakSet()


class Telemetry:
    """Tells of contention.

    Args:
        events: ``log``, ``span_event`` or ``both``.

        long_wait_s: Who waited longer gets a span link to the span of who was in the way,
            and an event.

        provider: Of loggers; the global one by default.
    """

    def __init__(
        self, metrics: LockMetrics, *, events: LockEvents, long_wait_s: float,
        provider: LoggerProvider | None = None,
    ) -> None:  # fmt: skip
        self._metrics, self._events, self._long_wait_s = metrics, events, long_wait_s
        self._provider = provider
        self._logger: Logger | None = None
        self.deadlocks: deque[DeadlockReport] = deque(maxlen=DEADLOCKS_KEPT)
        _telling.add(self)

    def on_verdict(self, verdict: Verdict) -> None:
        """A deadlock was found: each of its units tells of it."""
        report = verdict.report()
        self.deadlocks.append(report)
        self._metrics.deadlocks(report.resolution)
        spans: set[int] = set()
        told: set[str] = set()
        contexts = {fact.unit: fact.context for fact in verdict.facts}
        for participant in report.participants:
            if participant.unit not in told and not participant.remote:
                told.add(participant.unit)
                # Nothing is known of one that only a remote engine has named: no span then.
                context = contexts.get(participant.unit, Context())
                self._tell_deadlock(context, report, participant, spans)

    def on_remote(self, report: DeadlockReport) -> None:
        """A remote engine found a deadlock, and tells its units of it itself."""
        self.deadlocks.append(report)
        self._metrics.deadlocks(report.resolution)

    def on_waited(self, wait: Wait) -> None:
        """A wait has ended; called by the unit that waited."""
        waited_s = wait.waited_ns / 1e9
        kind = wait.steps[-1][0].kind.name
        self._metrics.waited(kind, waited_s, wait.state)
        if waited_s >= self._long_wait_s:
            self._link(wait)
        if wait.state is states.TIMEOUT:
            self._emit(wait.context, names.EVENT_LOCK_TIMEOUT, self._of_wait(wait, waited_s))
        elif wait.state is states.GRANTED and waited_s >= self._long_wait_s:
            self._emit(wait.context, names.EVENT_LOCK_CONTENDED, self._of_wait(wait, waited_s))

    def on_lost(self, lease: Claim) -> None:
        """A lease was taken away."""
        self._emit(lease.context, names.EVENT_LOCK_LOST, {
            names.LOCK_KEY: lease.key, names.LOCK_MODE: lease.mode_name,
            names.LOCK_UNIT: lease.unit, names.LOCK_FENCING_TOKEN: lease.token,
            names.REASON: lease.lost_why,
        })  # fmt: skip

    # -- how ------------------------------------------------------------------

    def _tell_deadlock(
        self, context: Context, report: DeadlockReport, unit: Participant, spans: set[int]
    ) -> None:
        attributes: Attributes = {
            names.DEADLOCK_ID: report.id, names.DEADLOCK_ROLE: unit.role,
            names.DEADLOCK_UNITS: report.units, names.DEADLOCK_KEYS: report.keys,
            names.DEADLOCK_RESOLUTION: report.resolution, names.LOCK_UNIT: unit.unit,
            names.LOCK_KEY: unit.key, names.LOCK_PRIORITY: unit.priority,
        }  # fmt: skip
        if unit.mode:
            attributes[names.LOCK_MODE] = unit.mode
        # Siblings may share a span: it gets one event of this deadlock all the same, from us or
        # from a bridge. The log events of the others name it as one that does not record.
        span = get_current_span(context).get_span_context()
        if span.span_id in spans:
            context = set_span_in_context(NonRecordingSpan(span), context)
        spans.add(span.span_id)
        self._emit(context, names.EVENT_LOCK_DEADLOCK, attributes)

    def _emit(self, context: Context | None, name: str, attributes: Attributes) -> None:
        attributes = {names.SCHEMA_VERSION: SCHEMA_VERSION, **attributes}
        reflection = get_value(names.REFLECTION_ID, context)
        if isinstance(reflection, str):
            attributes[names.REFLECTION_ID] = reflection
        span = get_current_span(context)
        before = _count(span, name)
        if self._events != "span_event":
            # A processor that fails keeps neither the span nor the other units from being told.
            guarded(partial(self._log, context, name, attributes))
        bridged = before is not None and before != _count(span, name)
        if self._events != "log" and span.is_recording() and not bridged:
            span.add_event(name, attributes)

    def _log(self, context: Context | None, name: str, attributes: Attributes) -> None:
        if self._logger is None:
            self._logger = get_logger(SCOPE, logger_provider=self._provider)
        kind = EVENTS[name]
        now_ns = time.time_ns()
        self._logger.emit(LogRecord(
            timestamp=now_ns, observed_timestamp=now_ns, context=context,
            severity_number=SeverityNumber(kind.severity),
            severity_text=severity_text(kind.severity),
            body=sentence(kind.sentence, attributes), attributes=attributes, event_name=name,
        ))  # fmt: skip

    @staticmethod
    def _of_wait(wait: Wait, waited_s: float) -> Attributes:
        entry, mode = wait.steps[-1]
        found: Attributes = {
            names.LOCK_KEY: entry.key, names.LOCK_MODE: NAMES[mode],
            names.LOCK_UNIT: wait.unit.id, names.LOCK_WAIT_TIME: waited_s,
            names.LOCK_PRIORITY: wait.priority, names.LOCK_HOLDERS: wait.holders,
            names.LOCK_QUEUE_LENGTH: wait.queue_length,
        }  # fmt: skip
        if wait.state is states.GRANTED:
            found[names.LOCK_FENCING_TOKEN] = wait.lease.token
        return found

    @staticmethod
    def _link(wait: Wait) -> None:
        span = get_current_span(wait.context)
        blocker = get_current_span(wait.blocker).get_span_context() if wait.blocker else None
        if blocker is None or not blocker.is_valid or blocker == span.get_span_context():
            return  # children of ``gather`` have one span: it is not linked to itself
        if span.is_recording():
            span.add_link(blocker, {names.LOCK_KEY: wait.steps[-1][0].key})


def _count(span: Span, name: str) -> int | None:
    """How many events of a name a span of an SDK has; the API does not tell."""
    events = getattr(span, "events", None)
    return None if events is None else sum(event.name == name for event in events)


def _after_fork() -> None:
    for one in list(_telling):
        one.deadlocks.clear()  # they were the parent's, and so were their units


os.register_at_fork(after_in_child=_after_fork)
