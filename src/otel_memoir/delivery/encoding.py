"""From a log record to the bytes that are stored and sent.

Promises: ``encode_record`` gives what the official encoder gives
(``opentelemetry.exporter.otlp.proto.common``), at about a sixth of its cost, and it
never raises. A record that the official encoder refuses, or that a protobuf parser
would refuse, is *repaired*: everything that can be kept is, the rest is replaced by
words, and the attribute ``memoir.repaired`` says so. One bad record must not cost its
batch (the stock gRPC exporter raises from ``export`` for a negative timestamp).

A record becomes a *payload*, the inside of one ``LogRecord`` message, and an
*envelope*, what it shares with its neighbours. Stamps are appended to the payload
later, under the append lock; a protobuf message may be continued by more bytes.

Refuses: limits of count and length (the SDK's), size limits (the spool's).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from otel_memoir.delivery import wire
from otel_memoir.delivery.repair import Mender, clamped, read

UID = "log.record.uid"
STREAM_ID = "memoir.stream.id"
STREAM_EPOCH = "memoir.stream.epoch"
SEQUENCE = "memoir.sequence"
CLOCK_ERROR_BOUND = "memoir.clock.error_bound"
CLOCK_STATUS = "memoir.clock.status"
REPAIRED = "memoir.repaired"

ENVELOPES_CACHED_MAX = 64

# Levels below the root of a request: ResourceLogs, ScopeLogs, LogRecord, AnyValue.
_BODY_ROOM = wire.NESTING_MAX - 4
# A KeyValue stands between; a Resource's attributes are a level higher again.
_ATTRIBUTE_ROOM = _BODY_ROOM - 1
_RESOURCE_ATTRIBUTE_ROOM = _BODY_ROOM

_ATTRIBUTES_TAG = b"\x32"
_INT64_MAX = 2**63 - 1
_UINT64_MAX = 2**64 - 1


class SdkRecord(Protocol):
    """What is read of the SDK's ``ReadWriteLogRecord`` and ``ReadableLogRecord``."""

    @property
    def log_record(self) -> Any: ...
    @property
    def resource(self) -> Any: ...
    @property
    def instrumentation_scope(self) -> Any: ...
    @property
    def dropped_attributes(self) -> int: ...


class Encoded(NamedTuple):
    """A record as bytes.

    Attributes:
        envelope: Its resource and scope; ``request.split_envelope`` takes it apart.

        payload: The inside of its ``LogRecord`` message.

        severity: Its severity number, 0 to 24; 0 if it has none.

        repaired: Whether something of it could not be encoded as it was.
    """

    envelope: bytes
    payload: bytes
    severity: int
    repaired: bool


def encode_record(record: SdkRecord) -> Encoded:
    """Encode a record. Never raises.

    Args:
        record: The SDK's record, in any state. Other threads may be changing it.

    Returns:
        Its bytes: what the official encoder gives, or else a repaired record.
    """
    # Methods of the application's own objects run in here (a proxy's ``__class__``, a
    # mapping's ``items``, ``__str__``), so any exception may come out.
    try:
        return _encode(record)
    except Exception:
        # No call may stand before the inner ``try``: at the recursion limit it would raise.
        try:
            return _encode_repaired(record)
        except Exception:
            return _UNREADABLE


def _encode(record: SdkRecord) -> Encoded:
    log = record.log_record
    envelope, repaired = _envelope_of(record.resource, record.instrumentation_scope)
    severity = getattr(log.severity_number, "value", 0) or 0
    payload = _log_record(log, severity, record.dropped_attributes)
    if repaired:
        payload += _REPAIRED_ENTRY
    return Encoded(envelope, payload, severity, repaired)


def _encode_repaired(record: SdkRecord) -> Encoded:
    """Encode a copy of the record that holds only what can be encoded."""
    log = Mender().log_record(read(record, "log_record"), _BODY_ROOM, _ATTRIBUTE_ROOM)
    dropped = clamped(read(record, "dropped_attributes"), bits=32) or 0
    payload = _log_record(log, log.severity_number, dropped) + _REPAIRED_ENTRY
    resource, scope = read(record, "resource"), read(record, "instrumentation_scope")
    return Encoded(_envelope_of(resource, scope)[0], payload, log.severity_number, True)


