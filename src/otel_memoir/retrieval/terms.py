"""What the index of a spool keeps of a payload: the words that people ask by.

A million payloads are read before the first answer. To take an attribute out of protobuf's
``LogRecord`` costs about a microsecond, wanted or not; so attributes are read as bytes,
by a message of our own with the same field numbers, and only those that are wanted are
looked into. Both ways say the same of what an encoder writes (tested).
"""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.events import names
from otel_memoir.spool.index import Described, Describer

KEYS = ("event", "store", "record", "agent", "conversation", "trace")
"""What can be asked for by value, beside uid, stream, sequence, time and state."""

EVENT, STORE, RECORD, AGENT, CONVERSATION, TRACE = range(len(KEYS))

_NOTHING = Described("", ("",) * len(KEYS))
_UID = -1

# Each attribute with the words that it gives. An agent is asked for by id or name, a memory
# record also where it is one of several.
_ONE = {
    names.LOG_RECORD_UID: _UID,
    names.GEN_AI_MEMORY_STORE_ID: STORE,
    names.GEN_AI_MEMORY_RECORD_ID: RECORD,
    names.GEN_AI_AGENT_ID: AGENT,
    names.GEN_AI_CONVERSATION_ID: CONVERSATION,
}
_ALSO = {
    names.GEN_AI_AGENT_NAME: AGENT,
    names.RECORD_SUPERSEDED_BY: RECORD,
    names.RECORD_IDS: RECORD,
    names.RECORD_DERIVED_FROM: RECORD,
    names.INPUT_RECORD_IDS: RECORD,
    names.OUTPUT_RECORD_IDS: RECORD,
}


def _head(key: str) -> bytes:
    """How a KeyValue with this key begins."""
    return KeyValue(key=key).SerializeToString()


_ONE_BY_HEAD = {_head(key): place for key, place in _ONE.items()}
_ALSO_BY_HEAD = {_head(key): key for key in _ALSO}
_KEY_TAG = 0x0A
_KEPT_MAX = 8192


def _lean_record() -> Any:
    """The class of a message that is a ``LogRecord`` with less in it (logs.proto)."""
    file = FileDescriptorProto(name="lean_record.proto", package="memoir", syntax="proto3")
    message = file.message_type.add(name="LeanRecord")
    kinds = FieldDescriptorProto
    for name, number, kind, label in (
        ("attributes", 6, kinds.TYPE_BYTES, kinds.LABEL_REPEATED),
        ("trace_id", 9, kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL),
        ("event_name", 12, kinds.TYPE_STRING, kinds.LABEL_OPTIONAL),
    ):
        message.field.add(name=name, number=number, type=kind, label=label)
    pool = DescriptorPool()
    pool.Add(file)
    return GetMessageClass(pool.FindMessageTypeByName("memoir.LeanRecord"))


_LeanRecord = _lean_record()


def describe(payload: bytes) -> Described:
    """What a record is found by. Of an attribute that is there twice the last one counts.

    Args:
        payload: The inside of a ``LogRecord`` message, stamps included.

    Returns:
        Its words; none for bytes that are no record.
    """
    try:
        record = _LeanRecord.FromString(payload)
        words = [record.event_name, "", "", "", "", record.trace_id.hex(), ""]
        others: dict[str, bytes] = {}
        for entry in record.attributes:
            read = _attributes[entry]
            if read is not None:
                place, text = read
                if place is None:
                    others[text] = entry
                else:
                    words[place] = text
        return Described(words[_UID], tuple(words[:-1]), _also(others) if others else ())
    except (DecodeError, IndexError, UnicodeDecodeError, _UnusualError):
        return describe_slowly(payload)


class _UnusualError(Exception):
    """An attribute that is not as an encoder writes it."""


_Read = tuple[int | None, str] | None
"""The place of a word and the word; no place and the key, where there are several; or nothing."""


class _Attributes(dict[bytes, _Read]):
    """What each encoded attribute says. Most are the same in many records, and are kept."""

    def __missing__(self, entry: bytes) -> _Read:
        head = entry[: entry[1] + 2]
        place = _ONE_BY_HEAD.get(head)
        read: _Read = None
        if place is not None:
            read = place, _text(entry, len(head))
        elif head in _ALSO_BY_HEAD:
            read = None, _ALSO_BY_HEAD[head]
        elif entry[0] != _KEY_TAG:
            raise _UnusualError
        if place != _UID:
            if len(self) >= _KEPT_MAX:
                self.clear()
            self[entry] = read
        return read


_attributes = _Attributes()


def _text(entry: bytes, begin: int) -> str:
    """The text of an encoded attribute whose value begins there; empty for another type."""
    # A text below 124 bytes: two tags and two lengths stand before it.
    if entry[begin + 2 : begin + 3] == b"\x0a" and begin + 4 + entry[begin + 3] == len(entry):
        return entry[begin + 4 :].decode()
    return KeyValue.FromString(entry).value.string_value


def _also(entries: dict[str, bytes]) -> tuple[tuple[int, str], ...]:
    found = set()
    for key, entry in entries.items():
        value = KeyValue.FromString(entry).value
        for text in (value.string_value, *(v.string_value for v in value.array_value.values)):
            if text:
                found.add((_ALSO[key], text))
    return tuple(sorted(found))


def describe_slowly(payload: bytes) -> Described:
    """As ``describe``, with protobuf's own reader alone, in whatever order things come."""
    try:
        log = LogRecord.FromString(payload)
    except DecodeError:
        return _NOTHING
    words = [log.event_name, "", "", "", "", log.trace_id.hex(), ""]
    others: dict[str, bytes] = {}
    for entry in log.attributes:
        if entry.key in _ONE:
            words[_ONE[entry.key]] = entry.value.string_value
        elif entry.key in _ALSO:
            others[entry.key] = entry.SerializeToString()
    return Described(words[_UID], tuple(words[:-1]), _also(others))


DESCRIBER = Describer(keys=KEYS, read=describe, version=1)
"""For ``spool.index``."""
