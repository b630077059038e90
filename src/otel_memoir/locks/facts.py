"""What is taken down of a deadlock under the mutex, before anything is done about it."""

from __future__ import annotations

from collections.abc import Iterable

from opentelemetry.context import Context

from otel_memoir.locks.graph import HARD, Edge
from otel_memoir.locks.parts import Unit, Wait
from otel_memoir.locks.report import Fact, Verdict


def verdict(
    cycle: list[Edge], resolution: str, victim: Unit | None, reason: str = "deadlock"
) -> Verdict:
    """A verdict on a circle as it is now."""
    return Verdict(
        tuple(_fact(edge.unit, edge.kind) for edge in cycle), resolution,
        victim.id if victim else None, reason, tuple(unit.id for unit in _behind(cycle)),
    )  # fmt: skip


def victim_fact(wait: Wait) -> Fact:
    """What is known here of one whom others judged."""
    return _fact(wait.unit, HARD)


def _fact(unit: Unit, kind: str) -> Fact:
    wait = unit.wait
    asked = wait or (unit.foreign[-1] if unit.foreign else None)
    return Fact(
        unit=unit.id, kind=kind, key=wait.entry.key if wait and wait.entry else "",
        mode=wait.mode if wait else 0, priority=wait.priority if wait else 0,
        timed=wait is not None and wait.deadline_s is not None,
        context=asked.context if asked else _context_of(unit), where=asked.where if asked else None,
        held=tuple(
            (lease.key, lease.mode, lease.token, lease.where) for lease in unit.owner.leases
        ),
    )  # fmt: skip


def _context_of(unit: Unit) -> Context:
    """Where a unit that waits for no lock took the last one: its thread is what stands still."""
    last = max(unit.owner.leases, key=lambda lease: lease.token, default=None)
    return last.context if last is not None else Context()


def _behind(cycle: list[Edge]) -> Iterable[Unit]:
    """Who is not in a circle, but queues where one of it does."""
    inside = {edge.unit for edge in cycle}
    waits = [edge.unit.wait for edge in cycle]
    entries = [wait.entry for wait in waits if wait is not None and wait.entry is not None]
    queued = [wait.unit for entry in entries for wait in entry.queue]
    return dict.fromkeys(unit for unit in queued if unit not in inside)
