"""``Reflection``: one of them, from its locks to its end.

A block that may not run cannot be left out by ``with``, only not be entered: so a reflection
that is skipped raises. A flag to be looked at would run the block without locks wherever
somebody forgot to look, and overwrite what the locks are there for.

The end comes once, in this order: the locks are let go, nothing is asked of it any more, the
event is emitted, the span ends, ``on_rerun`` is called. No await stands between, so no
cancellation can.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from otel_memoir.errors import (
    Conflict,
    LockError,
    LockLostError,
    ReflectionSkippedError,
    WriteConflictError,
)
from otel_memoir.reflection.basis import Basis, Versions
from otel_memoir.reflection.rota import RerunRequest, Rota
from otel_memoir.reflection.telling import Story, Teller, guarded
from otel_memoir.reflection.unlocked import Unlocked
from otel_memoir.stamping.uid import new_uid

if TYPE_CHECKING:
    from otel_memoir.locks import Lease, LockManager
    from otel_memoir.reflection.plan import Plan

NEW, RUNNING, THINKING, ENDED = "new", "running", "thinking", "ended"


class Reflection:
    """What ``Reflections.reflect`` gives; for one block.

    Attributes:
        id, name, keys: Its id, what kind it is, and what it locks, with modes.

        state: ``new`` (also while it waits), ``running``, ``thinking`` (without its locks),
            or ``ended``.

        owner: The id of the unit that it locks for, from its beginning.

        rerun_requests: Who asked it to run again, because they were skipped. After its
            end nobody is added any more.

        writes: How many writes it said it did.
    """

    def __init__(
        self, locks: LockManager, rota: Rota, teller: Teller, plan: Plan,
        monotonic_s: Callable[[], float],
    ) -> None:  # fmt: skip
        self.id, self.name, self.keys = new_uid(), plan.name, plan.keys
        self.state, self.owner, self.writes = NEW, "", 0
        self.rerun_requests: tuple[RerunRequest, ...] = ()
        self._locks, self._rota, self._plan = locks, rota, plan
        self._monotonic_s, self._began_s, self._pid = monotonic_s, 0.0, os.getpid()
        self._wait_s = plan.timeout
        self._lease: Lease | None = None
        self._basis = Basis(locks, plan.keys, plan.version_of)
        self._stale: dict[str, Conflict] = {}
        self._untold: tuple[Conflict, ...] = ()
        self._read: dict[str, None] = {}
        self._written: dict[str, None] = {}
        self._story = Story(teller, self, plan)

    # -- for the block --------------------------------------------------------

    @property
    def rerun_requested(self) -> bool:
        """Whether it was asked to run again. True after its end: run it again."""
        return bool(self.rerun_requests)

    @property
    def fencing_token(self) -> int:
        """An integer that grows with every grant, for the store; 0 if nothing is locked.

        After ``unlocked`` it is another one.
        """
        self._hold()
        return self._lease.fencing_token if self._lease is not None else 0

    @property
    def was_read(self) -> tuple[str, ...]:
        """What it said it read."""
        return tuple(self._read)

    @property
    def written(self) -> tuple[str, ...]:
        """What it said it wrote."""
        return tuple(self._written)

    @property
    def duration_s(self) -> float:
        """Seconds since it began to wait for its locks."""
        return self._monotonic_s() - self._began_s

    def read(self, key: str, version: Any = None) -> None:
        """Say that a memory was read, under the locks: only such count for the versions.

        Args:
            key: What was read: a key, or something below one. If nothing is said, all
                keys count.

            version: The version that was read, where the store tells it with what was
                read; compared with what ``version_of`` says then. None: ``version_of``
                is asked when the locks are let go.
        """
        self._hold()
        self._read[key] = None
        self._basis.tell(key, version)

    def wrote(self, *keys: str) -> None:
        """Say that memories were written, once for each write. Never raises."""
        self.writes += len(keys)
        self._written.update(dict.fromkeys(keys))

    def unlocked(self) -> Unlocked:
        """Let go of the locks for a block: ``with`` or ``async with``, around a long call.

        After it they are held again: same modes, same priority, in what is left of the
        timeout; also when the block raised an error. Not when it was called off.

        Raises (when the block is left):
            WriteConflictError: A memory changed meanwhile. The locks are held, so one can
                ``refresh``, read again, and go on.

            LockTimeoutError, DeadlockError, OwnerDiedError: The locks are not held.
        """
        return Unlocked(self)

    def check(self) -> None:
        """Raise, unless what it was going to write may be written.

        Leaving ``unlocked`` does this by itself. To be asked before each write where a
        ``ttl`` is given, or where an error of ``unlocked`` was caught.

        Raises:
            WriteConflictError: A memory changed since it was read.

            LockLostError: A lock was taken away, because its ``ttl`` was over.

            LockError: The locks are not held.
        """
        self._hold()
        if self._stale:
            untold, self._untold = self._untold, ()
            self._story.refused(untold)
            raise WriteConflictError(tuple(self._stale.values()))

    def refresh(self) -> None:
        """Begin with what is there now, after a conflict: to be called before reading again."""
        self._hold()
        self._stale.clear()
        self._untold = ()
        self._basis.forget()

    def heartbeat(self) -> None:
        """Say that it is at work: the locks last ``ttl`` from now, up to ``max_hold``."""
        self._hold()
        if self._lease is not None:
            self._lease.heartbeat()

    # -- with -----------------------------------------------------------------

    def __enter__(self) -> Reflection:
        self._claim()
        try:
            self._begin()
            self._take()
            return self._start()
        except BaseException as error:
            self._end(error)
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        # What strikes before this line cannot be met in Python, as for a lease.
        try:
            self._let_go()
            lost = self._loss() if error is None else None
            self._end(error or lost)
        except BaseException as interrupt:
            self._end(interrupt)
            raise
        if lost is not None:
            raise lost

    async def __aenter__(self) -> Reflection:
        self._claim()
        try:
            self._begin()
            await self._take_async()
            return self._start()
        except BaseException as error:
            self._end(error)
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        self.__exit__(kind, error, trace)

    def __repr__(self) -> str:
        return f"<Reflection {self.name} {self.id} {self.state}>"

    # -- steps ----------------------------------------------------------------

    def _claim(self) -> None:
        if self.owner:
            raise LockError(
                "begin reflection", target=self.name, cause="it has begun before",
                hint="Call reflect() again for another one.",
            )
        self.owner, self._began_s = self._locks.owner_id(), self._monotonic_s()

    def _begin(self) -> None:
        self._story.begin(self)
        holders = self._rota.join(self, skip=self._plan.if_busy == "skip")
        if holders:
            self.state = ENDED
            self._story.skipped(holders)
            raise ReflectionSkippedError(self.name, holders=[one.id for one in holders])

    def _start(self) -> Reflection:
        self.state = RUNNING
        self._story.started()
        return self

    def _end(self, error: BaseException | None) -> None:
        if self.state is ENDED or self._pid != os.getpid():
            return  # in a fork child: it is the parent's to end
        try:
            self._let_go()
        finally:
            self.state = ENDED
            self._basis.give_up()
            self._rota.leave(self)
            self._story.ended(self, error)
        if self.rerun_requested and self._plan.on_rerun is not None:
            guarded(partial(self._plan.on_rerun, self), "on_rerun")

    # -- locks ----------------------------------------------------------------

    def _take(self) -> None:
        lease = self._new_lease()
        if lease is not None:
            with self._waiting():
                lease.__enter__()

    async def _take_async(self) -> None:
        lease = self._new_lease()
        if lease is not None:
            with self._waiting():
                await lease.__aenter__()

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

    def _let_go(self) -> None:
        if self._lease is not None:
            self._lease.__exit__(None, None, None)

    def _hold(self) -> None:
        """Raise unless the locks are held, and the versions compared."""
        if self.state is not RUNNING:
            raise LockError(
                "use reflection", target=self.name, cause=f"it is {self.state}",
                hint="Read and write in its block, and outside of unlocked().",
            )
        if self._lease is not None:
            self._lease.check()

    def _loss(self) -> LockLostError | None:
        try:
            if self._lease is not None and self.state is RUNNING:
                self._lease.check()
        except LockLostError as lost:
            return lost
        return None

    # -- for unlocked ---------------------------------------------------------

    def pause(self, versions: Versions) -> None:
        """Let go of the locks; called by ``Unlocked`` with the versions as they are."""
        self._basis.open(versions, self._lease.fencing_token if self._lease else 0)
        self._hold()  # also while the versions were asked for
        self.state = THINKING
        self._let_go()

    def resume(self, versions: Versions) -> None:
        """The locks are held again; called by ``Unlocked`` with the versions as they are."""
        self._untold = self._basis.settle(versions)
        self._stale.update({one.key: one for one in self._untold})
        self.state = RUNNING
