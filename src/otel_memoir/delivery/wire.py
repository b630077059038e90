"""Protobuf's wire form, as far as OTLP logs need it: varints, fields, AnyValue.

The functions here are strict: they take what the official Python encoder takes
and raise on the rest, with whatever Python raises. ``encoding`` turns that into a
repaired record. They are written for speed, since each emit pays for them: a table
by exact type before ``isinstance``, tables for short lengths, and cached keys.

Sources: protobuf's encoding guide (wire types 0, 1, 2 and 5); OTLP's ``common.proto``
(AnyValue, KeyValue). Fields may come in any order, and of a singular field that is
there twice the last one counts ("Last One Wins").
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from opentelemetry.attributes import BoundedAttributes

# protobuf's C++, Java, Python and C parsers refuse a message whose submessages are
# nested deeper than 100 (upb's kUpb_DecodeOption default, CodedInputStream). A deeper
# record would be refused with all others of its request.
NESTING_MAX = 100

# OTLP 1.x, "Message Size": a client must not send a larger request. It also bounds the
# work on a small value that refers to the same list again and again.
VALUE_BYTES_MAX = 64 * 2**20

# Only for sequences and mappings that are computed: one of those need not end.
COMPUTED_ITEMS_MAX = 2**20

SNAPSHOT_TRIES = 8
KEYS_CACHED_MAX = 4096
KEY_LENGTH_CACHED_MAX = 256

_TABLE_SIZE = 2048
VARINTS = tuple(
    bytes((n,)) if n < 128 else bytes((n & 127 | 128, n >> 7)) for n in range(_TABLE_SIZE)
)


def varint(number: int) -> bytes:
    """Encode a number of 0 or more, seven bits a byte, the lowest first."""
    if number < _TABLE_SIZE:
        return VARINTS[number]
    if number < 1 << 21:
        if number < 1 << 14:
            return bytes((number & 127 | 128, number >> 7))
        return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14))
    return bytes((number & 127 | 128, number >> 7 & 127 | 128, number >> 14 & 127 | 128)) + varint(
        number >> 21
    )


def signed_varint(number: int) -> bytes:
    """Encode an int64 as protobuf does: a negative one as its two's complement.

    Raises:
        OverflowError: The number is not an int64.
    """
    if not -(2**63) <= number < 2**63:
        raise OverflowError("not an int64")
    return varint(number & (2**64 - 1))


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Decode the varint at a position; return it and the position after it.

    Raises:
        IndexError: The bytes end inside the varint.
    """
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        if byte < 128:
            return number, position
        shift += 7


def field(tag: bytes, body: bytes) -> bytes:
    """Encode a field of wire type 2: a string, bytes, or a message."""
    size = len(body)
    return tag + (VARINTS[size] if size < _TABLE_SIZE else varint(size)) + body


def text_field(tag: bytes, text: str | None) -> bytes:
    """Encode a string field; absent if there is no text.

    Raises:
        TypeError: It is no string.
        UnicodeEncodeError: It holds a lone surrogate.
    """
    if not text:
        return b""
    data = str.encode(text)
    size = len(data)
    return tag + (VARINTS[size] if size < _TABLE_SIZE else varint(size)) + data


def any_value(value: Any, room: int) -> bytes:
    """Encode the inside of an ``AnyValue``, as the official encoder would.

    Args:
        value: What to encode.

        room: How many levels of messages may still be nested in it.

    Raises:
        Exception: Of any kind. The official encoder, or a parser of its bytes, could
            not take the value either, or the value's own methods raised.
    """
    encoder = _ENCODERS.get(type(value))
    return encoder(value, room) if encoder else _by_inheritance(value, room)


def key_values(tag: bytes, items: Iterable[tuple[Any, Any]], room: int) -> bytes:
    """Encode key-value pairs as a repeated field.

    Args:
        tag: The tag byte of the field.

        items: The pairs. Every key is a string.

        room: How many levels of messages may still be nested in each value.

    Raises:
        Exception: As ``any_value``, or a key is no string.
    """
    parts: list[bytes] = []
    for key, value in items:
        head = _key_heads.get(key) or _key_head(key)
        if type(value) is str:
            text = value.encode()
            size = len(text)
            inner = _STRING_HEADS[size] if size < _TABLE_SIZE else _string_head(size)
            size += len(head) + len(inner)
            outer = VARINTS[size] if size < _TABLE_SIZE else varint(size)
            parts += (tag, outer, head, inner, text)
        else:
            encoder = _ENCODERS.get(type(value), _by_inheritance)
            text = encoder(value, room)
            size = len(text)
            inner = VARINTS[size] if size < _TABLE_SIZE else varint(size)
            size += len(head) + 1 + len(inner)
            outer = VARINTS[size] if size < _TABLE_SIZE else varint(size)
            parts += (tag, outer, head, b"\x12", inner, text)
    return b"".join(parts)


