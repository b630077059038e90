"""What is done about a wait that may never end.

It is asked under the mutex when a unit is about to sleep, before it does: the table is
consistent, so what is found is true, and it is found by the unit that closes the circle.

A circle with a soft edge is undone by letting a waiter go ahead of another, where that leaves
no other circle; nobody is refused then. Otherwise one unit is refused: of those refused least
often, the one of the lowest priority, then the one that holds least, then the youngest.
"""

from __future__ import annotations

from typing import Literal

from otel_memoir.locks import facts, states
from otel_memoir.locks.core import Core
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.graph import HARD, LOOP, SOFT, Edge, in_the_way
from otel_memoir.locks.modes import CONFLICT_FIELDS
from otel_memoir.locks.mourning import bereaved
from otel_memoir.locks.parts import Entry, Unit, Wait
from otel_memoir.locks.report import REFUSED, REORDERED, REPORTED, Verdict

OnDeadlock = Literal["refuse", "report"]
Policy = Literal["detect", "wait-die", "wound-wait"]

MOVES_MAX = 3

# How many circles that are only reported are known again.
SIGNATURES_MAX = 1000

# After so many refusals in a row a unit counts as more important than any priority says.
REFUSALS_MAX = 3


class Judge:
    """Decides about waits. Used under the mutex.

    Args:
        on_deadlock: ``refuse`` a unit, or only ``report``.

        policy: ``detect``: wait, unless that would be for ever. ``wait-die``: who holds
            something waits for younger owners only. ``wound-wait``: it waits for older ones
            only, and wounds the younger: their next wait is refused.
    """

    def __init__(
        self, core: Core, *, on_deadlock: OnDeadlock = "refuse", policy: Policy = "detect"
    ) -> None:
        self._core, self._graph = core, core.graph
        self._on_deadlock, self._policy = on_deadlock, policy
        self._said: dict[frozenset[tuple[int, int]], None] = {}

    # -- events ---------------------------------------------------------------

    def blocked(self, wait: Wait, effects: Effects) -> None:
        """A wait has begun, or has come to its next key."""
        if not wait.blockers:
            self._note(wait)
        if bereaved(self._core, wait, effects):
            return
        self.expire(wait, effects)
        if self._policy != "detect":
            self._by_age(wait, effects)
        self.resolve(wait.unit, effects)
        if wait.state is states.WAITING:
            self._core.donations.donate(wait, effects)

    def _note(self, wait: Wait) -> None:
        """Write down who is in the way, for those who are told later."""
        assert wait.entry is not None
        first = in_the_way(wait)
        wait.blocker = first.context if first is not None else None
        wait.blockers = tuple(edge.target for edge in self._graph.edges(wait.unit))
        wait.queue_length = len(wait.entry.queue)

    def resolve(self, unit: Unit, effects: Effects) -> Verdict | None:
        """Break all circles that a unit is in.

        Returns:
            Not None if nobody in the circle waits for a lock, so that the unit itself,
            which waits for something else, has to be refused.
        """
        while (cycle := self._graph.cycle(unit)) is not None:
            if self._on_deadlock == "report" and not _blocks_a_loop(cycle):
                self._only_report(cycle, unit, effects)
                return None
            if self._let_ahead(cycle, unit, effects):
                continue
            victim = self._victim(cycle)
            if victim is None:
                return facts.verdict(cycle, REFUSED, unit)
            self.refuse(victim, facts.verdict(cycle, REFUSED, victim.unit), effects)
        return None

    def refuse(self, wait: Wait, verdict: Verdict, effects: Effects) -> None:
        """Make a wait the victim."""
        if wait.state is not states.WAITING:
            return
        wait.verdict = verdict
        self.count(wait.owner)
        effects.verdicts.append(verdict)
        self._core.fail(wait, states.VICTIM, None, effects)

    def finish_wounded(self, wait: Wait, verdict: Verdict, effects: Effects) -> None:
        """A wounded unit asks for more: that is when it is refused."""
        wait.verdict = verdict
        self.count(wait.owner)
        effects.verdicts.append(verdict)
        wait.state = states.VICTIM

    def count(self, owner: Unit) -> None:
        """One more refusal in a row."""
        owner.refusals += 1
        owner.refused_at = self._core.fence

    def forget(self) -> None:
        """In a fork child: no circle of the parent's comes again."""
        self._said.clear()

    # -- circles --------------------------------------------------------------

    def _only_report(self, cycle: list[Edge], unit: Unit, effects: Effects) -> None:
        waits = [(edge.unit.serial, edge.unit.wait) for edge in cycle]
        signature = frozenset((serial, wait.stamp if wait else 0) for serial, wait in waits)
        if signature in self._said:
            return
        self._said[signature] = None
        if len(self._said) > SIGNATURES_MAX:
            del self._said[next(iter(self._said))]
        effects.verdicts.append(facts.verdict(cycle, REPORTED, None))

    def _let_ahead(self, cycle: list[Edge], unit: Unit, effects: Effects) -> bool:
        if not any(edge.kind == SOFT for edge in cycle):
            return False
        verdict = facts.verdict(cycle, REORDERED, None)
        moved: list[Entry] = []
        if not self._reorder(unit, moved):
            return False
        effects.verdicts.append(verdict)
        effects.dirty += moved
        return True

    def _reorder(self, unit: Unit, moved: list[Entry]) -> bool:
        cycle = self._first_cycle(unit, moved)
        if cycle is None:
            return True
        if len(moved) >= MOVES_MAX:
            return False
        for edge in cycle:
            behind, ahead = edge.unit.wait, edge.ahead
            if edge.kind != SOFT or behind is None or ahead is None or behind.entry is None:
                continue
            queue, order = behind.entry.queue, behind.order
            before = list(queue)
            queue.remove(behind)
            queue.insert(queue.index(ahead), behind)
            behind.order = ahead.order
            moved.append(behind.entry)
            if self._reorder(unit, moved):
                return True
            moved.pop()
            queue[:], behind.order = before, order
        return False

    def _first_cycle(self, unit: Unit, moved: list[Entry]) -> list[Edge] | None:
        units = [unit, *(wait.unit for entry in moved for wait in entry.queue)]
        cycles = (self._graph.cycle(one) for one in units)
        return next((cycle for cycle in cycles if cycle is not None), None)

    def _victim(self, cycle: list[Edge]) -> Wait | None:
        blocked = self._core.blocked
        waits = [
            wait for edge in cycle
            if (wait := edge.unit.wait) is not None and wait.state is states.WAITING
            # A task whose thread is blocked by another cannot act on its refusal.
            and blocked.get(edge.unit.thread_ident, edge.unit) is edge.unit
        ]  # fmt: skip
        return min(waits, key=self._worth, default=None)

    def _worth(self, wait: Wait) -> tuple[int, int, int, int, int]:
        owner = wait.owner
        spared = owner.refusals // REFUSALS_MAX
        return (spared, wait.priority, len(owner.leases), -self.age(owner), -wait.stamp)

    def age(self, owner: Unit) -> int:
        """When an owner began, as a fence: that of its retries' beginning, or its oldest lease."""
        if owner.ticket is not None:
            return owner.ticket
        return min((lease.token for lease in owner.leases), default=self._core.fence + 1)

    # -- policies -------------------------------------------------------------

    def _by_age(self, wait: Wait, effects: Effects) -> None:
        owner = wait.owner
        mine = self.age(owner)
        for edge in self._graph.edges(wait.unit):
            other = edge.ahead.owner if edge.ahead else edge.target.owner
            if edge.kind not in (HARD, SOFT) or wait.state is not states.WAITING:
                continue
            older = self.age(other) < mine
            if self._policy == "wait-die" and older and (owner.leases or wait.index):
                self.refuse(wait, facts.verdict([edge], REFUSED, wait.unit, "wait-die"), effects)
            elif self._policy == "wound-wait" and not older and other.wounded is None:
                self._wound(edge, other, effects)

    def _wound(self, edge: Edge, other: Unit, effects: Effects) -> None:
        circle = [edge, Edge(edge.target, HARD, edge.unit)]
        verdict = facts.verdict(circle, REFUSED, edge.target, "wound-wait")
        wait = edge.target.wait
        if wait is not None:
            self.refuse(wait, verdict, effects)
        else:
            other.wounded = verdict

    # -- terms ----------------------------------------------------------------

    def expire(self, wait: Wait, effects: Effects) -> float:
        """Take away leases in the way whose term is over; seconds until the next one's is."""
        entry = wait.entry
        next_s = float("inf")
        if entry is None or wait.state is not states.WAITING:
            return next_s
        now_ns = self._core.monotonic_ns()
        fields = CONFLICT_FIELDS[wait.mode]
        for owner, counts in list(entry.holders.items()):
            if not counts & fields or owner is wait.owner:
                continue
            for lease in [one for one in owner.leases if one.ttl_s is not None]:
                if not any(entry is step[0] for step in lease.steps):
                    continue
                if lease.expires_ns <= now_ns:
                    self._core.take_away(lease, "its term ended without a heartbeat", effects)
                else:
                    next_s = min(next_s, (lease.expires_ns - now_ns) / 1e9)
        return next_s


def _blocks_a_loop(cycle: list[Edge]) -> bool:
    return any(edge.kind == LOOP for edge in cycle)
