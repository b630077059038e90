"""Priority donation: who stands in the way of an important waiter queues as importantly.

A thread's own priority cannot be raised in Python, so a donation is a better place in the
queues where those in the way themselves wait, and in theirs, along the chain. It is taken back
when the donor's wait ends. A move that would close a circle is not made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from otel_memoir.locks import states

if TYPE_CHECKING:
    from otel_memoir.locks.effects import Effects
    from otel_memoir.locks.engine import Engine
    from otel_memoir.locks.request import Wait


class Donations:
    """Gives and takes back. Used under the mutex of its engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
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
            for edge in self._engine.graph.edges(todo.pop().unit):
                other = edge.target.wait
                if other is None or other is donor or self._worth(other) >= donor.priority:
                    continue
                other.donors.add(donor)
                if self._place_anew(other, effects):
                    given.append(other)
                    todo.append(other)
                else:
                    other.donors.discard(donor)
        if given:
            self._given[donor] = given

    def take_back(self, donor: Wait, effects: Effects) -> None:
        """A wait has ended: put those that it lifted where they belong."""
        for other in self._given.pop(donor, ()):
            other.donors.discard(donor)
            if other.state is states.WAITING:
                self._place_anew(other, effects)

    def _priorities_differ(self, wait: Wait) -> bool:
        if self._usual is None:
            self._usual = wait.priority
        self._differ = self._differ or wait.priority != self._usual
        return self._differ

    @staticmethod
    def _worth(wait: Wait) -> int:
        return max([wait.priority, *(donor.priority for donor in wait.donors)])

    def _place_anew(self, wait: Wait, effects: Effects) -> bool:
        """Put a wait where its order says now; False if that would close a circle."""
        entry, order = wait.entry, wait.order
        if entry is None:
            return False
        before = list(entry.queue)
        entry.queue.remove(wait)
        wait.order = self._engine.order_of(wait, entry)
        self._engine.enqueue(wait, entry)
        graph = self._engine.graph
        if any(graph.cycle(one.unit) is not None for one in entry.queue):
            entry.queue[:], wait.order = before, order
            return False
        effects.dirty.append(entry)
        return True
