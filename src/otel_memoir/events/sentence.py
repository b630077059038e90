"""The body of an event: one line for people."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from otel_memoir.events.kind import Sentence

BODY_LENGTH_MAX = 300
WORD_LENGTH_MAX = 80

# What may follow on any event, in the form of a kind's own parts, unless those said it.
_TAIL: Sentence = (
    " in store {gen_ai.memory.store.id}",
    ", version {memoir.record.version}",
    (
        ", by {memoir.actor.type} {gen_ai.agent.name}",
        ", by {memoir.actor.type} {gen_ai.agent.id}",
        ", by {memoir.actor.type}",
        ", by agent {gen_ai.agent.name}",
        ", by agent {gen_ai.agent.id}",
    ),
    ", outcome {memoir.outcome}",
    ": {memoir.reason}",
)

_CONDITION = re.compile(r"\[([^]]+)\]")
_PLACE = re.compile(r"\{([^}]+)\}")


def sentence(parts: Sentence, attributes: Mapping[str, Any]) -> str:
    """Say an event in one line.

    Args:
        parts: The parts of its kind. In braces stands the attribute to put there; a
            part is left out where one is missing, or where the attribute in brackets
            at its head is missing or false; of a tuple the first that fits is taken.

        attributes: What the event says. Content is not asked for.

    Returns:
        At most ``BODY_LENGTH_MAX`` printable characters, without line breaks.
    """
    text = "".join(_part(part, attributes) for part in _with_tail(parts))
    return shortened(text, BODY_LENGTH_MAX)


@cache
def _with_tail(parts: Sentence) -> Sentence:
    said = set(_PLACE.findall(str(parts)))
    return (*parts, *(part for part in _TAIL if not said & set(_PLACE.findall(str(part)))))


def shortened(text: str, length_max: int) -> str:
    """The text, or its beginning and an ellipsis."""
    return text if len(text) <= length_max else text[: length_max - 1] + "…"


def _part(part: str | tuple[str, ...], attributes: Mapping[str, Any]) -> str:
    if isinstance(part, tuple):
        return next((said for one in part if (said := _part(one, attributes))), "")
    condition, text, places = _parsed(part)
    if condition and not attributes.get(condition):
        return ""
    values = [attributes.get(name) for name in places]
    return "" if None in values else text.format(*map(_word, values))


@cache
def _parsed(part: str) -> tuple[str, str, tuple[str, ...]]:
    """The condition of a part, its text with {} for each place, and what stands there."""
    condition = _CONDITION.match(part)
    text = part[condition.end():] if condition else part
    return condition[1] if condition else "", _PLACE.sub("{}", text), tuple(_PLACE.findall(text))


def _word(value: Any) -> str:
    text = ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
    return shortened(printable(text[: WORD_LENGTH_MAX + 1]), WORD_LENGTH_MAX)


def printable(text: str) -> str:
    """The text with escapes for all that moves a cursor, breaks a line or turns text around.

    ``isprintable`` is false for control and format characters (line breaks, ANSI escapes,
    the bidirectional marks of CVE-2021-42574) and for separators other than the space.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
