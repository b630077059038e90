"""What becomes of that which cannot be encoded: a copy that can.

Promises: a copied record holds plain values only, nested no deeper and together no
larger than a parser takes. What fits is kept as it was; what does not is replaced, in
its place, by words that a reader understands: lone surrogates by their escapes, big
integers by their digits, unknown objects by what they say of themselves, and what is
nested too deep, contains itself, or is too large by a remark in brackets.

Almost every ``except`` here takes any exception: the application's own methods are
called (``__str__``, ``items``, a proxy's ``__class__``), and they may raise anything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from types import SimpleNamespace
from typing import Any

from otel_memoir.delivery import wire

UNREADABLE = "memoir.unreadable"
DESCRIPTION_LENGTH_MAX = 4096
CUT_DEPTH = "(cut: nested too deep)"
CUT_CYCLE = "(cut: contains itself)"
CUT_SIZE = "(cut: too large)"

# What one value costs besides its text: more than its tags and lengths ever take, so
# that what the budget allows is always below ``wire.VALUE_BYTES_MAX`` when encoded.
_VALUE_COST_BYTES = 64


class Mender:
    """Copies the parts of one record into what the strict encoder takes."""

    def __init__(self) -> None:
        self._bytes_left = wire.VALUE_BYTES_MAX // 2
        self._ancestors: set[int] = set()

    def log_record(self, log: Any, body_room: int, attribute_room: int) -> SimpleNamespace:
        """Copy a log record. A time that does not fit becomes the nearest that does.

        Args:
            log: The SDK's ``LogRecord``, or anything.

            body_room: How many levels of messages may be nested in the body.

            attribute_room: How many may be nested in the value of an attribute.

        Returns:
            An object with the fields of a ``LogRecord``; ``severity_number`` is an int.
        """
        return SimpleNamespace(
            timestamp=clamped(read(log, "timestamp"), bits=64),
            observed_timestamp=clamped(read(log, "observed_timestamp"), bits=64),
            trace_id=_fitting(read(log, "trace_id"), bits=128),
            span_id=_fitting(read(log, "span_id"), bits=64),
            trace_flags=clamped(read(log, "trace_flags"), bits=32),
            severity_number=clamped(read(read(log, "severity_number"), "value"), bits=31) or 0,
            severity_text=self._text_or_none(read(log, "severity_text")),
            event_name=self._text_or_none(read(log, "event_name")),
            body=self._value(read(log, "body"), body_room),
            attributes=self._attributes(read(log, "attributes"), attribute_room),
        )

    def fields(self, thing: Any, attribute_room: int, *texts: str) -> SimpleNamespace:
        """Copy the attributes and the named texts of a resource or a scope."""
        copy = {name: self._text_or_none(read(thing, name)) for name in texts}
        attributes = self._attributes(read(thing, "attributes"), attribute_room)
        return SimpleNamespace(attributes=attributes, **copy)

    def _attributes(self, attributes: Any, room: int) -> Mapping[str, Any]:
        try:
            pairs = wire.snapshot(attributes) if attributes else ()
            return self._mapping(pairs, room)
        except Exception:  # see the head of this module
            return {UNREADABLE: describe(attributes)}

    def _text_or_none(self, text: Any) -> str | None:
        return None if text is None else self._text(text)

    def _value(self, value: Any, room: int) -> Any:
        self._bytes_left -= _VALUE_COST_BYTES
        if self._bytes_left < 0:
            return CUT_SIZE
        try:
            if isinstance(value, (str, bytes, int)):
                return self._scalar(value)
            if isinstance(value, (Mapping, Sequence, Set)):
                return self._container(value, room)
            return value if value is None or isinstance(value, float) else self._text(value)
        except Exception:  # see the head of this module
            return describe(value)

    def _scalar(self, value: str | bytes | int) -> str | bytes | int:
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, bytes):
            exact = memoryview(value).tobytes()
            return exact if self._affords(len(exact)) else CUT_SIZE
        if isinstance(value, bool):
            return value
        number = int.__int__(value)
        return number if -(2**63) <= number < 2**63 else self._text(number)

    def _container(self, value: Mapping[Any, Any] | Iterable[Any], room: int) -> Any:
        """Copy what holds other values. A mapping takes three levels, a list two."""
        if room < 3:
            return CUT_DEPTH
        if id(value) in self._ancestors:
            return CUT_CYCLE
        self._ancestors.add(id(value))
        try:
            if isinstance(value, Mapping):
                return self._mapping(wire.snapshot(value), room - 3)
            return self._list(value, room - 2)
        finally:
            self._ancestors.discard(id(value))

    def _list(self, items: Iterable[Any], room: int) -> list[Any]:
        copies: list[Any] = []
        for item in items:
            copies.append(self._value(item, room))
            if self._bytes_left < 0:
                break
        return copies

    def _mapping(self, pairs: Iterable[tuple[Any, Any]], room: int) -> dict[str, Any]:
        copies: dict[str, Any] = {}
        for key, value in pairs:
            name = self._text(key)
            if name in copies:  # 1 and "1", say
                name = f"{name} ({len(copies)})"
            copies[name] = self._value(value, room)
            if self._bytes_left < 0:
                break
        return copies

    def _text(self, value: Any) -> str:
        # Not isinstance, which asks a proxy what it stands for: str's own methods refuse it.
        text = _clean(value) if issubclass(type(value), str) else describe(value)
        return text if self._affords(len(text.encode())) else CUT_SIZE

    def _affords(self, size: int) -> bool:
        self._bytes_left -= size
        return self._bytes_left >= 0


def read(thing: Any, name: str) -> Any:
    """Read an attribute; ``None`` if it is not there or cannot be read."""
    try:
        return getattr(thing, name, None)
    except Exception:  # see the head of this module
        return None


def clamped(number: Any, *, bits: int) -> int | None:
    """The unsigned integer of this many bits that is nearest; ``None`` for no number."""
    try:
        return None if number is None else min(max(int(number), 0), 2**bits - 1)
    except Exception:  # see the head of this module
        return None


def _fitting(number: Any, *, bits: int) -> int:
    """The number if it fits, else 0: the id of another trace would be a lie."""
    fits = issubclass(type(number), int) and 0 <= int.__int__(number) < 2**bits
    return int.__int__(number) if fits else 0


_describing = threading.local()


def describe(value: object) -> str:
    """Say in words what a value is, in about ``DESCRIPTION_LENGTH_MAX`` characters at most.

    Its own ``__str__``, or else its ``__repr__``, is asked. Either may log, and the log
    may come back into this function on the same thread with the same value, and so on
    without end: a value met while another is being described is described by its type.
    """
    kind = type(value).__name__
    if getattr(_describing, "active", False):
        return f"<{kind}>"
    _describing.active = True
    try:
        return _told(str, value) or _told(repr, value) or f"<{kind} that cannot be described>"
    finally:
        _describing.active = False


def _told(tell: Callable[[object], str], value: Any) -> str:
    try:
        # Python refuses to write an int of more than 4300 digits in decimal
        # (sys.set_int_max_str_digits, CVE-2020-10735), and does so in hexadecimal.
        huge = issubclass(type(value), int) and int.bit_length(value) > 4096
        text = f"{value:#x}" if huge else tell(value)
        cut = text[: DESCRIPTION_LENGTH_MAX + 1]
        return _clean(cut if len(cut) <= DESCRIPTION_LENGTH_MAX else cut[:-1] + "…")
    except Exception:  # see the head of this module
        return ""


def _clean(text: str) -> str:
    return str.encode(text, "utf-8", "backslashreplace").decode()
