"""Putting the table right after an exception came from outside in the middle of an operation.

A ``KeyboardInterrupt`` may strike between any two lines, also under the mutex. What is true of
a lock is said by its lease and its wait, each in one word; the counts of a key are derived from
them, and are derived anew here.
"""

from __future__ import annotations

import asyncio

from otel_memoir.errors import LockError
from otel_memoir.locks import queueing
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.parts import Claim, Unit, Wait
from otel_memoir.locks.states import HELD, WAITING

# What the engine itself raises, or has an answer to, leaves the table right.
_EXPECTED = (LockError, asyncio.CancelledError, GeneratorExit)


def recover(engine: Engine, lease: Claim, error: BaseException) -> None:
    """Let go of a lease whose operation ended with an exception."""
    if not isinstance(error, _EXPECTED) and not engine.inside():
        _rebuild(engine, lease)
    engine.release(lease, None)


def _rebuild(engine: Engine, lease: Claim) -> None:
    effects = Effects()
    with engine.mutex:
        if lease.state is HELD and lease.owner is not None:
            lease.owner.leases.add(lease)
        entries = list(engine.table.entries.values())
        units = {owner for entry in entries for owner in entry.holders} | set(engine.roll.living())
        units |= {unit.owner for unit in units}
        for entry in entries:
            entry.holders.clear()
            entry.total = 0
            entry.queue[:] = [
                wait for wait in entry.queue if wait.state is WAITING and wait.entry is entry
            ]
        for unit in units:
            _count_again(engine, unit)
        effects.dirty += [entry for entry in entries if entry.queue]
        engine.settle(effects)
    engine.pay(effects)


def _count_again(engine: Engine, unit: Unit) -> None:
    for lease in [one for one in unit.leases if one.state is not HELD]:
        unit.leases.discard(lease)
    for lease in unit.leases:
        for entry, mode in lease.steps:
            queueing.add(unit, entry, mode)
    while unit.wait is not None and unit.wait.state is not WAITING:
        unit.wait = unit.wait.outer
    wait = unit.wait
    while wait is not None:
        if wait.state is WAITING:
            _queue_again(engine, wait)
        wait = wait.outer


def _queue_again(engine: Engine, wait: Wait) -> None:
    for entry, mode in wait.steps[: wait.index]:
        queueing.add(wait.owner, entry, mode)
    entry, wait.mode = wait.steps[wait.index]
    if wait not in entry.queue:
        queueing.enqueue(wait, entry, engine.aging_ns)
