"""What the index of a spool keeps of a payload: the words that people ask by."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.events import names
from otel_memoir.spool.index import Described, Describer

KEYS = ("event", "store", "record", "agent", "conversation", "trace")
"""What can be asked for by value, beside uid, stream, sequence, time and state."""

EVENT, STORE, RECORD, AGENT, CONVERSATION, TRACE = range(len(KEYS))

_NOTHING = Described("", ("",) * len(KEYS))

_ONE = {
    names.GEN_AI_MEMORY_STORE_ID: STORE,
    names.GEN_AI_MEMORY_RECORD_ID: RECORD,
    names.GEN_AI_AGENT_ID: AGENT,
    names.GEN_AI_CONVERSATION_ID: CONVERSATION,
}
# An agent is asked for by its id or by its name.
_ALSO_ONE = {names.GEN_AI_AGENT_NAME: AGENT, names.RECORD_SUPERSEDED_BY: RECORD}
_ALSO_MANY = {
    names.RECORD_IDS: RECORD,
    names.RECORD_DERIVED_FROM: RECORD,
    names.INPUT_RECORD_IDS: RECORD,
    names.OUTPUT_RECORD_IDS: RECORD,
}
_UID = names.LOG_RECORD_UID
_WANTED = frozenset((_UID, *_ONE, *_ALSO_ONE, *_ALSO_MANY))


def describe(payload: bytes) -> Described:
    """What a record is found by. Of an attribute that is there twice the last one counts.

    Args:
        payload: The inside of a ``LogRecord`` message, stamps included.

    Returns:
        Its words; none for bytes that are no record.
    """
    try:
        log = LogRecord.FromString(payload)
    except DecodeError:
        return _NOTHING
    uid = ""
    terms = [log.event_name, "", "", "", "", log.trace_id.hex()]
    others: dict[str, tuple[tuple[int, str], ...]] = {}
    for entry in log.attributes:
        key = entry.key
        if key in _WANTED:
            if key == _UID:
                uid = entry.value.string_value
            elif key in _ONE:
                terms[_ONE[key]] = entry.value.string_value
            else:
                others[key] = _others(key, entry.value)
    if not others:
        return Described(uid, tuple(terms))
    also = {pair for pairs in others.values() for pair in pairs if pair[1]}
    return Described(uid, tuple(terms), tuple(sorted(also)))


def _others(key: str, value: object) -> tuple[tuple[int, str], ...]:
    kind = _ALSO_ONE.get(key)
    if kind is not None:
        return ((kind, value.string_value),)  # type: ignore[attr-defined]  # an AnyValue
    kind = _ALSO_MANY[key]
    values = value.array_value.values  # type: ignore[attr-defined]  # as above
    return tuple((kind, each.string_value) for each in values)


DESCRIBER = Describer(keys=KEYS, read=describe, version=1)
"""For ``spool.index``."""
