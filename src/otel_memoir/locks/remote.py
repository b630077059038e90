"""What a distributed engine needs of this one; there is none yet.

It learns of waits by ``on_block`` and ``on_unblock``, with unit ids that are stable; it can set
the state word of a wait to *victim* from outside; and its reports may name units that are not
of this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from otel_memoir.locks import states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.facts import victim_fact
from otel_memoir.locks.report import DeadlockReport, Verdict


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """What an engine can do.

    Attributes:
        modes: Names of the modes that it has.

        fifo: Whether who asks first is served first.

        detects: Whether it finds deadlocks itself.
    """

    modes: frozenset[str]
    fifo: bool
    detects: bool


class RemoteSession(Protocol):
    """What one unit does at a remote engine. A fence is an integer that grows with each grant."""

    def acquire(self, key: str, mode: str, timeout: float | None) -> int:
        """Take a lock; return its fence."""
        ...

    def upgrade(self, key: str, mode: str, timeout: float | None) -> int:
        """Take more of it; return the new fence."""
        ...

    def release(self, key: str) -> None:
        """Let go."""
        ...

    def publish_wait(self, holder: str | None) -> None:
        """Say for which local unit this one waits now; None: for none."""
        ...

    def cancel(self) -> None:
        """End a wait of this session, from any thread."""
        ...


LOCAL = Capabilities(
    modes=frozenset(("shared", "update", "exclusive")), fifo=True, detects=True
)


def make_victim(engine: Engine, unit: str, report: DeadlockReport) -> bool:
    """Refuse the wait of a unit because of a circle that was found elsewhere."""
    effects = Effects()
    with engine.mutex:
        wait = next((one for one in engine.table.waits() if one.unit.id == unit), None)
        if wait is None:
            return False
        verdict = Verdict.of(report, victim_fact(wait))
        wait.verdict = verdict
        engine.judge.count(wait.owner)
        engine.fail(wait, states.VICTIM, None, effects)
        effects.verdicts.append(verdict)
        engine.settle(effects)
    engine.pay(effects)
    return True
