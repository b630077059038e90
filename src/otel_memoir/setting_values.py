"""Whether a value can be that of a setting, and how it is read from a text."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Mapping
from typing import Any, Literal

from otel_memoir.errors import SettingsError

# What a wait, a LIMIT or a time on disk can be told: above it, C says no at a bad moment.
_MOST = {"s": 1e9, "bytes": 2**50, "": 2**31}

_TRUE = {"1", "true", "yes", "on"}
_FALSE = {"0", "false", "no", "off"}


def parse_value(text: str, name: str, env: str, hint: Any) -> Any:
    """Turn the text of an environment variable into the type of its setting.

    Args:
        text: What the variable says.

        name: The setting.

        env: The variable.

        hint: The type of the setting.

    Raises:
        SettingsError: It is not of that type.
    """
    kinds = _kinds(hint)
    text = text.strip()
    try:
        if bool in kinds:
            return {**dict.fromkeys(_TRUE, True), **dict.fromkeys(_FALSE, False)}[text.lower()]
        if int in kinds:
            return int(text)
        if float in kinds:
            return float(text)
    except (ValueError, KeyError):
        wanted = next(kind.__name__ for kind in kinds if kind in (bool, int, float))
        raise SettingsError(
            "read", target=env, cause=f"{text!r} is not of type {wanted}",
            hint=f"It is the setting {name!r}: see docs/settings.md.",
        ) from None
    return text


def _kinds(hint: Any) -> tuple[Any, ...]:
    """The types a hint allows: the members of a union, or itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def check_value(name: str, value: Any, field: Mapping[str, Any], hint: Any) -> None:
    """Check a value against the row of its setting in the table.

    Raises:
        SettingsError: It cannot be used.
    """
    allowed = [v for kind in _kinds(hint) for v in _choices(kind)]
    if allowed and value is not None and value not in allowed:
        raise SettingsError(
            "use setting", target=name, cause=f"{value!r} is not one of {allowed}",
            hint="Choose one of them.",
        )
    least, most = field["least"], _MOST.get(field["unit"], 0)
    if not allowed and (least is None or hint is int):
        _check_type(name, value, hint)
    if isinstance(value, Mapping):
        _check_texts(name, value)
    if least is None or value is None:
        return
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not least <= value <= most:
        wanted = f"at least {least:g}" if not is_number or not value > most else f"at most {most:g}"
        raise SettingsError(
            "use setting", target=name, cause=f"{value!r} is not a number of {wanted}",
            hint=f"See {name!r} in docs/settings.md.",
        )


def _check_type(name: str, value: Any, hint: Any) -> None:
    kinds = tuple(typing.get_origin(kind) or kind for kind in _kinds(hint))
    if not isinstance(value, (*kinds, os.PathLike) if str in kinds else kinds):
        wanted = " or ".join(kind.__name__ for kind in kinds if kind is not type(None))
        raise SettingsError(
            "use setting", target=name, cause=f"{value!r} is not of type {wanted}",
            hint=f"See {name!r} in docs/settings.md.",
        )


def _check_texts(name: str, value: Mapping[Any, Any]) -> None:
    for key, text in value.items():
        if not isinstance(key, str) or not isinstance(text, str):
            raise SettingsError(
                "use setting", target=name, cause=f"what it says of {key!r} is no text",
                hint="Put it into quotes.",
            )


def _choices(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) is Literal else ()
