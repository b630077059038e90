"""What is said of a kind of event: the type of the entries in ``tables``."""

from __future__ import annotations

from typing import NamedTuple

Sentence = tuple["str | tuple[str, ...]", ...]


class Kind(NamedTuple):
    """One kind of event.

    Attributes:
        severity: Its severity number, 1 to 24.

        sentence: The parts of its body. See ``sentence``.

        attributes: Attributes that it may carry besides those of every event.

        required: Attributes without which it says nothing.

        either: Of these it has at least one.

        operation: The operation on memory, unless the event says another.

        scope: Name of its instrumentation scope.

        content: Whether it may carry content, where content is captured.

        severity_by: An attribute, and the severity numbers by its value.
    """

    severity: int
    sentence: Sentence
    attributes: frozenset[str] = frozenset()
    required: tuple[str, ...] = ()
    either: tuple[str, ...] = ()
    operation: str | None = None
    scope: str = "otel_memoir"
    content: bool = False
    severity_by: tuple[str, tuple[tuple[str, int], ...]] | None = None
