"""The event that tells of a change whose outcome nobody knows: ``memoir.change.unknown``."""

from __future__ import annotations

import json
from typing import Any

from otel_memoir.errors import EventError
from otel_memoir.events import MemoryEvent, names, to_log_record
from otel_memoir.sdk.own_events import own_draft
from otel_memoir.spool import Draft
from otel_memoir.spool.intents import Orphan
from otel_memoir.spool.model import Intent

_REASON = "the process ended between the intention and its outcome"


def note_of(event: MemoryEvent) -> bytes:
    """What is to be known of an intended change, should its outcome never come.

    Ids only: what ``memoir.change.unknown`` may say, and never content.
    """
    known = event.to_attributes()
    said = {key: known[key] for key in _TOLD if key in known}
    return json.dumps(said | {_INTENDED: event.uid}, separators=(",", ":")).encode()


def unknown_draft(orphan: Orphan, envelope: bytes | None) -> Draft:
    """The record that tells of an intent whose process died, and ends it.

    Args:
        orphan: The intent.

        envelope: As for ``own_draft``.
    """
    draft = own_draft(
        to_log_record(_event(orphan)), scope="otel_memoir", envelope=envelope
    )
    return draft._replace(intent=Intent(orphan.id, None))


def _event(orphan: Orphan) -> MemoryEvent:
    try:
        said: dict[str, Any] = json.loads(orphan.note)
        intended = said.pop(_INTENDED, None)
        cause = {names.CAUSE_UIDS: [intended]} if intended else {}
        return _unknown(orphan, said | cause)
    except (ValueError, TypeError, AttributeError, EventError):
        # Written by a newer version, perhaps: that it happened is what has to be told.
        return _unknown(orphan, {})


def _unknown(orphan: Orphan, said: dict[str, Any]) -> MemoryEvent:
    return MemoryEvent(
        names.EVENT_CHANGE_UNKNOWN, change_id=orphan.id, reason=_REASON, outcome="unknown",
        time_unix_ns=orphan.declared_unix_ns, attributes=said,
    )


_INTENDED = "intended"
_TOLD = (
    names.GEN_AI_MEMORY_STORE_ID, names.GEN_AI_MEMORY_RECORD_ID, names.RECORD_VERSION,
    names.SCOPE, names.TENANT_ID, names.SYSTEM, names.ACTOR_TYPE, names.GEN_AI_AGENT_ID,
    names.GEN_AI_AGENT_NAME, names.USER_HASH, names.GEN_AI_CONVERSATION_ID, names.TURN_ID,
    names.GEN_AI_OPERATION_NAME, names.BEFORE_HASH, names.SOURCE_REFS,
)
