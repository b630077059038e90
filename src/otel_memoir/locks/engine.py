"""Granting and letting go: what happens to the table, one operation at a time.

Promises:

- Two holders of a key never conflict, but for one owner with itself.
- A lock that is let go is handed over under the mutex, in the order of the queue; nobody who
  comes later gets in between. A waiter that could be served is served: every operation that
  removes an edge (release, timeout, cancellation, verdict, death) serves the queues it touched.
- A request for several keys, or for a key and its ancestors, is all or nothing.
- Nothing foreign is called under the mutex (``effects``).
- A call from a finaliser or a signal handler that interrupted an operation of this manager
  on the same thread does not wait for it: a release is put off, anything else is an error.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from opentelemetry.context import get_current

from otel_memoir.errors import LockTimeoutError
from otel_memoir.locks import states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.graph import Graph
from otel_memoir.locks.lease import Lease, wants
from otel_memoir.locks.modes import BIT, CONFLICT_BITS, CONFLICT_FIELDS, ONE, X
from otel_memoir.locks.mourning import bury
from otel_memoir.locks.parking import Parking
from otel_memoir.locks.request import PATIENCE_S, Order, Wait
from otel_memoir.locks.states import HELD
from otel_memoir.locks.table import Entry, Table, merged
from otel_memoir.locks.terms import held_already, not_yours, reentered
from otel_memoir.locks.unit import Roll, Unit

if TYPE_CHECKING:
    from otel_memoir.locks.judge import Judge
    from otel_memoir.locks.order import LockOrder, OrderFinding
    from otel_memoir.locks.report import Verdict

AGING_NS = 10**9


class Engine:
    """One mutex, one table.

    Args:
        table: The keys.

        fence: The token before the first.
    """

    def __init__(
        self, table: Table, *, fence: int, aging_ns: int = AGING_NS,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> None:  # fmt: skip
        self.table, self.fence, self.aging_ns = table, fence, aging_ns
        self.monotonic_ns = monotonic_ns
        self.make_mutex()
        self.roll = Roll(self.notice_deaths)
        self.blocked: dict[int, Unit] = {}
        self.graph = Graph(self.roll, self.blocked)
        self.deferred: deque[Lease] = deque()
        self.stamps = 0
        self.parking = Parking(self)
        self.judge: Judge
        self.order: LockOrder | None = None
        self.on_order: Callable[[OrderFinding], object] = lambda finding: None
        self.raise_on_order = False
        self.on_waited: Callable[[Wait], object] = lambda wait: None
        self.on_contended: Callable[[Lease], object] = lambda lease: None
        self.on_verdict: Callable[[Verdict], object] = lambda verdict: None
        self.on_lease_lost: Callable[[Lease], object] = lambda lease: None
        self.on_block: list[Callable[[str, tuple[str, ...]], object]] = []
        self.on_unblock: list[Callable[[str], object]] = []

    def make_mutex(self) -> None:
        """A mutex that is free; in a fork child too, where nobody would release the old one."""
        self.mutex = threading.RLock()
        self.inside: Callable[[], bool] = self.mutex._is_owned  # type: ignore[attr-defined]

    # -- the path without contention ------------------------------------------

    def take(self, lease: Lease, owner: Unit) -> bool:
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
                self._take_back(*taken, owner)
            return False

    def release(self, lease: Lease, by: Unit | None) -> None:
        """Let go, and hand over. ``by``: the owner that asks; None: whoever has the block."""
        if self.inside():
            self.deferred.append(lease)
            return
        with self.mutex:
            if lease.state is not HELD:
                return
            if by is not None and by is not lease.owner:
                raise not_yours(lease, by)
            effects = self._let_go(lease, states.RELEASED)
            if effects is None:
                return
            self.settle(effects)
        effects.run(self)
        effects.guarded(partial(self.on_contended, lease))

    def _let_go(self, lease: Lease, state: str, effects: Effects | None = None) -> Effects | None:
        owner = lease.owner
        assert owner is not None
        lease.state = state
        owner.leases.discard(lease)
        if owner.refusals and not owner.leases and lease.token > owner.refused_at:
            owner.refusals = 0
        for entry, mode in lease.steps:
            one = ONE[mode]
            if entry.total == one:
                entry.total = 0
                del entry.holders[owner]
            else:
                self._take_back(entry, mode, owner)
            if entry.queue:
                effects = effects or Effects()
                effects.dirty.append(entry)
        return effects

    @staticmethod
    def _take_back(entry: Entry, mode: int, owner: Unit) -> None:
        one = ONE[mode]
        entry.total -= one
        left = entry.holders[owner] - one
        if left:
            entry.holders[owner] = left
        else:
            del entry.holders[owner]

    # -- with contention ------------------------------------------------------

    def enter(self, wait: Wait) -> None:
        """Grant a request, or queue it; check for deadlock before anybody sleeps."""
        prepared = [self.table.prepare(key) for key, _ in wants(wait.lease)]
        effects = Effects()
        with self.mutex:
            if wait.lease.state is HELD:
                raise held_already(wait.lease)
            entries = [self.table.add(one) for one in prepared]
            modes = [mode for _, mode in wants(wait.lease)]
            paths = [entry.steps[mode] for entry, mode in zip(entries, modes)]
            wait.steps = paths[0] if len(paths) == 1 else merged(paths)
            self._check_order(wait, effects)
            self.stamps += 1
            wait.stamp, wait.arrival_ns = self.stamps, self.monotonic_ns()
            self.clear_up(effects)
            self._begin(wait, effects)
            self.settle(effects)
        effects.run(self)

    def _check_order(self, wait: Wait, effects: Effects) -> None:
        lease = wait.lease
        if self.order is None or (lease.timeout is not None and lease.timeout <= 0):
            return  # who does not wait closes no circle
        finding = self.order.check(wait.owner, lease)
        if finding is not None and self.raise_on_order:
            raise finding.error()
        if finding is not None:
            effects.calls.append(partial(self.on_order, finding))

    def _begin(self, wait: Wait, effects: Effects) -> None:
        wounded = wait.owner.wounded
        if wounded is not None:
            wait.owner.wounded = None
            self.judge.finish_wounded(wait, wounded, effects)
            return
        self._advance(wait, effects)
        if wait.state is states.WAITING and wait.entry is not None:
            wait.unit.wait, wait.slept = wait, True
            wait.steps[-1][0].kind.contended += 1
            if wait.sync:
                self.blocked[wait.unit.thread_ident] = wait.unit

    def _advance(self, wait: Wait, effects: Effects) -> None:
        """Take the steps of a request one by one; queue it for the first that is not free."""
        while wait.index < len(wait.steps):
            entry, mode = wait.steps[wait.index]
            wait.mode = mode
            wait.order = self.order_of(wait, entry)
            if not self._may_pass(wait, entry, mode):
                self.enqueue(wait, entry)
                effects.blocked.append(wait)
                return
            self._take_step(wait, entry, mode, effects)
        self._grant(wait, effects)

    def _take_step(self, wait: Wait, entry: Entry, mode: int, effects: Effects) -> None:
        entry.holders[wait.owner] = entry.holders.get(wait.owner, 0) + ONE[mode]
        entry.total += ONE[mode]
        wait.index += 1
        if entry.queue and len(wait.owner.crew) > 1:
            self._move_forward(entry, wait.owner)
            effects.dirty.append(entry)

    def _grant(self, wait: Wait, effects: Effects) -> None:
        lease, now_ns = wait.lease, self.monotonic_ns()
        self._end(wait, states.GRANTED, effects)
        self.fence = lease.token = self.fence + 1
        lease.steps, lease.owner, lease.state = wait.steps, wait.owner, HELD
        lease.acquired_ns, lease.waited_ns = now_ns, now_ns - wait.arrival_ns
        lease.context = wait.context
        if lease.ttl_s is not None:
            lease.expires_ns = now_ns + int(lease.ttl_s * 1e9)
        wait.owner.leases.add(lease)
        wait.steps[-1][0].kind.acquired += 1

    @staticmethod
    def _may_pass(wait: Wait, entry: Entry, mode: int) -> bool:
        own = entry.holders.get(wait.owner, 0)
        if (entry.total - own) & CONFLICT_FIELDS[mode]:
            return False
        if own:
            return True  # one who holds the key does not queue for more of it behind others
        bits = CONFLICT_BITS[mode]
        for ahead in entry.queue:
            if ahead is wait or ahead.order > wait.order:
                break
            if bits & BIT[ahead.mode] and ahead.owner is not wait.owner:
                return False
        return True

    def order_of(self, wait: Wait, entry: Entry) -> Order:
        """Where a request stands in a queue, now and for ever."""
        priority = max([wait.priority, *(donor.priority for donor in wait.donors)])
        rank = wait.arrival_ns - priority * self.aging_ns
        return (0 if wait.owner in entry.holders else 1, rank, wait.stamp)

    @staticmethod
    def enqueue(wait: Wait, entry: Entry) -> None:
        """Put a wait where its order says."""
        wait.entry = entry
        place = len(entry.queue)
        while place and wait.order < entry.queue[place - 1].order:
            place -= 1
        entry.queue.insert(place, wait)

    def _move_forward(self, entry: Entry, owner: Unit) -> None:
        """An owner got a key that another of its crew queues for: that is a conversion now."""
        for wait in [one for one in entry.queue if one.owner is owner and one.order[0]]:
            entry.queue.remove(wait)
            wait.order = self.order_of(wait, entry)
            self.enqueue(wait, entry)

    def settle(self, effects: Effects) -> None:
        """Serve the queues that were touched, then judge the waits that began."""
        while effects.dirty or effects.blocked:
            if effects.dirty:
                self._serve(effects.dirty.pop(), effects)
                continue
            wait = effects.blocked.pop()
            if wait.state is not states.WAITING:
                continue
            if wait.lease.timeout is not None and wait.lease.timeout <= 0:
                self.time_out(wait, effects)  # it does not wait, so it closes no circle
                continue
            self.judge.blocked(wait, effects)
            self.tell_blocked(wait, effects)

    def _serve(self, entry: Entry, effects: Effects) -> None:
        """Grant what can be granted, from the head; stop where all behind must wait."""
        ahead = 0
        for wait in list(entry.queue):
            if wait.state is not states.WAITING or wait.entry is not entry:
                continue
            own = entry.holders.get(wait.owner, 0)
            free = not (entry.total - own) & CONFLICT_FIELDS[wait.mode]
            if free and (own or not ahead & CONFLICT_BITS[wait.mode] or
                         self._may_pass(wait, entry, wait.mode)):  # fmt: skip
                entry.queue.remove(wait)
                wait.entry = None
                self._take_step(wait, entry, wait.mode, effects)
                self._advance(wait, effects)
            elif not own and wait.mode == X:
                return
            else:
                ahead |= BIT[wait.mode]

    # -- ends of a wait -------------------------------------------------------

    def fail(self, wait: Wait, state: str, error: BaseException | None, effects: Effects) -> bool:
        """End a wait without a grant, if nothing else ended it before."""
        if wait.state is not states.WAITING:
            return False
        wait.error = error
        entry = wait.entry
        if entry is not None:
            entry.queue.remove(wait)
            effects.dirty.append(entry)
        for entry, mode in wait.steps[: wait.index]:
            self._take_back(entry, mode, wait.owner)
            effects.dirty.append(entry)
        self._end(wait, state, effects)
        return True

    def _end(self, wait: Wait, state: str, effects: Effects) -> None:
        wait.state = state
        slept = wait.unit.wait is wait
        if slept:
            wait.unit.wait = None
            wait.waited_ns = self.monotonic_ns() - wait.arrival_ns
            effects.wakes.append(wait)
            self.judge.ended(wait, effects)
        if wait.sync and self.blocked.get(wait.unit.thread_ident) is wait.unit:
            del self.blocked[wait.unit.thread_ident]
        for call in self.on_unblock if slept else ():
            effects.calls.append(partial(call, wait.unit.id))

    def time_out(self, wait: Wait, effects: Effects) -> None:
        """Its time is over, unless something else came first."""
        waited_s = (self.monotonic_ns() - wait.arrival_ns) / 1e9
        error = LockTimeoutError(
            wait.steps[-1][0].key, waited_s=waited_s, holders=self.in_the_way(wait)
        )
        if self.fail(wait, states.TIMEOUT, error, effects):
            wait.steps[-1][0].kind.timeouts += 1

    def in_the_way(self, wait: Wait) -> tuple[str, ...]:
        """Ids of the units that a wait waits for."""
        edges = self.graph.edges(wait.unit) if wait.entry else []
        return tuple(dict.fromkeys(edge.target.id for edge in edges))

    def tell_blocked(self, wait: Wait, effects: Effects) -> None:
        """Owe the hooks of a remote engine a call."""
        if self.on_block and wait.state is states.WAITING:
            unit, holders = wait.unit.id, self.in_the_way(wait)
            for call in self.on_block:
                effects.calls.append(partial(call, unit, holders))

    # -- deaths and late calls ------------------------------------------------

    def clear_up(self, effects: Effects) -> None:
        """Do what finalisers left to be done."""
        while self.deferred:
            lease = self.deferred.popleft()
            if lease.state is HELD:
                self._let_go(lease, states.RELEASED, effects)
        while self.roll.deaths:
            bury(self, self.roll.deaths.popleft(), effects)

    def notice_deaths(self) -> None:
        """Clear up now, or leave it to those who wait: they look again anyway.

        A finaliser that the collector runs in another thread's critical section may keep
        that thread waiting for this one, so it does not wait for the mutex for ever.
        """
        if self.inside() or not self.mutex.acquire(timeout=PATIENCE_S):
            return
        effects = Effects()
        try:
            self.clear_up(effects)
            self.settle(effects)
        finally:
            self.mutex.release()
        effects.run(self)

    def take_away(self, lease: Lease, why: str, effects: Effects) -> None:
        """End a lease whose holder may be at work; its token is older than any to come."""
        lease.lost_why = why
        self._let_go(lease, states.LOST, effects)
        for call in lease.on_lost_calls:
            effects.calls.append(partial(call, lease))
        effects.calls.append(partial(self.on_lease_lost, lease))