def _log_record(log: Any, severity: int, dropped: int) -> bytes:
    """Encode the inside of a ``LogRecord`` message. Field numbers are those of logs.proto."""
    head = _pack_time(b"\x59", log.observed_timestamp or 0)
    if log.timestamp:
        head = _pack_time(b"\x09", log.timestamp) + head
    if severity:
        head += _SEVERITIES.get(severity) or _severity(severity)
    if log.severity_text:
        head += wire.text_field(b"\x1a", log.severity_text)
    body = wire.any_value(log.body, _BODY_ROOM)
    attributes = log.attributes
    entries = _attributes(_ATTRIBUTES_TAG, attributes, _ATTRIBUTE_ROOM) if attributes else b""
    return b"".join(
        (
            head,
            b"\x2a",
            wire.varint(len(body)),
            body,
            entries,
            _trace_context(log),
            wire.text_field(b"\x62", log.event_name),
            _dropped(dropped) if dropped else b"",
        )
    )


def _trace_context(log: Any) -> bytes:
    fields = b""
    if log.trace_id:
        fields = b"\x4a\x10" + log.trace_id.to_bytes(16, "big")
    if log.span_id:
        fields += b"\x52\x08" + log.span_id.to_bytes(8, "big")
    if log.trace_flags:
        fields += _pack_flags(b"\x45", log.trace_flags)
    return fields


_pack_time = struct.Struct("<cQ").pack
_pack_flags = struct.Struct("<cI").pack


def _severity(number: int) -> bytes:
    if not -(2**31) <= number < 2**31:
        raise OverflowError("not an int32")
    return b"\x10" + wire.signed_varint(number)


_SEVERITIES = {number: _severity(number) for number in range(1, 25)}


def _dropped(dropped: int) -> bytes:
    if not 0 <= dropped < 2**32:
        raise OverflowError("not a uint32")
    return b"\x38" + wire.varint(dropped)


def _attributes(tag: bytes, attributes: Mapping[str, Any] | None, room: int) -> bytes:
    return wire.key_values(tag, wire.snapshot(attributes), room) if attributes else b""


_REPAIRED_ENTRY = wire.key_values(_ATTRIBUTES_TAG, [(REPAIRED, True)], _ATTRIBUTE_ROOM)


# --- envelopes --------------------------------------------------------------------

# By the identity of resource and scope, which the entry keeps alive: an id is then not
# given to another object. Both are immutable in the SDK; after a fork it makes new ones.
_envelopes: dict[tuple[int, int], tuple[bytes, bool, object, object]] = {}


def _envelope_of(resource: Any, scope: Any) -> tuple[bytes, bool]:
    known = _envelopes.get((id(resource), id(scope)))
    if known is None:
        known = (*_new_envelope(resource, scope), resource, scope)
        if len(_envelopes) >= ENVELOPES_CACHED_MAX:
            _envelopes.clear()
        _envelopes[id(resource), id(scope)] = known
    return known[0], known[1]


def _new_envelope(resource: Any, scope: Any) -> tuple[bytes, bool]:
    try:
        return join_envelope(_resource_part(resource), _scope_part(scope)), False
    except Exception:  # as in encode_record
        mender = Mender()
        resource = mender.fields(resource, _RESOURCE_ATTRIBUTE_ROOM, "schema_url")
        scope = mender.fields(scope, _ATTRIBUTE_ROOM, "name", "version", "schema_url")
        return join_envelope(_resource_part(resource), _scope_part(scope)), True


def join_envelope(resource_part: bytes, scope_part: bytes) -> bytes:
    return wire.field(b"", resource_part) + wire.field(b"", scope_part)


def _resource_part(resource: Any) -> bytes:
    """Encode the fields ``resource`` and ``schema_url`` of a ResourceLogs."""
    if resource is None:
        return b"\x0a\x00"
    entries = _attributes(b"\x0a", resource.attributes, _RESOURCE_ATTRIBUTE_ROOM)
    return wire.field(b"\x0a", entries) + wire.text_field(b"\x1a", resource.schema_url)


def _scope_part(scope: Any) -> bytes:
    """Encode the fields ``scope`` and ``schema_url`` of a ScopeLogs."""
    if not scope:
        return b"\x0a\x00"
    inside = wire.text_field(b"\x0a", scope.name) + wire.text_field(b"\x12", scope.version)
    inside += _attributes(b"\x1a", scope.attributes, _ATTRIBUTE_ROOM)
    return wire.field(b"\x0a", inside) + wire.text_field(b"\x1a", scope.schema_url)


# For when not even the repair can be done: no memory, or no stack left.
_UNREADABLE = Encoded(
    envelope=join_envelope(_resource_part(None), _scope_part(None)),
    payload=wire.field(b"\x2a", wire.any_value("(unreadable record)", 0)) + _REPAIRED_ENTRY,
    severity=0,
    repaired=True,
)


# --- stamps -----------------------------------------------------------------------


def _entry(key: str, value: object) -> bytes:
    return wire.key_values(_ATTRIBUTES_TAG, [(key, value)], _ATTRIBUTE_ROOM)


