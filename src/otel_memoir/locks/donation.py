"""Priority donation: who stands in the way of an important waiter queues as importantly.

A thread's own priority cannot be raised in Python, so a donation is a better place in the
queues where those in the way themselves wait, and in theirs, along the chain. It is taken back
when the donor's wait ends. A move that would close a circle is not made.
"""

from __future__ import annotations

from otel_memoir.locks import states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.graph import Graph
from otel_memoir.locks.parts import Wait
from otel_memoir.locks.queueing import enqueue


class Donations:
    """Gives and takes back. Used under the mutex.

    Args:
        aging_ns: What one step of priority is worth.
    """

    def __init__(self, graph: Graph, aging_ns: int) -> None:
        self._graph, self._aging_ns = graph, aging_ns
        self._given: dict[Wait, list[Wait]] = {}
        self._differ = False
        self._usual: int | None = None

    def donate(self, donor: Wait, effects: Effects) -> None:
        """A wait has begun: lift those in its way."""
        if not self._priorities_differ(donor):
            return
        given: list[Wait] = []
        todo = [donor]
        while todo:
            for edge in self._graph.edges(todo.pop().unit):
                other = edge.target.wait
                if other is None or other is donor or other.worth >= donor.priority:
                    continue
                other.donors.add(donor)
                if self._place_anew(other, effects):
                    given.append(other)
                    todo.append(other)
                else:
                    other.donors.discard(donor)
        if given:
            self._given.setdefault(donor, []).extend(given)  # it may wait for one key after another

    def take_back(self, donor: Wait, effects: Effects) -> None:
        """A wait has ended: put those that it lifted where they belong."""
        for other in self._given.pop(donor, ()):
            other.donors.discard(donor)
            if other.state is states.WAITING:
                self._place_anew(other, effects)

    def forget(self) -> None:
        """In a fork child: nobody waits."""
        self._given.clear()

    def _priorities_differ(self, wait: Wait) -> bool:
        if self._usual is None:
            self._usual = wait.priority
        self._differ = self._differ or wait.priority != self._usual
        return self._differ

    def _place_anew(self, wait: Wait, effects: Effects) -> bool:
        """Put a wait where its order says now; False if that would close a circle."""
        entry, order = wait.entry, wait.order
        if entry is None:
            return False
        before = list(entry.queue)
        entry.queue.remove(wait)
        enqueue(wait, entry, self._aging_ns)
        if any(self._graph.cycle(one.unit) is not None for one in entry.queue):
            entry.queue[:], wait.order = before, order
            return False
        effects.dirty.append(entry)
        return True
