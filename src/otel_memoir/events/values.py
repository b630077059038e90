"""Values of attributes: what OTLP can hold, made immutable."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from otel_memoir.events.names import ATTRIBUTES_BY_TYPE

# Nesting at which a request would be deeper than the 100 levels that protobuf's parsers
# take: a mapping needs three of them, and five stand above the value of an attribute.
DEPTH_MAX = 30

TYPES = {key: name for name, keys in ATTRIBUTES_BY_TYPE.items() for key in keys}


class FrozenMap(Mapping[str, Any]):
    """A mapping that cannot be changed; equal to any mapping with the same items."""

    __slots__ = ("_items",)

    def __init__(self, items: Mapping[str, Any]) -> None:
        self._items = dict(items)

    def __getitem__(self, key: str) -> Any:
        return self._items[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __hash__(self) -> int:
        return hash(frozenset(self._items.items()))

    def __repr__(self) -> str:
        return repr(self._items)

    def __reduce__(self) -> tuple[Any, ...]:
        return FrozenMap, (self._items,)


EMPTY = FrozenMap({})


def freeze(value: Any, depth: int = DEPTH_MAX) -> Any:
    """An immutable copy of a value that OTLP can hold.

    Returns:
        ``None``, a bool, str, int, float, bytes, tuple or ``FrozenMap``, of exactly that
        type. Lone surrogates, which UTF-8 cannot hold, become their escapes.

    Raises:
        ValueError: OTLP cannot hold it; says why, to be put behind the name.
    """
    if value is None or isinstance(value, bool):
        return value
    for kind, convert in _SCALARS:
        if isinstance(value, kind):
            return convert(value)
    if depth <= 0:
        raise ValueError(f"is nested deeper than {DEPTH_MAX} levels, or contains itself")
    if isinstance(value, Mapping):
        return FrozenMap({_key(k): freeze(v, depth - 1) for k, v in value.items()})
    if isinstance(value, Sequence) and not isinstance(value, (bytearray, memoryview)):
        return tuple([freeze(item, depth - 1) for item in value])
    raise ValueError(
        f"is a {type(value).__name__}; OTLP has text, numbers, booleans, bytes, lists and mappings"
    )


def thaw(value: Any) -> Any:
    """A copy in plain lists and dictionaries, as other libraries expect them."""
    if isinstance(value, Mapping):
        return {key: thaw(item) for key, item in value.items()}
    return [thaw(item) for item in value] if isinstance(value, tuple) else value


def typed(name: str, value: Any) -> Any:
    """A frozen value, in the type with which its attribute is declared.

    Raises:
        ValueError: It has another type; says which, to be put behind the name.
    """
    expected = TYPES.get(name, "any")
    if value is None or expected == "any":
        return value
    if expected.endswith("[]"):
        if not isinstance(value, tuple):
            raise ValueError(f"is {type(value).__name__}, but has to be a list ({expected})")
        return tuple([_scalar(item, expected[:-2], "holds ") for item in value])
    return _scalar(value, expected, "is ")


def _scalar(value: Any, expected: str, verb: str) -> Any:
    if expected == "double" and type(value) is int:
        return float(value)
    if type(value) is not _PYTHON[expected]:
        # Not the value: it may be content, and errors are logged.
        raise ValueError(f"{verb}{type(value).__name__}, but has to be {_NAMED[expected]}")
    return value


def _text(value: str) -> str:
    return str.encode(value, "utf-8", "backslashreplace").decode()


def _integer(value: int) -> int:
    if not -(2**63) <= value < 2**63:
        raise ValueError("is an integer of more than 64 bits; give it as text")
    return int.__int__(value)


def _key(key: Any) -> str:
    if not isinstance(key, str):
        raise ValueError(f"has a key that is {type(key).__name__} and no text")
    return _text(key)


_SCALARS: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, _text), (int, _integer), (float, float), (bytes, bytes),
)
_PYTHON = {"string": str, "int": int, "double": float, "boolean": bool}
_NAMED = {"string": "text", "int": "an integer", "double": "a number", "boolean": "True or False"}
