"""What the trace and the log are told of reflections.

The span is there before the locks are asked for, so what was waited is in it; it is current in
the block, so calls of models are below it. Its status is as the conventions on recording
errors have it (OpenTelemetry, ``general/recording-errors``): ``error.type`` and ERROR for an
error; nothing for a reflection that was skipped or called off, since nothing went wrong.

Nothing that telemetry raises leaves this module, and all works with the API alone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextvars import Token
from functools import partial
from typing import Any, TypeVar

from opentelemetry import trace
from opentelemetry._logs import Logger, LoggerProvider, get_logger
from opentelemetry.context import Context, attach, detach, set_value
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, TracerProvider

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import Conflict, MemoirError
from otel_memoir.events import MemoryEvent, current_trace, names, to_log_record
from otel_memoir.locks.keys import store_and_record
from otel_memoir.reflection.account import Account
from otel_memoir.reflection.plan import Plan

SCOPE = "otel_memoir"

LOCK_HELD, CANCELLED = "lock_held", "cancelled"
CALLED_OFF = (asyncio.CancelledError, GeneratorExit)
_INT64 = range(-(2**63), 2**63)

T = TypeVar("T")
Attributes = dict[str, Any]


def guarded(call: Callable[[], T], what: str = "telemetry") -> T | None:
    """Call foreign code; what it raises is said, not passed on."""
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - foreign code must not harm a reflection
        complaints.say(f"reflection {what}", f"{what} of a reflection failed: {error!r}")
        return None


class Teller:
    """Where the reflections of one agent are told of.

    Args:
        tracer_provider, logger_provider: The global ones by default.

        logger: A logger to use, whatever the provider.

        time_ns: The wall clock, for the time of events.
    """

    def __init__(
        self, *, agent_name: str | None = None, agent_id: str | None = None,
        tracer_provider: TracerProvider | None = None,
        logger_provider: LoggerProvider | None = None, logger: Logger | None = None,
        time_ns: Callable[[], int] = time.time_ns,
    ) -> None:  # fmt: skip
        self.agent_name, self.agent_id, self._time_ns = agent_name, agent_id, time_ns
        self._tracers, self._loggers, self._logger = tracer_provider, logger_provider, logger

    def begin_span(self, plan: Plan, reflection_id: str) -> Span:
        """A new span for a reflection; one that does nothing where there can be none."""
        tracer = trace.get_tracer(SCOPE, tracer_provider=self._tracers)
        said = {
            names.GEN_AI_OPERATION_NAME: names.OPERATION_REFLECT,
            names.REFLECTION_ID: reflection_id, names.REFLECTION_NAME: plan.name,
            names.GEN_AI_AGENT_NAME: self.agent_name, names.GEN_AI_AGENT_ID: self.agent_id,
            names.GEN_AI_CONVERSATION_ID: plan.conversation_id,
            names.REFLECTION_TRIGGER: plan.trigger,
        }  # fmt: skip
        return tracer.start_span(
            f"{names.OPERATION_REFLECT} {self.agent_name or ''}".rstrip(), kind=SpanKind.INTERNAL,
            attributes={key: value for key, value in said.items() if value is not None},
        )

    def emit(self, name: str, context: Context | None, **said: Any) -> None:
        """Emit an event in the span of a context."""
        if self._logger is None:
            self._logger = get_logger(SCOPE, logger_provider=self._loggers)
        event = MemoryEvent(
            name, time_unix_ns=self._time_ns(), trace=current_trace(context),
            agent_name=self.agent_name, agent_id=self.agent_id, **said,
        )
        self._logger.emit(to_log_record(event, context=context))


class Story:
    """What is told of one reflection."""

    def __init__(self, teller: Teller, reflection: Account, plan: Plan) -> None:
        self._teller, self._plan = teller, plan
        self._said: Attributes = {
            names.REFLECTION_ID: reflection.id, names.REFLECTION_NAME: plan.name
        }
        self._span: Span = trace.INVALID_SPAN
        self._context: Context | None = None
        self._token: Token[Context] | None = None

    def begin(self) -> None:
        """Begin the span, and make it the current one; locks tell of the reflection from here."""
        begun = guarded(partial(self._teller.begin_span, self._plan, self._id))
        if begun is not None:
            self._span = begun
            self._context = set_value(
                names.REFLECTION_ID, self._id, trace.set_span_in_context(begun)
            )
            self._token = attach(self._context)

    def started(self) -> None:
        """It has its locks."""
        said = {names.REFLECTION_TRIGGER: self._plan.trigger} if self._plan.trigger else {}
        self._emit(names.EVENT_REFLECTION_STARTED, said)

    def refused(self, conflicts: Sequence[Conflict]) -> None:
        """Its write-back is not based on what is there."""
        for key, expected, found in conflicts:
            said = _versions(expected, found)
            said |= {names.CONFLICT_ACTION: "dropped", names.REFLECTION_ID: self._id}
            store_id, record_id = store_and_record(key)
            self._emit_plain(
                names.EVENT_WRITE_CONFLICT, attributes=said, store_id=store_id,
                record_id=record_id, actor_type="agent", outcome="failure",
            )

    def skipped(self, holders: Sequence[Account]) -> None:
        """Others are under way, and were asked."""
        self._emit(names.EVENT_REFLECTION_SKIPPED, {
            names.REFLECTION_RERUN_REQUESTED: True, names.REFLECTION_WRITES_APPLIED: False,
            names.REFLECTION_HOLDER_IDS: [one.id for one in holders],
            names.LOCK_HOLDERS: [one.owner for one in holders],
        }, reason=LOCK_HELD)  # fmt: skip
        self._close()

    def ended(
        self, reflection: Account, duration_s: float, error: BaseException | None
    ) -> None:
        """It is over: with an error, called off, or done."""
        said: Attributes = {
            names.REFLECTION_DURATION: duration_s,
            names.REFLECTION_RERUN_REQUESTED: reflection.rerun_requested,
            names.OUTPUT_RECORD_IDS: reflection.written,
        }
        if error is None:
            said |= {names.REFLECTION_INSIGHTS: reflection.writes,
                     names.INPUT_RECORD_IDS: reflection.was_read}  # fmt: skip
            self._emit(names.EVENT_REFLECTION_COMPLETED, said)
        else:
            said[names.REFLECTION_WRITES_APPLIED] = reflection.writes > 0
            self._ended_badly(said, error, "partial" if reflection.writes else "failure")
        self._close()

    def _ended_badly(self, said: Attributes, error: BaseException, outcome: str) -> None:
        if isinstance(error, CALLED_OFF):
            self._emit(
                names.EVENT_REFLECTION_SKIPPED, said, reason=CANCELLED, outcome=outcome
            )
            return
        kind = type_of(error)
        # Only errors of ours are known to hold no memory.
        text = str(error) if isinstance(error, MemoirError) else None
        guarded(lambda: self._span.set_attribute(names.ERROR_TYPE, kind))
        guarded(lambda: self._span.set_status(Status(StatusCode.ERROR, text)))
        self._emit(
            names.EVENT_REFLECTION_FAILED, said, error_type=kind, outcome=outcome, reason=text
        )

    def _close(self) -> None:
        guarded(self._span.end)
        if self._token is not None:
            detach(self._token)

    # -- how ------------------------------------------------------------------

    @property
    def _id(self) -> str:
        return str(self._said[names.REFLECTION_ID])

    def _emit(self, name: str, said: Attributes, **fields: Any) -> None:
        self._emit_plain(name, attributes={**self._said, **said}, **fields)

    def _emit_plain(self, name: str, **fields: Any) -> None:
        conversation = self._plan.conversation_id
        guarded(partial(
            self._teller.emit, name, self._context, conversation_id=conversation, **fields
        ))  # fmt: skip


def _versions(expected: Any, found: Any) -> Attributes:
    """Versions as attributes, where they are numbers: others may be content."""
    said = {names.CONFLICT_EXPECTED_VERSION: expected, names.CONFLICT_ACTUAL_VERSION: found}
    return {key: value for key, value in said.items() if type(value) is int and value in _INT64}


def type_of(error: BaseException) -> str:
    """``error.type``: the full name of the class, without a module for those built in."""
    kind = type(error)
    if kind.__module__ == "builtins":
        return kind.__qualname__
    return f"{kind.__module__}.{kind.__qualname__}"
