"""Waits for other things than locks, and acting for another unit.

The real deadlocks of agents have an edge that is no lock: a task that is awaited, a thread that
is joined, a pool whose workers all wait for what its next job would let go. Nobody can see
them from outside, so they are declared: by the helpers here, or with ``waiting_for``.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, TypeVar

from opentelemetry.context import attach, detach, get_current

from otel_memoir.errors import DeadlockError
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.mourning import leave
from otel_memoir.locks.parts import ForeignWait, Unit
from otel_memoir.locks.report import Where

T = TypeVar("T")

_UNKNOWN = object()


@contextlib.contextmanager
def waiting(engine: Engine, foreign: ForeignWait) -> Iterator[None]:
    """Declare a wait of the calling unit for a block; an error if it would be for ever."""
    unit = engine.roll.here()
    _begin(engine, unit, foreign)
    try:
        yield
    finally:
        with engine.mutex:
            unit.foreign.remove(foreign)


def _begin(engine: Engine, unit: Unit, foreign: ForeignWait) -> None:
    effects = Effects()
    with engine.mutex:
        engine.clear_up(effects)
        unit.foreign.append(foreign)
        verdict = engine.judge.resolve(unit, effects)
        if verdict is not None:
            unit.foreign.remove(foreign)
            effects.verdicts.append(verdict)
        engine.settle(effects)
    engine.pay(effects)
    if verdict is not None:
        raise DeadlockError(
            verdict.report(), target=foreign.word, cause=f"deadlock: {verdict.report()}"
        )


# -- acting for another --------------------------------------------------------


@contextlib.contextmanager
def acting(engine: Engine, owner: Unit) -> Iterator[Unit]:
    """For a block, what the calling unit takes belongs to ``owner``."""
    unit = engine.roll.here()
    before = unit.owner
    with engine.mutex:
        unit.owner = owner
        if unit not in owner.crew:
            owner.crew = (*owner.crew, unit)
    try:
        yield unit
    finally:
        effects = Effects()
        with engine.mutex:
            unit.owner = before
            if owner is not unit and owner is not before:
                leave(engine, unit, owner, effects)
            engine.settle(effects)
        engine.pay(effects)


def bound(engine: Engine, function: Callable[..., T]) -> Callable[..., T]:
    """A function that acts for the unit that calls this, in whatever thread or task it runs."""
    owner, context = engine.roll.here().owner, get_current()
    if inspect.iscoroutinefunction(function):

        @functools.wraps(function)
        async def run_task(*args: Any, **kwargs: Any) -> Any:
            with acting(engine, owner):
                return await function(*args, **kwargs)

        return run_task  # type: ignore[return-value]

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> T:
        token = attach(context)
        try:
            with acting(engine, owner):
                return function(*args, **kwargs)
        finally:
            detach(token)

    return run


# -- helpers -------------------------------------------------------------------


async def in_executor(
    engine: Engine, executor: Executor | None, function: Callable[..., T], *args: Any,
    where: Where,
) -> T:  # fmt: skip
    """Run a function in an executor for the calling task, and wait for it, declared."""
    loop = asyncio.get_running_loop()
    started: list[Unit] = []
    act = bound(engine, function)

    def job() -> T:
        started.append(engine.roll.here())
        return act(*args)

    def targets() -> list[Any]:
        return started[:1] or _workers(executor)

    future = loop.run_in_executor(executor, job)
    try:
        with waiting(engine, ForeignWait(targets, "executor", where, any=True)):
            return await future
    except DeadlockError:
        future.cancel()
        raise


def _workers(executor: Executor | None) -> list[Any]:
    """The threads one of which has to begin the job; one that nobody knows, if one is free."""
    threads = getattr(executor, "_threads", None)
    if threads is None or len(threads) < getattr(executor, "_max_workers", 0):
        return [_UNKNOWN]
    return list(threads)


def join(engine: Engine, thread: threading.Thread, timeout: float | None, where: Where) -> None:
    """``thread.join``, declared."""
    with waiting(engine, ForeignWait(lambda: [thread], "join", where)):
        thread.join(timeout)
