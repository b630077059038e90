"""The locks of one reflection: taken, let go to think, taken again, with what it is based on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from otel_memoir.errors import Conflict, LockError, LockLostError
from otel_memoir.reflection.basis import Basis, Versions
from otel_memoir.reflection.plan import Plan

if TYPE_CHECKING:
    from otel_memoir.locks import Lease, LockManager

NEW, RUNNING, THINKING, ENDED = "new", "running", "thinking", "ended"


class Hold:
    """What a reflection holds.

    Attributes:
        state: ``new``, ``running`` (held, and the versions compared), ``thinking`` or ``ended``.

        basis: What it is based on.

        stale: By key, what changed since it was read. Not empty: nothing may be written.
    """

    def __init__(self, locks: LockManager, plan: Plan, monotonic_s: Callable[[], float]) -> None:
        self._locks, self._plan, self._monotonic_s = locks, plan, monotonic_s
        self._wait_s = plan.timeout
        self._lease: Lease | None = None
        self.state = NEW
        self.basis = Basis(locks, plan.keys, plan.version_of)
        self.stale: dict[str, Conflict] = {}

    @property
    def fencing_token(self) -> int:
        """That of the lease; 0 if nothing is locked."""
        return self._lease.fencing_token if self._lease is not None else 0

    def take(self) -> None:
        """Take the locks, in what is left of the timeout."""
        lease = self._new_lease()
        if lease is not None:
            with self._waiting():
                lease.__enter__()

    async def take_async(self) -> None:
        """As ``take``, for tasks."""
        lease = self._new_lease()
        if lease is not None:
            with self._waiting():
                await lease.__aenter__()

    def let_go(self) -> None:
        """Let go of the locks, if they are held."""
        if self._lease is not None:
            self._lease.__exit__(None, None, None)

    def end(self) -> None:
        """They are not taken again."""
        self.state = ENDED
        self.basis.give_up()

    def check(self) -> None:
        """Raise unless the locks are held, and the versions were compared."""
        if self.state is not RUNNING:
            raise LockError(
                "use reflection", target=self._plan.name, cause=f"it is {self.state}",
                hint="Read and write in its block, and outside of unlocked().",
            )
        if self._lease is not None:
            self._lease.check()

    def heartbeat(self) -> None:
        """Have the locks last ``ttl`` from now."""
        self.check()
        if self._lease is not None:
            self._lease.heartbeat()

    def loss(self) -> LockLostError | None:
        """The error of one whose locks were taken away while it ran."""
        try:
            if self._lease is not None and self.state is RUNNING:
                self._lease.check()
        except LockLostError as lost:
            return lost
        return None

    def pause(self, versions: Versions) -> None:
        """Let go in order to think; ``versions``: as they are now."""
        self.basis.open(versions, self.fencing_token)
        self.check()  # also while the versions were asked for
        self.state = THINKING
        self.let_go()

    def resume(self, versions: Versions) -> None:
        """The locks are held again; ``versions``: as they are now."""
        self.stale.update({one.key: one for one in self.basis.settle(versions)})
        self.state = RUNNING

    def refresh(self) -> None:
        """Be based on what is there now."""
        self.check()
        self.stale = {}
        self.basis.forget()

    def _new_lease(self) -> Lease | None:
        plan = self._plan
        if not plan.keys:
            return None
        lease = self._locks.hold_all(plan.keys, timeout=self._wait_s, priority=plan.priority)
        lease.where = plan.where
        # Kept before it is granted: an interrupt between would leave it to nobody.
        self._lease = lease if plan.ttl is None else lease.limit(plan.ttl, plan.max_hold)
        return self._lease

    @contextmanager
    def _waiting(self) -> Iterator[None]:
        began_s = self._monotonic_s()
        try:
            yield
        finally:
            if self._wait_s is not None:
                self._wait_s = max(0.0, self._wait_s - (self._monotonic_s() - began_s))