def _integer_heads(key: str) -> tuple[bytes, ...]:
    """What precedes the varint of an integer attribute, by the varint's length, 0 to 10."""
    lengths = ((_entry(key, 128**n // 128), n) for n in range(1, 10))
    return (b"", *(entry[:-n] for entry, n in lengths), _entry(key, -1)[:-10])


def _within(number: int, most: int) -> int:
    return number if 0 <= number <= most else min(max(number, 0), most)


_SEQUENCE_HEADS = _integer_heads(SEQUENCE)
# The lowest bits of a varint, where more follow and where they are all.
_SEVEN_BITS = tuple(bytes((n | 128,)) for n in range(128))
_LAST_SEVEN_BITS = tuple(bytes((n,)) for n in range(128))
_ERROR_BOUND_HEADS = _integer_heads(CLOCK_ERROR_BOUND)


class StampTemplate:
    """The stamps of one stream, encoded as far as they are the same for each record.

    Args:
        stream_id: The stream's id.

        epoch: The stream's epoch.
    """

    def __init__(self, stream_id: str, epoch: int) -> None:
        self._stream = _entry(STREAM_ID, stream_id) + _entry(STREAM_EPOCH, epoch)
        # Kept from the last stamp: the uids of one stream are all of one form, of 128
        # sequence numbers in a row only the lowest seven bits differ, and a clock's state
        # seldom changes.
        self._uid_size = -1
        self._head = b""
        self._block = -1
        self._number_head = self._number_tail = b""
        self._lowest = _LAST_SEVEN_BITS
        self._bound_ns: int | None = None
        self._status: str | None = None
        self._state = b""

    def suffix(
        self,
        uid: str,
        sequence: int,
        time_unix_nano: int | None = None,
        error_bound_ns: int | None = None,
        clock_status: str | None = None,
    ) -> bytes:
        """Encode the stamps of one record, to be appended to its payload.

        Args:
            uid: The record's ``log.record.uid``.

            sequence: Its number in the stream.

            time_unix_nano: Its timestamp, which replaces the one in the payload (the
                last of a singular field counts). ``None`` leaves that as it is.

            error_bound_ns: How far the timestamp may be from true time, in nanoseconds.

            clock_status: The state of the clock, where it is not normal.

        Returns:
            Encoded fields of a ``LogRecord``. A time or bound that does not fit is the
            nearest that does: nothing may raise under the append lock.
        """
        try:
            text = uid.encode()
            time = b"" if time_unix_nano is None else _pack_time(b"\x09", time_unix_nano)
        except (UnicodeEncodeError, struct.error):
            text = uid.encode("utf-8", "replace")
            time = b""
            if time_unix_nano is not None:
                time = _pack_time(b"\x09", _within(time_unix_nano, _UINT64_MAX))
        if len(text) != self._uid_size:
            self._begin_form(len(text))
        if sequence >> 7 != self._block:
            self._begin_block(sequence >> 7)
        if error_bound_ns != self._bound_ns or clock_status != self._status:
            self._begin_state(error_bound_ns, clock_status)
        lowest = self._lowest[sequence & 127]
        return b"".join(
            (self._head, text, self._number_head, lowest, self._number_tail, self._state, time)
        )

    def _begin_state(self, error_bound_ns: int | None, clock_status: str | None) -> None:
        state = b""
        if error_bound_ns is not None:
            number = wire.varint(_within(error_bound_ns, _INT64_MAX))
            state = _ERROR_BOUND_HEADS[len(number)] + number
        if clock_status is not None:
            state += _entry(CLOCK_STATUS, clock_status)
        self._state = state
        self._bound_ns, self._status = error_bound_ns, clock_status

    def _begin_form(self, uid_size: int) -> None:
        head = self._stream + _entry(UID, "x" * uid_size)
        self._head, self._uid_size = head[: len(head) - uid_size], uid_size

    def _begin_block(self, block: int) -> None:
        self._number_tail = wire.varint(block) if block else b""
        self._lowest = _SEVEN_BITS if block else _LAST_SEVEN_BITS
        self._number_head = _SEQUENCE_HEADS[1 + len(self._number_tail)]
        self._block = block


def stamp_suffix(
    *,
    uid: str,
    stream_id: str,
    epoch: int,
    sequence: int,
    time_unix_nano: int | None = None,
    error_bound_ns: int | None = None,
    clock_status: str | None = None,
) -> bytes:
    """Encode the stamps of one record. Per stream, a ``StampTemplate`` does it faster."""
    return StampTemplate(stream_id, epoch).suffix(
        uid, sequence, time_unix_nano, error_bound_ns, clock_status
    )
