"""The wait-for graph, read from the table: who waits for whom, and whether in a circle.

An edge is *hard* (a holder is in the way), *soft* (one who is ahead in the queue is),
*foreign* (declared: join, await, executor) or that of a blocked thread: every other unit that
lives in it stands still.

A requirement is a group of units of which one is enough: a lock is let go by any unit of its
owner's crew, a job is begun by any worker of its pool. Where all groups have one member,
which is nearly always, a circle is a deadlock. Where one has more, it is a deadlock only if
all members are stuck (a *knot*), and that is computed.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import repeat, takewhile
from typing import NamedTuple

from otel_memoir.locks import states
from otel_memoir.locks.modes import BIT, CONFLICT_BITS, CONFLICT_FIELDS
from otel_memoir.locks.parts import Claim, Unit, Wait
from otel_memoir.locks.roll import Roll

CHAIN_MAX = 1000

HARD, SOFT, LOOP = "lock", "queue", "event loop"


class Edge(NamedTuple):
    """``unit`` cannot go on before ``target`` does.

    Attributes:
        kind: ``lock``, ``queue``, ``event loop``, or the word of a declared wait.

        ahead: The wait that is ahead, for ``queue``.

        alone: Whether nobody but ``target`` would do.
    """

    unit: Unit
    kind: str
    target: Unit
    ahead: Wait | None = None
    alone: bool = True


class Graph:
    """The graph of one manager. Used under its mutex.

    Args:
        roll: Who is alive.

        blocked: By thread, the unit whose synchronous wait blocks it.
    """

    def __init__(self, roll: Roll, blocked: dict[int, Unit]) -> None:
        self._roll, self._blocked = roll, blocked

    def edges(self, unit: Unit) -> list[Edge]:
        """All edges out of a unit."""
        found: list[Edge] = []
        wait = unit.wait
        if wait is not None and wait.entry is not None:
            self._lock_edges(wait, found)
        if unit.foreign:
            self._foreign_edges(unit, found)
        blocker = self._blocked.get(unit.thread_ident)
        if blocker is not None and blocker is not unit:
            found.append(Edge(unit, LOOP, blocker))
        return found

    @staticmethod
    def _lock_edges(wait: Wait, found: list[Edge]) -> None:
        entry, me = wait.entry, wait.owner
        assert entry is not None
        fields = CONFLICT_FIELDS[wait.mode]
        holders = entry.holders
        for owner, counts in holders.items():
            if counts & fields and owner is not me:
                crew = owner.crew
                alone = len(crew) == 1
                for member in crew:
                    found.append(Edge(wait.unit, HARD, member, None, alone))
        if me in holders:
            return
        bits = CONFLICT_BITS[wait.mode]
        for ahead in entry.queue:
            if ahead is wait:
                break
            if bits & BIT[ahead.mode] and ahead.owner is not me:
                found.append(Edge(wait.unit, SOFT, ahead.unit, ahead))

    def _foreign_edges(self, unit: Unit, found: list[Edge]) -> None:
        for foreign in unit.foreign:
            targets = [self._roll.find(target) for target in foreign.targets()]
            known = [target for target in targets if target is not None]
            if foreign.any and len(known) < len(targets):
                continue  # somebody whom we do not know may do it
            alone = not foreign.any or len(known) == 1
            found += [Edge(unit, foreign.word, target, None, alone) for target in known]

    def cycle(self, start: Unit) -> list[Edge] | None:
        """The deadlock that ``start`` is in, as its edges in order; None if there is none."""
        if self._chain_ends(start):
            return None
        found = self._path_back(start)
        if found is None or all(edge.alone for edge in found):
            return found
        stuck = self.stuck(start)
        if start not in stuck:
            return None
        return self._path_back(start, stuck) or found

    def _chain_ends(self, start: Unit) -> bool:
        """Whether a walk of single edges, which most are, ends at a unit that can go on.

        False decides nothing. It is several times as fast as the search, and nearly always
        enough; each line of it is run for each edge.
        """
        blocked, unit = self._blocked, start
        try:
            for _ in repeat(None, CHAIN_MAX):
                wait = unit.wait
                if wait is None:
                    return not unit.foreign and unit.thread_ident not in blocked
                entry = wait.entry
                if (
                    entry is None or unit.foreign
                    or not (wait.sync or unit.thread_ident not in blocked)
                    or (entry.queue[0] is not wait and not self._only_queue(entry.queue, wait))
                ):  # fmt: skip
                    return False
                (owner,) = entry.holders
                (unit,) = owner.crew
        except ValueError:  # not one, but several who hold it, or who act for its owner
            return False
        return False

    def _only_queue(self, queue: list[Wait], wait: Wait) -> bool:
        """Whether those ahead wait for nothing but this key: then they wait as ``wait`` does."""
        for ahead in queue:
            if ahead is wait:
                return True
            unit = ahead.unit
            if unit.foreign or self._blocked.get(unit.thread_ident, unit) is not unit:
                return False
        return False

    def _path_back(self, start: Unit, within: set[Unit] | None = None) -> list[Edge] | None:
        # The visited set ends walks into circles that do not contain ``start``.
        seen = {start}
        trail: list[Edge] = []
        stack = [iter(self.edges(start))]
        while stack:
            for edge in stack[-1]:
                target = edge.target
                if target is start:
                    return [*trail, edge]
                if target in seen or (within is not None and target not in within):
                    continue
                seen.add(target)
                trail.append(edge)
                stack.append(iter(self.edges(target)))
                break
            else:
                stack.pop()
                if trail:
                    trail.pop()
        return None

    def stuck(self, start: Unit) -> set[Unit]:
        """The units reachable from ``start`` that cannot go on, whatever the others do."""
        needs = self._needs(start)
        alive: set[Unit] = set()
        grew = True
        while grew:
            fresh = {
                unit for unit, groups in needs.items()
                if unit not in alive and all(group & alive for group in groups)
            }  # fmt: skip
            alive |= fresh
            grew = bool(fresh)
        return set(needs) - alive

    def _needs(self, start: Unit) -> dict[Unit, list[set[Unit]]]:
        needs: dict[Unit, list[set[Unit]]] = {}
        todo = [start]
        while todo:
            unit = todo.pop()
            if unit in needs:
                continue
            needs[unit] = groups = []
            shared: dict[object, set[Unit]] = {}
            for edge in self.edges(unit):
                todo.append(edge.target)
                if edge.alone:
                    groups.append({edge.target})
                else:
                    name = (edge.kind, edge.target.owner if edge.kind == HARD else None)
                    shared.setdefault(name, set()).add(edge.target)
            groups += shared.values()
        return needs


def in_the_way(wait: Wait) -> Claim | Wait | None:
    """What a wait waits for first: what is held, or another wait that is ahead."""
    lease = next(leases_in_the_way(wait), None)
    if lease is not None or wait.entry is None or wait.state is not states.WAITING:
        return lease
    return next(takewhile(lambda one: one is not wait, wait.entry.queue), None)


def leases_in_the_way(wait: Wait) -> Iterator[Claim]:
    """What others hold that a wait waits for."""
    entry = wait.entry
    if entry is None or wait.state is not states.WAITING:
        return
    bits = CONFLICT_BITS[wait.mode]
    for owner in entry.holders:
        for lease in owner.leases if owner is not wait.owner else ():
            if any(entry is step[0] and bits & BIT[step[1]] for step in lease.steps):
                yield lease
