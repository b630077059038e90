"""What an event is made of: fields that a log always says, those of one call, and content."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from otel_memoir.errors import EventError
from otel_memoir.events import (
    Capture,
    ContentHasher,
    MemoryEvent,
    capture_mode,
    content_size,
    current_trace,
    names,
)
from otel_memoir.events.tables import EVENTS


class ChangeFields(TypedDict, total=False):
    """What every event can say, but for its operation. See ``MemoryEvent``."""

    store_id: str
    scope: str
    tenant_id: str
    system: str
    provider_name: str
    record_version: int
    parent_uid: str
    actor_type: str
    agent_id: str
    agent_name: str
    user_hash: str
    conversation_id: str
    turn_id: str
    outcome: str
    reason: str
    error_type: str
    cause_uids: Sequence[str]
    source_refs: Sequence[str]
    model: str
    prompt_name: str
    prompt_version: str
    time_unix_ns: int
    attributes: Mapping[str, Any]


class EventFields(ChangeFields, total=False):
    """What every event can say. See ``MemoryEvent``."""

    operation: str


NOTHING: Any = type("Nothing", (), {"__repr__": lambda _: "NOTHING"})()
"""No content was given; ``None`` is content."""


@dataclass(frozen=True)
class EventMaker:
    """Makes events.

    Attributes:
        fields: What each of them says, unless a call says otherwise.

        hasher: Makes keyed hashes of content.

        capture: Where content may be told; ``None``: as the environment says at the time.
    """

    fields: Mapping[str, Any]
    hasher: ContentHasher
    capture: Capture | None = None

    def also(self, fields: Mapping[str, Any]) -> EventMaker:
        """A maker of events that say these fields too."""
        both = {**self.fields, **fields}
        ours, theirs = self.fields.get("attributes"), fields.get("attributes")
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            both["attributes"] = {**ours, **theirs}
        return EventMaker(both, self.hasher, self.capture)

    def only(self, fields: Mapping[str, Any]) -> EventMaker:
        """A maker of events that say these fields, and nothing that others gave."""
        return EventMaker(fields, self.hasher, self.capture)

    def captures(self) -> Capture:
        """Where content may be told."""
        return self.capture if self.capture is not None else capture_mode()

    def make(
        self, name: str, given: Mapping[str, Any], *, content: Any = NOTHING,
        before: Any = NOTHING, query: Any = NOTHING, **own: Any,
    ) -> MemoryEvent:
        """An event of a kind, in the current span.

        Args:
            name: Its name.

            given: Fields of this call.

            content, before: The memory record after and before it.

            query: What was searched for.

            own: What the kind says besides: fields, or ``attributes``; ``None`` is left out.

        Raises:
            EventError: It cannot be made.
        """
        fields = {**self.fields, **given, **without_none(own)}
        attributes = {
            **self.fields.get("attributes", {}), **given.get("attributes", {}),
            **without_none(own.get("attributes", {})),
        }
        told: dict[str, Any] = {}
        allowed = EVENTS[name].attributes
        if content is not NOTHING:
            fields.setdefault("after_hash", self.hasher.hash(content))
            if names.CONTENT_SIZE in allowed:
                attributes.setdefault(names.CONTENT_SIZE, content_size(content))
            told[names.GEN_AI_MEMORY_RECORDS] = _records(fields.get("record_id"), content)
        if before is not NOTHING:
            fields.setdefault("before_hash", self.hasher.hash(before))
            told[names.BEFORE_RECORDS] = _records(fields.get("record_id"), before)
        if query is not NOTHING:
            attributes.setdefault(names.QUERY_HASH, self.hasher.hash(query))
            attributes.setdefault(names.QUERY_SIZE, content_size(query))
            told[names.GEN_AI_MEMORY_QUERY_TEXT] = query
        check_known(name, fields)
        fields.setdefault("trace", current_trace())
        fields["attributes"] = without_none(attributes)
        # What nobody may see is not even put into the event: it could be looked at on its way.
        fields["content"] = told if EVENTS[name].content and self.captures().on_events else {}
        return MemoryEvent(name, **fields)


_KNOWN = frozenset(one.name for one in dataclasses.fields(MemoryEvent))


def check_known(name: str, fields: Mapping[str, Any]) -> None:
    """Make sure that all fields of an event are fields of events.

    Raises:
        EventError: One is not, with the one that may be meant.
    """
    for key in fields:
        if key not in _KNOWN:
            meant = "record_version" if key == "version" else f"{key}"
            near = difflib.get_close_matches(meant, _KNOWN, n=1, cutoff=0.5)
            hint = f"Did you mean {near[0]}?" if near else "See MemoryEvent, or give attributes."
            raise EventError(
                "make event", target=name, cause=f"there is no field {f'{key}'[:60]}", hint=hint
            )


def _records(record_id: str | None, content: Any) -> list[dict[str, Any]]:
    named = {"id": record_id} if record_id else {}
    return [{**named, "content": content}]


def without_none(found: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in found.items() if value is not None}
