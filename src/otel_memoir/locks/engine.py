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

import time
from collections.abc import Callable
from functools import partial

from otel_memoir.locks import queueing, states
from otel_memoir.locks.core import Core
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.judge import Judge, OnDeadlock, Policy
from otel_memoir.locks.misuse import held_already, not_yours
from otel_memoir.locks.modes import BIT, CONFLICT_BITS, CONFLICT_FIELDS, X
from otel_memoir.locks.mourning import bury
from otel_memoir.locks.order import OrderFinding
from otel_memoir.locks.parkers import PATIENCE_S
from otel_memoir.locks.parts import Claim, Entry, Unit, Wait
from otel_memoir.locks.states import HELD
from otel_memoir.locks.table import Table, merged

AGING_NS = 10**9


class Engine(Core):
    """A core whose queues are served, and whose waits are judged.

    Args:
        on_deadlock, policy: As for ``Judge``.
    """

    def __init__(
        self, table: Table, *, fence: int, aging_ns: int = AGING_NS,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
        on_deadlock: OnDeadlock = "refuse", policy: Policy = "detect",
    ) -> None:  # fmt: skip
        super().__init__(
            table, fence=fence, aging_ns=aging_ns, monotonic_ns=monotonic_ns,
            on_death=self.notice_deaths,
        )  # fmt: skip
        self.judge = Judge(self, on_deadlock=on_deadlock, policy=policy)
        self.stamps = 0
        self.on_order: Callable[[OrderFinding], object] = lambda finding: None
        self.raise_on_order = False

    def pay(self, effects: Effects) -> None:
        """Do what an operation owes to others, now that the mutex is free."""
        # Where the loop of a waiter is closed, what it was given goes on.
        effects.run(self.on_verdict, lambda wait: self.release(wait.lease, None))

    def release(self, lease: Claim, by: Unit | None) -> None:
        """Let go, and hand over. ``by``: the owner that asks; None: whoever has the block."""
        if self.inside():
            self.deferred.append(lease)
            return
        with self.mutex:
            if lease.state is not HELD:
                return
            if by is not None and by is not lease.owner:
                raise not_yours(lease, by)
            effects = self.let_go(lease, states.RELEASED)
            if effects is None:
                return
            self.settle(effects)
        self.pay(effects)

    # -- with contention ------------------------------------------------------

    def enter(self, wait: Wait) -> None:
        """Grant a request, or queue it; check for deadlock before anybody sleeps."""
        prepared = [self.table.prepare(key) for key, _ in wait.lease.wants]
        effects = Effects()
        with self.mutex:
            if wait.lease.state is HELD:
                raise held_already(wait.lease)
            entries = [self.table.add(one) for one in prepared]
            modes = [mode for _, mode in wait.lease.wants]
            paths = [entry.steps[mode] for entry, mode in zip(entries, modes)]
            wait.steps = paths[0] if len(paths) == 1 else merged(paths)
            self._check_order(wait, effects)
            self.stamps += 1
            wait.stamp, wait.arrival_ns = self.stamps, self.monotonic_ns()
            self.clear_up(effects)
            self._begin(wait, effects)
            if wait.state is states.GRANTED and wait.unit.foreign:
                effects.unsure.append(wait.unit)  # who waits for this waits for what it waits for
            self.settle(effects)
        self.pay(effects)

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
        wounded, wait.owner.wounded = wait.owner.wounded, None
        if wounded is not None and wait.owner.leases:  # without any it is in nobody's way
            self.judge.finish_wounded(wait, wounded, effects)
            return
        self._advance(wait, effects)
        if wait.state is states.WAITING and wait.entry is not None:
            wait.outer, wait.unit.wait, wait.slept = wait.unit.wait, wait, True
            wait.steps[-1][0].kind.contended += 1
            if wait.sync:
                self.blocked[wait.unit.thread_ident] = wait.unit

    def _advance(self, wait: Wait, effects: Effects) -> None:
        """Take the steps of a request one by one; queue it for the first that is not free."""
        while wait.index < len(wait.steps):
            entry, mode = wait.steps[wait.index]
            wait.mode = mode
            wait.order = queueing.order_of(wait, entry, self.aging_ns)
            if not queueing.may_pass(wait, entry, mode):
                queueing.insert(wait, entry)
                effects.blocked.append(wait)
                return
            self._take_step(wait, entry, mode, effects)
        self._grant(wait, effects)

    def _take_step(self, wait: Wait, entry: Entry, mode: int, effects: Effects) -> None:
        queueing.add(wait.owner, entry, mode)
        wait.index += 1
        if entry.queue and len(wait.owner.crew) > 1:
            self._move_forward(entry, wait.owner, effects)
            effects.dirty.append(entry)

    def _grant(self, wait: Wait, effects: Effects) -> None:
        lease, now_ns = wait.lease, self.monotonic_ns()
        self.end(wait, states.GRANTED, effects)
        self.fence = lease.token = self.fence + 1
        lease.steps, lease.owner, lease.state = wait.steps, wait.owner, HELD
        lease.acquired_ns, lease.waited_ns = now_ns, now_ns - wait.arrival_ns
        lease.context = wait.context
        if lease.ttl_s is not None:
            lease.expires_ns = now_ns + int(lease.ttl_s * 1e9)
        wait.owner.leases.add(lease)
        wait.steps[-1][0].kind.acquired += 1

    def _move_forward(self, entry: Entry, owner: Unit, effects: Effects) -> None:
        """An owner got a key that another of its crew queues for: that is a conversion now."""
        for wait in [one for one in entry.queue if one.owner is owner and one.order[0]]:
            entry.queue.remove(wait)
            queueing.enqueue(wait, entry, self.aging_ns)
            effects.unsure.append(wait.unit)  # whom it overtakes may be in its way

    def settle(self, effects: Effects) -> None:
        """Serve the queues that were touched, then judge the waits that began."""
        while effects.dirty or effects.blocked or effects.unsure:
            if effects.dirty:
                self._serve(effects.dirty.pop(), effects)
            elif effects.blocked:
                self._judge(effects.blocked.pop(), effects)
            else:
                self.judge.resolve(effects.unsure.pop(), effects)

    def _judge(self, wait: Wait, effects: Effects) -> None:
        if wait.state is not states.WAITING:
            return
        if wait.lease.timeout is not None and wait.lease.timeout <= 0:
            self.time_out(wait, effects)  # it does not wait, so it closes no circle
            return
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
                         queueing.may_pass(wait, entry, wait.mode)):  # fmt: skip
                entry.queue.remove(wait)
                wait.entry = None
                self._take_step(wait, entry, wait.mode, effects)
                self._advance(wait, effects)
            elif not own and wait.mode == X:
                return
            else:
                ahead |= BIT[wait.mode]

    def tell_blocked(self, wait: Wait, effects: Effects) -> None:
        """Owe the hooks of a remote engine a call."""
        if self.on_block and wait.state is states.WAITING:
            unit, holders = wait.unit.id, self.ids_in_the_way(wait)
            for call in self.on_block:
                effects.calls.append(partial(call, unit, holders))

    def forget(self) -> None:
        """In a fork child: nobody of these is there."""
        super().forget()
        self.judge.forget()

    # -- deaths and late calls ------------------------------------------------

    def clear_up(self, effects: Effects) -> None:
        """Do what finalisers left to be done."""
        while self.deferred:
            lease = self.deferred.popleft()
            if lease.state is HELD:
                self.let_go(lease, states.RELEASED, effects)
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
        self.pay(effects)