def snapshot(attributes: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    """Copy the pairs of a mapping that another thread may be changing.

    The two usual types copy themselves in one step that no other thread can enter.

    Raises:
        Exception: The mapping changed during each try, or its own methods raised.
    """
    for _ in range(SNAPSHOT_TRIES - 1):
        try:
            return _pairs_of(attributes)
        except (RuntimeError, KeyError):
            continue
    return _pairs_of(attributes)


def _pairs_of(attributes: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    if type(attributes) is BoundedAttributes or type(attributes) is dict:
        return attributes.copy().items()
    return _finite(attributes.items())


def _finite(items: Iterable[Any]) -> list[Any]:
    taken = list(islice(items, COMPUTED_ITEMS_MAX + 1))
    if len(taken) > COMPUTED_ITEMS_MAX:
        raise ValueError("too many items")
    return taken


_key_heads: dict[str, bytes] = {}


def _key_head(key: Any) -> bytes:
    """Encode the ``key`` field of a KeyValue, and remember it."""
    head = field(b"\x0a", str.encode(key))
    if type(key) is str and len(key) <= KEY_LENGTH_CACHED_MAX:
        if len(_key_heads) >= KEYS_CACHED_MAX:
            _key_heads.clear()
        _key_heads[key] = head
    return head


def _string_head(size: int) -> bytes:
    """What stands between a KeyValue's key and a string value of this many bytes."""
    inner = b"\x0a" + varint(size)
    return b"\x12" + varint(len(inner) + size) + inner


_STRING_HEADS = tuple(map(_string_head, range(_TABLE_SIZE)))

_pack_double = struct.Struct("<cd").pack


def _none(value: None, room: int) -> bytes:
    return b""


def _bool(value: bool, room: int) -> bytes:
    return b"\x10\x01" if value else b"\x10\x00"


def _text(value: str, room: int) -> bytes:
    data = str.encode(value)
    size = len(data)
    return b"\x0a" + (VARINTS[size] if size < _TABLE_SIZE else varint(size)) + data


def _integer(value: int, room: int) -> bytes:
    if 0 <= value < _TABLE_SIZE:
        return b"\x18" + VARINTS[value]
    return b"\x18" + signed_varint(value)


def _double(value: float, room: int) -> bytes:
    return _pack_double(b"\x21", value)


def _bytes(value: bytes, room: int) -> bytes:
    return b"\x3a" + varint(len(value)) + value


def _array(value: Sequence[Any], room: int) -> bytes:
    # An ArrayValue is one level, the AnyValues in it another.
    room -= 2 if value else 1
    _check_room(room)
    parts: list[bytes] = []
    for item in value:
        data = any_value(item, room)
        parts += (b"\x0a", varint(len(data)), data)
    return _bounded(b"\x2a", b"".join(parts))


def _mapping(value: Mapping[Any, Any], room: int) -> bytes:
    # A KeyValueList is one level, the KeyValues in it another, their AnyValues a third.
    room -= 3 if value else 1
    _check_room(room)
    items = ((key if type(key) is str else str(key), item) for key, item in snapshot(value))
    return _bounded(b"\x32", key_values(b"\x0a", items, room))


def _check_room(room: int) -> None:
    if room < 0:
        raise ValueError("nested too deep")


def _bounded(tag: bytes, body: bytes) -> bytes:
    if len(body) > VALUE_BYTES_MAX:
        raise ValueError("too large")
    return field(tag, body)


def _by_inheritance(value: Any, room: int) -> bytes:
    """Encode a value of a derived or abstract type, asking in the official order.

    The unbound methods read what the base type holds, whatever the derived type
    overrides; protobuf's own setters do the same.
    """
    if isinstance(value, str):
        return _text(value, room)
    if isinstance(value, int):
        return _integer(int.__int__(value), room)
    if isinstance(value, float):
        return _double(value, room)
    if isinstance(value, bytes):
        return _bytes(memoryview(value).tobytes(), room)
    if isinstance(value, Sequence):
        return _array(_finite(value), room)
    if isinstance(value, Mapping):
        return _mapping(value, room)
    raise TypeError("no OTLP value")


_ENCODERS: dict[type, Callable[[Any, int], bytes]] = {
    type(None): _none,
    bool: _bool,
    str: _text,
    int: _integer,
    float: _double,
    bytes: _bytes,
    list: _array,
    tuple: _array,
    dict: _mapping,
}
