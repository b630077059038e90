"""A lease: a lock as its holder has it in hand.

``hold`` makes one that is not granted yet, and ``with`` or ``async with`` on it is granted
or raises. It can be let go by its owner only, once, and by nothing but its own token: what
was taken away from a holder in the meantime is not his to release.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any

from opentelemetry.context import Context

from otel_memoir.errors import LockError, LockLostError
from otel_memoir.locks import terms
from otel_memoir.locks.modes import NAMES, X, mode_of
from otel_memoir.locks.repair import recover
from otel_memoir.locks.states import HELD, LOST, NEW

if TYPE_CHECKING:
    from otel_memoir.locks.engine import Engine
    from otel_memoir.locks.table import Steps
    from otel_memoir.locks.unit import Unit


class Lease:
    """What ``hold``, ``hold_all`` and ``acquire`` give.

    Attributes:
        key, mode: The key, and its mode as a number of ``modes``; the first of several.

        keys: All keys with their modes, in canonical order; empty: ``key`` alone.

        state: ``new``, ``held``, ``released``, or ``lost`` (taken away).

        token: The fence. Greater than that of every lease granted before it.

        acquired_ns: When it was granted, on the monotonic clock.

        waited_ns: How long was waited for it; 0: it was free.
    """

    __slots__ = (
        "_engine", "acquired_ns", "contended", "context", "expires_ns", "key", "keys", "lost_why",
        "max_hold_s", "mode", "on_lost_calls", "owner", "priority", "slow", "state", "steps",
        "timeout", "token", "ttl_s", "waited_ns", "where",
    )  # fmt: skip

    # Set by the grant: an attribute that is not set costs nothing.
    owner: Unit | None
    steps: Steps
    token: int
    acquired_ns: int
    waited_ns: int
    expires_ns: int
    max_hold_s: float | None
    lost_why: str
    context: Context

    def __init__(
        self, engine: Engine, key: str, mode: int, timeout: float | None, priority: int,
        where: tuple[Any, int], keys: tuple[tuple[str, int], ...] = (),
    ) -> None:  # fmt: skip
        self._engine, self.key, self.mode, self.keys = engine, key, mode, keys
        self.timeout, self.priority, self.where = timeout, priority, where
        self.state = NEW
        self.slow = bool(keys)
        self.on_lost_calls: tuple[Callable[[Lease], object], ...] = ()
        self.ttl_s: float | None = None

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
    def mode_name(self) -> str:
        """``shared``, ``update`` or ``exclusive``."""
        return NAMES[self.mode]

    @property
    def unit(self) -> str:
        """The id of the unit that owns it."""
        return self.owner.id if self.owner else ""

    @property
    def waited_s(self) -> float:
        """How long was waited for it, in seconds."""
        return self.waited_ns / 1e9

    @property
    def held(self) -> bool:
        """Whether it still counts."""
        return self.state is HELD

    def check(self) -> None:
        """Raise ``LockLostError`` if it was taken away: to be asked before each write."""
        if self.state is LOST:
            raise LockLostError(
                "use lease of", target=self.key, cause=self.lost_why,
                hint="Another may have changed what it protected: read it again.",
            )  # fmt: skip

    def release(self) -> None:
        """Let go. Harmless when it was let go or lost before; an error for other units."""
        self._engine.release(self, self._engine.roll.here().owner)

    def upgrade(self, mode: str = "exclusive", *, timeout: float | None = None) -> None:
        """Get more of the key, ahead of all who queue for it, without letting go of it.

        Two shared holders who both upgrade wait for each other: one of them is refused
        at once. Whoever reads in order to write asks for ``update`` at the beginning.
        """
        terms.convert(self._engine, self, mode_of(mode), timeout)

    async def upgrade_async(
        self, mode: str = "exclusive", *, timeout: float | None = None
    ) -> None:
        """As ``upgrade``, for tasks."""
        await terms.convert_async(self._engine, self, mode_of(mode), timeout)

    def downgrade(self, mode: str = "shared") -> None:
        """Keep less of the key; nobody gets in between. Never waits."""
        terms.convert(self._engine, self, mode_of(mode), 0.0)

    def heartbeat(self) -> None:
        """Say that the holder is at work: the lease lasts ``ttl`` from now, up to ``max_hold``."""
        terms.renew(self._engine, self)

    def on_lost(self, call: Callable[[Lease], object]) -> None:
        """Have ``call(lease)`` called when the lease is taken away, in whichever thread did it."""
        terms.on_lost(self._engine, self, call)

    # -- with -----------------------------------------------------------------

    def __enter__(self) -> Lease:
        engine = self._engine
        unit = engine.roll.here()
        try:
            if not engine.take(self, unit.owner):
                engine.parking.acquire(self, unit)
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
            self._engine.release(self, None)
        except BaseException as interrupt:
            recover(self._engine, self, interrupt)
            raise

    async def __aenter__(self) -> Lease:
        engine = self._engine
        unit = engine.roll.here()
        try:
            if not engine.take(self, unit.owner):
                await engine.parking.acquire_async(self, unit, unit.owner)
        except BaseException as error:
            recover(engine, self, error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self._engine.release(self, None)

    def __repr__(self) -> str:
        return f"<Lease {self.key} {self.mode_name} {self.state}>"


def lease_of_all(
    engine: Engine, modes: Mapping[str, str], timeout: float | None, priority: int,
    where: tuple[Any, int],
) -> Lease:  # fmt: skip
    """One lease of several keys, in canonical order."""
    keys = tuple((key, mode_of(mode)) for key, mode in modes.items())
    if not keys:
        raise LockError("lock", cause="no key is given")
    first = keys[0]
    return Lease(engine, first[0], first[1], timeout, priority, where, keys=keys)


def wants(lease: Lease) -> tuple[tuple[str, int], ...]:
    """The keys that a lease is for, with their modes."""
    return lease.keys or ((lease.key, lease.mode),)


def is_exclusive(lease: Lease) -> bool:
    """Whether its holder may have written."""
    return any(mode == X for _, mode in wants(lease))


