"""What a reflection was asked to be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from otel_memoir.errors import LockError
from otel_memoir.locks.modes import mode_of

IfBusy = Literal["wait", "skip"]
Keys = str | Iterable[str] | Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The arguments of ``Reflections.reflect``; ``where``: the line of code that called it."""

    name: str
    keys: Mapping[str, str]
    priority: int
    timeout: float | None
    ttl: float | None
    max_hold: float | None
    if_busy: IfBusy
    version_of: Callable[[str], Any] | None
    trigger: str | None
    conversation_id: str | None
    where: tuple[Any, int]


def known(if_busy: str) -> IfBusy:
    """The word, if it is one of those there are; else a ``LockError``."""
    if if_busy in ("wait", "skip"):
        return if_busy  # type: ignore[return-value]
    raise LockError(
        "plan reflection", target=f"if_busy={if_busy!r}", cause="there is no such choice",
        hint='Use "wait" or "skip".',
    )


def modes_of(keys: Keys) -> dict[str, str]:
    """Keys with the names of their modes: ``exclusive`` where none is given.

    Raises:
        LockError: There is no such mode.
    """
    if isinstance(keys, str):
        keys = (keys,)
    found = dict(keys) if isinstance(keys, Mapping) else dict.fromkeys(keys, "exclusive")
    for mode in found.values():
        mode_of(mode)
    return found
