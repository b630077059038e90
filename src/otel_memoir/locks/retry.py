"""Doing a whole locked block again after a deadlock, as old as it was.

A unit that begins again keeps its age and the count of its refusals, so it becomes older
than those who come, and is not the victim for ever. Before it begins again it waits, with
nothing in hand, until what it was refused is free: it does not spin.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from otel_memoir.errors import DeadlockError
from otel_memoir.locks import parking
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.modes import NAMES
from otel_memoir.locks.parts import Claim, Unit
from otel_memoir.locks.report import Where

T = TypeVar("T")


def again(
    engine: Engine, function: Callable[..., T], args: tuple[Any, ...], kwargs: dict[str, Any],
    attempts: int | None, where: Where,
) -> T:  # fmt: skip
    """Call until no deadlock ends it. See ``LockManager.run``."""
    owner = engine.roll.here().owner
    with _aged(engine, owner) as may_retry:
        for attempt in _numbers():
            try:
                return function(*args, **kwargs)
            except DeadlockError as error:
                if not may_retry or owner.leases or attempt == attempts:
                    raise
                refused = error
            wanted = _refused(refused, where)
            if wanted is not None:
                parking.acquire(engine, wanted, engine.roll.here())
                engine.release(wanted, None)
    raise AssertionError("unreachable")


async def again_async(
    engine: Engine, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
    attempts: int | None, where: Where,
) -> Any:  # fmt: skip
    """As ``again``, for an ``async def``."""
    owner = engine.roll.here().owner
    with _aged(engine, owner) as may_retry:
        for attempt in _numbers():
            try:
                return await function(*args, **kwargs)
            except DeadlockError as error:
                if not may_retry or owner.leases or attempt == attempts:
                    raise
                refused = error
            wanted = _refused(refused, where)
            if wanted is not None:
                await parking.acquire_async(engine, wanted, engine.roll.here(), owner)
                engine.release(wanted, None)
    raise AssertionError("unreachable")


def _numbers() -> Iterator[int]:
    number = 1
    while True:
        yield number
        number += 1


@contextlib.contextmanager
def _aged(engine: Engine, owner: Unit) -> Iterator[bool]:
    """Give an owner its age for a block; yields whether it may begin again.

    It may not inside another such block, or with locks in hand: those would be kept while it
    waits, so it is for whoever took them to begin again.
    """
    outermost = owner.ticket is None and not owner.leases
    if not outermost:
        yield False
        return
    owner.ticket = engine.fence
    try:
        yield True
    finally:
        owner.ticket, owner.refusals = None, 0


def _refused(error: DeadlockError, where: Where) -> Claim | None:
    victim = error.report.victim
    if victim is None or not victim.key:
        return None
    return Claim(victim.key, NAMES.index(victim.mode), None, victim.priority, where)
