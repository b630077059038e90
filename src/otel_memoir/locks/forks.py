"""In a fork child all units but one are missing, and all locks are the parent's."""

from __future__ import annotations

import os
import weakref

from otel_memoir.locks import states
from otel_memoir.locks.engine import Engine

_engines: weakref.WeakSet[Engine] = weakref.WeakSet()


def enrol(engine: Engine) -> None:
    """Have an engine begin anew in fork children."""
    _engines.add(engine)


def begin_anew(engine: Engine) -> None:
    """Forget all units and locks. A lease that a child inherited is lost to it."""
    engine.make_mutex()
    for lease in engine.table.leases():
        lease.state, lease.lost_why = states.LOST, "the process forked: the parent has it"
    engine.forget()


def _after_fork() -> None:
    for engine in list(_engines):
        begin_anew(engine)


os.register_at_fork(after_in_child=_after_fork)
