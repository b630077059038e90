"""A lease: a lock as its holder has it in hand.

``hold`` makes one that is not granted yet, and ``with`` or ``async with`` on it is granted
or raises. It can be let go by its owner only, once, and by nothing but its own token: what
was taken away from a holder in the meantime is not his to release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import TracebackType

from otel_memoir.errors import LockError
from otel_memoir.locks import terms
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.modes import mode_of
from otel_memoir.locks.parking import acquire, acquire_async
from otel_memoir.locks.parts import Claim
from otel_memoir.locks.repair import recover
from otel_memoir.locks.report import Where
from otel_memoir.locks.states import LOST


class Lease(Claim):
    """What ``hold``, ``hold_all`` and ``acquire`` give; made by a manager only.

    Attributes:
        key, mode: The key, and its mode as a number of ``modes``; the first of several.

        keys: All keys with their modes; empty: ``key`` alone.

        state: ``new``, ``held``, ``released``, or ``lost`` (taken away).

        engine: Who grants it. Set after the others: a free lock does not pay for one more call.
    """

    __slots__ = ("engine",)

    engine: Engine

    def limit(self, ttl_s: float | None, max_hold_s: float | None) -> Lease:
        """Give it a term: without a heartbeat it can be taken away after ``ttl_s``."""
        self.ttl_s, self.max_hold_s = ttl_s, max_hold_s
        self.slow = self.slow or ttl_s is not None
        return self

    # -- for the holder -------------------------------------------------------

    @property
    def fencing_token(self) -> int:
        """An integer that grows with every grant: give it to the store with each write."""
        return self.token

    @property
    def waited_s(self) -> float:
        """How long was waited for it, in seconds."""
        return self.waited_ns / 1e9

    def release(self) -> None:
        """Let go. Harmless when it was let go or lost before; an error for other units."""
        self.engine.release(self, self.engine.roll.here().owner)

    def upgrade(self, mode: str = "exclusive", *, timeout: float | None = None) -> None:
        """Get more of the key, ahead of all who queue for it, without letting go of it.

        Two shared holders who both upgrade wait for each other: one of them is refused
        at once. Whoever reads in order to write asks for ``update`` at the beginning.
        """
        terms.convert(self.engine, self, mode_of(mode), timeout)

    async def upgrade_async(
        self, mode: str = "exclusive", *, timeout: float | None = None
    ) -> None:
        """As ``upgrade``, for tasks."""
        await terms.convert_async(self.engine, self, mode_of(mode), timeout)

    def downgrade(self, mode: str = "shared") -> None:
        """Keep less of the key; nobody gets in between. Never waits."""
        terms.convert(self.engine, self, mode_of(mode), 0.0)

    def heartbeat(self) -> None:
        """Say that the holder is at work: the lease lasts ``ttl`` from now, up to ``max_hold``."""
        terms.renew(self.engine, self)

    def on_lost(self, call: Callable[[Lease], object]) -> None:
        """Have ``call(lease)`` called when the lease is taken away, in whichever thread did it."""
        with self.engine.mutex:
            lost = self.state is LOST
            if not lost:
                self.on_lost_calls = (*self.on_lost_calls, partial(call, self))
        if lost:
            call(self)

    # -- with -----------------------------------------------------------------

    def __enter__(self) -> Lease:
        engine = self.engine
        unit = engine.roll.here()
        try:
            if unit.foreign or not engine.take(self, unit.owner):
                acquire(engine, self, unit)
            return self
        except BaseException as error:
            # An interrupt between the grant and the block would leave the lock behind.
            recover(engine, self, error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        # What strikes before this line cannot be met in Python: see the test of interrupts.
        try:
            self.engine.release(self, None)
        except BaseException as interrupt:
            recover(self.engine, self, interrupt)
            raise

    async def __aenter__(self) -> Lease:
        engine = self.engine
        unit = engine.roll.here()
        try:
            if unit.foreign or not engine.take(self, unit.owner):
                await acquire_async(engine, self, unit, unit.owner)
        except BaseException as error:
            recover(engine, self, error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.engine.release(self, None)


def lease_of_all(
    engine: Engine, modes: Mapping[str, str], timeout: float | None, priority: int, where: Where
) -> Lease:
    """One lease of several keys."""
    keys = tuple((key, mode_of(mode)) for key, mode in modes.items())
    if not keys:
        raise LockError("lock", cause="no key is given")
    first, mode = keys[0]
    lease = Lease(first, mode, timeout, priority, where, keys)
    lease.engine = engine
    return lease
