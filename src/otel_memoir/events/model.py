"""``MemoryEvent``: one thing that happened to an agent's memory."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from otel_memoir.errors import EventError
from otel_memoir.events import names, values
from otel_memoir.events.kind import Kind
from otel_memoir.events.sentence import sentence
from otel_memoir.events.tables import EVENTS

SCHEMA_VERSION = 1
"""The version of what is written. Older ones are read through ``versions``."""

FIELDS = {
    "uid": names.LOG_RECORD_UID,
    "stream_id": names.STREAM_ID,
    "stream_epoch": names.STREAM_EPOCH,
    "sequence": names.SEQUENCE,
    "schema_version": names.SCHEMA_VERSION,
    "clock_error_bound_ns": names.CLOCK_ERROR_BOUND,
    "clock_status": names.CLOCK_STATUS,
    "operation": names.GEN_AI_OPERATION_NAME,
    "store_id": names.GEN_AI_MEMORY_STORE_ID,
    "record_id": names.GEN_AI_MEMORY_RECORD_ID,
    "record_version": names.RECORD_VERSION,
    "parent_uid": names.PARENT_UID,
    "before_hash": names.BEFORE_HASH,
    "after_hash": names.AFTER_HASH,
    "scope": names.SCOPE,
    "tenant_id": names.TENANT_ID,
    "system": names.SYSTEM,
    "provider_name": names.GEN_AI_PROVIDER_NAME,
    "actor_type": names.ACTOR_TYPE,
    "agent_id": names.GEN_AI_AGENT_ID,
    "agent_name": names.GEN_AI_AGENT_NAME,
    "user_hash": names.USER_HASH,
    "conversation_id": names.GEN_AI_CONVERSATION_ID,
    "turn_id": names.TURN_ID,
    "outcome": names.OUTCOME,
    "reason": names.REASON,
    "error_type": names.ERROR_TYPE,
    "change_id": names.CHANGE_ID,
    "cause_uids": names.CAUSE_UIDS,
    "source_refs": names.SOURCE_REFS,
    "model": names.GEN_AI_REQUEST_MODEL,
    "prompt_name": names.GEN_AI_PROMPT_NAME,
    "prompt_version": names.PROMPT_VERSION,
}
"""The envelope: fields of ``MemoryEvent`` and the attributes in which they travel."""

_FIELD_OF = {attribute: name for name, attribute in FIELDS.items()}
_TIME_MAX = 2**64 - 1


@dataclass(frozen=True, slots=True)
class TraceRef:
    """The span in which something happened.

    Attributes:
        trace_id: 1 to 2¹²⁸-1.

        span_id: 0 (not known) to 2⁶⁴-1.

        flags: W3C trace flags in the lowest eight bits, as in OTLP.
    """

    trace_id: int
    span_id: int = 0
    flags: int = 0

    def __post_init__(self) -> None:
        for name, least, bits in (("trace_id", 1, 128), ("span_id", 0, 64), ("flags", 0, 32)):
            value = getattr(self, name)
            if type(value) is not int or not least <= value < 2**bits:
                raise EventError(
                    "make trace reference", target=name, cause=f"{value!r:.60} is not in range",
                    hint=f"Give an integer from {least} to 2**{bits}-1.",
                )


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvent:
    """One thing that happened to an agent's memory.

    Everything but the name is given by keyword. ``None`` means: not known. What is given
    is copied and cannot be changed afterwards.

    Attributes:
        name: The event name, one of ``names.EVENT_*``.

        uid, stream_id, stream_epoch, sequence, clock_error_bound_ns, clock_status: The
            stamps. Emission sets them; events that are read have them.

        schema_version: Always ``SCHEMA_VERSION``.

        time_unix_ns: When it happened, in nanoseconds since 1970-01-01 UTC.

        observed_unix_ns: When it was noticed, by the system clock.

        severity: Severity number, 1 to 24; by default that of its kind.

        trace: The span in which it happened.

        store_id, record_id, scope, tenant_id, system, provider_name: Which memory.

        record_version, parent_uid, before_hash, after_hash: Which change of it. The
            parent is the uid of the event that made the version that was changed.

        actor_type, agent_id, agent_name, user_hash, conversation_id, turn_id: Who.

        operation, outcome, reason, error_type, change_id: What became of it, and why.

        cause_uids, source_refs: What led to it.

        model, prompt_name, prompt_version: What thought of it.

        attributes: All else, by attribute name. Attributes of the envelope may be given
            here too and become fields.

        content: What is told only where the user opted in (``Capture``), by attribute name.

    Raises:
        EventError: A name is not known, a type is wrong, or what the event needs is missing.
    """

    name: str = field(kw_only=False)
    uid: str | None = None
    stream_id: str | None = None
    stream_epoch: int | None = None
    sequence: int | None = None
    schema_version: int | None = None
    time_unix_ns: int | None = None
    observed_unix_ns: int | None = None
    clock_error_bound_ns: int | None = None
    clock_status: str | None = None
    severity: int | None = None
    trace: TraceRef | None = None

    store_id: str | None = None
    record_id: str | None = None
    scope: str | None = None
    tenant_id: str | None = None
    system: str | None = None
    provider_name: str | None = None
    record_version: int | None = None
    parent_uid: str | None = None
    before_hash: str | None = None
    after_hash: str | None = None

    actor_type: str | None = None
    agent_id: str | None = None
    agent_name: str | None = None
    user_hash: str | None = None
    conversation_id: str | None = None
    turn_id: str | None = None
    operation: str | None = None
    outcome: str | None = None
    reason: str | None = None
    error_type: str | None = None
    change_id: str | None = None
    cause_uids: Sequence[str] | None = None
    source_refs: Sequence[str] | None = None
    model: str | None = None
    prompt_name: str | None = None
    prompt_version: str | None = None

    attributes: Mapping[str, Any] = values.EMPTY
    # Not in the repr: that is what a log line or a traceback shows of an event.
    content: Mapping[str, Any] = field(default=values.EMPTY, repr=False)

    def __post_init__(self) -> None:
        kind = _kind_of(self.name)
        given = _given(self)
        given.setdefault(names.SCHEMA_VERSION, SCHEMA_VERSION)
        if kind.operation is not None:
            given.setdefault(names.GEN_AI_OPERATION_NAME, kind.operation)
        _check(self.name, kind, given)
        _store(self, kind, given)

    @property
    def kind(self) -> Kind:
        """What the vocabulary says of this kind of event."""
        return EVENTS[self.name]

    @property
    def body(self) -> str:
        """The event in one printable line; never content."""
        return sentence(self.kind.sentence, self.to_attributes())

    def to_attributes(self, *, content: bool = False) -> dict[str, Any]:
        """All attributes that the event has, the envelope first.

        Args:
            content: Whether to include content.
        """
        fields = ((attribute, getattr(self, name)) for name, attribute in FIELDS.items())
        found = {attribute: value for attribute, value in fields if value is not None}
        return {**found, **self.attributes, **(self.content if content else {})}


def _kind_of(name: Any) -> Kind:
    kind = EVENTS.get(name) if isinstance(name, str) else None
    if kind is None:
        near = difflib.get_close_matches(str(name), EVENTS, n=1)
        hint = f"Did you mean {near[0]}?" if near else "docs/vocabulary.md lists them."
        raise EventError("make event", target=f"{name!r:.80}", cause="no such event", hint=hint)
    return kind


def _given(event: MemoryEvent) -> dict[str, Any]:
    """All attributes and content that were given, wherever, checked and frozen."""
    found: dict[str, Any] = {}
    fields = {attribute: value for name, attribute in FIELDS.items()
              if (value := getattr(event, name)) is not None}
    for part in (fields, event.attributes, event.content):
        if not isinstance(part, Mapping):
            raise _error(event.name, "attributes and content", f"are {type(part).__name__}",
                         "Give dictionaries.")
        for key, value in part.items():
            frozen = _frozen(event.name, key, value)
            if frozen is None and key in _FIELD_OF:
                continue
            if key in found and found[key] != frozen:
                raise _error(event.name, key, "is given twice, with different values",
                             "Give it once.")
            found[key] = frozen
    return found


def _frozen(event: str, key: Any, value: Any) -> Any:
    if not isinstance(key, str) or not key:
        raise _error(event, f"{key!r:.60}", "is no attribute name", "Give text.")
    try:
        return values.typed(key, values.freeze(value))
    except ValueError as error:
        raise _error(event, _named(key), str(error), "See docs/vocabulary.md.") from None


def _check(name: str, kind: Kind, given: Mapping[str, Any]) -> None:
    """Check that the event says what its kind has to say, and no more than it may."""
    missing = next((key for key in kind.required if given.get(key) is None), None)
    if missing:
        raise _error(name, missing, "is missing", _how_to_give(missing))
    if kind.either and all(given.get(key) is None for key in kind.either):
        ways = " Or: ".join(_how_to_give(key) for key in kind.either)
        raise _error(name, " or ".join(kind.either), "is missing", ways)
    if not kind.content and (content := names.CONTENT & given.keys()):
        raise _error(name, min(content), "is content, which this event never has", "Leave it out.")
    if given[names.SCHEMA_VERSION] != SCHEMA_VERSION:
        raise _error(
            name, names.SCHEMA_VERSION, f"is {given[names.SCHEMA_VERSION]}, not {SCHEMA_VERSION}",
            "Read what was written in another version with the functions from_...",
        )


def _store(event: MemoryEvent, kind: Kind, given: dict[str, Any]) -> None:
    severity = event.severity if event.severity is not None else _severity(kind, given)
    found = {name: given.pop(attribute, None) for name, attribute in FIELDS.items()}
    content = {key: given.pop(key) for key in list(given) if key in names.CONTENT}
    found |= {"attributes": values.FrozenMap(given), "content": values.FrozenMap(content)}
    found["severity"] = _whole(event.name, "severity", severity, 24) or _severity(kind, given)
    for name in ("time_unix_ns", "observed_unix_ns"):
        # Zero is how OTLP says that a time is not known.
        found[name] = _whole(event.name, name, getattr(event, name), _TIME_MAX) or None
    if not isinstance(event.trace, (TraceRef, type(None))):
        raise _error(event.name, "trace", f"is {type(event.trace).__name__}", "Give a TraceRef.")
    for name, value in found.items():
        object.__setattr__(event, name, value)


def _severity(kind: Kind, given: Mapping[str, Any]) -> int:
    if kind.severity_by is None:
        return kind.severity
    key, levels = kind.severity_by
    return dict(levels).get(given.get(key, ""), kind.severity)


def _whole(event: str, name: str, value: Any, most: int) -> Any:
    if value is not None and (type(value) is not int or not 0 <= value <= most):
        raise _error(event, name, f"is {value!r:.60}", f"Give an integer from 0 to {most}.")
    return value


def _named(key: str) -> str:
    return f"{_FIELD_OF[key]} ({key})" if key in _FIELD_OF else key


def _how_to_give(key: str) -> str:
    name = _FIELD_OF.get(key)
    return f"Give {name}=..." if name else f"Give attributes={{{key!r}: ...}}."


def _error(event: str, what: str, cause: str, hint: str) -> EventError:
    return EventError("make event", target=event, cause=f"{what} {cause}", hint=hint)
