"""The table, and what can happen to it whatever is decided: taking what is free, letting go,
and the end of a wait.

Nobody is served or judged here: an operation notes in its ``Effects`` which queues it touched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from functools import partial

from opentelemetry.context import get_current

from otel_memoir.errors import LockTimeoutError
from otel_memoir.locks import queueing, states
from otel_memoir.locks.donation import Donations
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.graph import Graph, leases_in_the_way
from otel_memoir.locks.misuse import reentered
from otel_memoir.locks.modes import CONFLICT_FIELDS, ONE
from otel_memoir.locks.order import LockOrder
from otel_memoir.locks.parts import Claim, Unit, Wait
from otel_memoir.locks.report import Verdict
from otel_memoir.locks.roll import Roll
from otel_memoir.locks.states import HELD
from otel_memoir.locks.table import Table
from otel_memoir.locks.watch import Watch


class Core:
    """One mutex, one table.

    Args:
        table: The keys.

        fence: The token before the first.

        aging_ns: What one step of priority is worth.

        on_death: Called when a unit has died, wherever that is noticed: in a finaliser too.
    """

    def __init__(
        self, table: Table, *, fence: int, aging_ns: int, monotonic_ns: Callable[[], int],
        on_death: Callable[[], None],
    ) -> None:  # fmt: skip
        self.table, self.fence, self.aging_ns = table, fence, aging_ns
        self.monotonic_ns = monotonic_ns
        self.make_mutex()
        self.roll = Roll(on_death)
        self.blocked: dict[int, Unit] = {}
        self.graph = Graph(self.roll, self.blocked)
        self.donations = Donations(self.graph, aging_ns)
        self.deferred: deque[Claim] = deque()
        self.wanted: set[Claim] = set()  # leases in the way of somebody who gave up
        self.watches: tuple[Watch, ...] = ()
        self.order: LockOrder | None = None
        self.on_waited: Callable[[Wait], object] = lambda wait: None
        self.on_contended: Callable[[Claim], object] = lambda lease: None
        self.on_verdict: Callable[[Verdict], object] = lambda verdict: None
        self.on_lease_lost: Callable[[Claim], object] = lambda lease: None
        self.on_block: list[Callable[[str, tuple[str, ...]], object]] = []
        self.on_unblock: list[Callable[[str], object]] = []

    def make_mutex(self) -> None:
        """A mutex that is free; in a fork child too, where nobody would release the old one."""
        self.mutex = threading.RLock()
        self.inside: Callable[[], bool] = self.mutex._is_owned  # type: ignore[attr-defined]

    # -- the path without contention ------------------------------------------

    def take(self, lease: Claim, owner: Unit) -> bool:
        """Grant a lease if all is free and nobody queues; otherwise change nothing."""
        if self.inside():
            raise reentered(lease)
        with self.mutex:
            entry = self.table.entries.get(lease.key)
            if entry is None or owner.wounded or lease.slow or lease.state is HELD:
                return False
            if self.order is not None and owner.leases:
                return False
            kind = entry.kind
            steps = entry.steps[lease.mode]
            for entry, mode in steps:
                if not entry.total:
                    own = 0  # nobody holds it, so nobody queues for it
                else:
                    own = entry.holders.get(owner, 0)
                    if (entry.total - own) & CONFLICT_FIELDS[mode] or (entry.queue and not own):
                        break
                one = ONE[mode]
                entry.holders[owner] = own + one
                entry.total += one
            else:
                self.fence = lease.token = self.fence + 1
                lease.steps, lease.owner, lease.state = steps, owner, HELD
                lease.acquired_ns, lease.waited_ns = self.monotonic_ns(), 0
                lease.context = get_current()
                owner.leases.add(lease)
                kind.acquired += 1
                return True
            for taken in steps[: steps.index((entry, mode))]:
                queueing.take_back(owner, *taken)
            return False

    def let_go(self, lease: Claim, state: str, effects: Effects | None = None) -> Effects | None:
        """End a lease; return what is owed for that. None: nothing, since nobody wanted it."""
        owner = lease.owner
        assert owner is not None
        lease.state = state
        owner.leases.discard(lease)
        for watch in self.watches:
            watch.note(lease)
        if owner.refusals and not owner.leases and lease.token > owner.refused_at:
            owner.refusals = 0
        wanted = bool(self.wanted) and lease in self.wanted
        for entry, mode in lease.steps:
            one = ONE[mode]
            if entry.total == one:
                entry.total = 0
                del entry.holders[owner]
            else:
                queueing.take_back(owner, entry, mode)
            if entry.queue:
                wanted = True
                effects = effects or Effects()
                effects.dirty.append(entry)
        if wanted:
            self.wanted.discard(lease)
            effects = effects or Effects()
            effects.calls.append(partial(self.on_contended, lease))
        return effects

    def take_away(self, lease: Claim, why: str, effects: Effects) -> None:
        """End a lease whose holder may be at work; its token is older than any to come."""
        lease.lost_why = why
        self.let_go(lease, states.LOST, effects)
        effects.calls += lease.on_lost_calls
        effects.calls.append(partial(self.on_lease_lost, lease))

    # -- ends of a wait -------------------------------------------------------

    def fail(self, wait: Wait, state: str, error: BaseException | None, effects: Effects) -> bool:
        """End a wait without a grant, if nothing else ended it before."""
        if wait.state is not states.WAITING:
            return False
        wait.error = error
        entry = wait.entry
        if entry is not None:
            self.wanted.update(leases_in_the_way(wait))
            if wait in entry.queue:  # not yet, where an interrupt came between the two
                entry.queue.remove(wait)
            effects.dirty.append(entry)
        for entry, mode in wait.steps[: wait.index]:
            queueing.take_back(wait.owner, entry, mode)
            effects.dirty.append(entry)
        self.end(wait, state, effects)
        return True

    def end(self, wait: Wait, state: str, effects: Effects) -> None:
        """Write down how a wait ended, and owe its unit the news."""
        wait.state = state
        unit, outer = wait.unit, wait.outer
        if unit.wait is wait:
            unit.wait = outer if outer is not None and outer.state is states.WAITING else None
        if unit.wait is not None:
            effects.unsure.append(unit)  # it goes on with the wait that this one interrupted
        elif wait.sync and self.blocked.get(unit.thread_ident) is unit:
            del self.blocked[unit.thread_ident]
        if wait.slept:
            wait.waited_ns = self.monotonic_ns() - wait.arrival_ns
            effects.wakes.append(wait)
            self.donations.take_back(wait, effects)
        for call in self.on_unblock if wait.slept else ():
            effects.calls.append(partial(call, unit.id))

    def time_out(self, wait: Wait, effects: Effects) -> None:
        """Its time is over, unless something else came first."""
        waited_s = (self.monotonic_ns() - wait.arrival_ns) / 1e9
        error = LockTimeoutError(
            wait.steps[-1][0].key, waited_s=waited_s, holders=self.ids_in_the_way(wait)
        )
        if self.fail(wait, states.TIMEOUT, error, effects):
            wait.steps[-1][0].kind.timeouts += 1

    def ids_in_the_way(self, wait: Wait) -> tuple[str, ...]:
        """Ids of the units that a wait waits for."""
        edges = self.graph.edges(wait.unit) if wait.entry else []
        return tuple(dict.fromkeys(edge.target.id for edge in edges))

    def forget(self) -> None:
        """In a fork child: no unit of these is there, nobody waits, and nothing was counted."""
        self.table.forget()
        self.blocked.clear()
        self.deferred.clear()
        self.wanted.clear()
        self.watches = ()
        self.donations.forget()
        self.roll.forget()
