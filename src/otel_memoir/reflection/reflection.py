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
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

from otel_memoir.errors import Conflict, LockError, ReflectionSkippedError, WriteConflictError
from otel_memoir.reflection.account import Account
from otel_memoir.reflection.hold import ENDED, RUNNING, Hold
from otel_memoir.reflection.plan import Plan
from otel_memoir.reflection.rota import Rota
from otel_memoir.reflection.telling import Story, Teller, guarded
from otel_memoir.reflection.unlocked import Unlocked

if TYPE_CHECKING:
    from otel_memoir.locks import LockManager


class Reflection(Account):
    """What ``Reflections.reflect`` gives; for one block."""

    def __init__(
        self, locks: LockManager, rota: Rota, teller: Teller, plan: Plan,
        on_rerun: Callable[[Reflection], object] | None, *, monotonic_s: Callable[[], float],
    ) -> None:  # fmt: skip
        super().__init__(plan)
        self._locks, self._rota, self._skips = locks, rota, plan.if_busy == "skip"
        self._on_rerun = on_rerun
        self._monotonic_s, self._began_s, self._pid = monotonic_s, 0.0, os.getpid()
        self._hold = Hold(locks, plan, monotonic_s)
        self._refused: dict[str, Conflict] = {}
        self._story = Story(teller, self, plan)

    # -- for the block --------------------------------------------------------

    @property
    def state(self) -> str:
        """``new``, also while it waits; ``running``; ``thinking``, without its locks; ``ended``."""
        return self._hold.state

    @property
    def fencing_token(self) -> int:
        """An integer that grows with every grant, for the store; 0 if nothing is locked.

        After ``unlocked`` it is another one.
        """
        self._hold.check()
        return self._hold.fencing_token

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
        self._hold.check()
        self._reads.append(key)
        self._hold.basis.tell(key, version)

    def wrote(self, *keys: str) -> None:
        """Say that memories were written, once for each write. Never raises."""
        self._writes.extend(keys)
        self._hold.basis.wrote(keys)

    def unlocked(self) -> Unlocked:
        """Let go of the locks for a block: ``with`` or ``async with``, around a long call.

        After it they are held again: same modes, same priority, in what is left of the
        timeout; also when the block raised an error. Not when it was called off.

        Raises (when the block is left):
            WriteConflictError: A memory changed meanwhile. The locks are held, so one can
                ``refresh``, read again, and go on.

            LockTimeoutError, DeadlockError, OwnerDiedError: The locks are not held.
        """
        return Unlocked(self._hold, self.check)

    def check(self) -> None:
        """Raise, unless what it was going to write may be written.

        Leaving ``unlocked`` does this by itself. To be asked before each write where a
        ``ttl`` is given, or where an error of ``unlocked`` was caught.

        Raises:
            WriteConflictError: A memory changed since it was read.

            LockLostError: A lock was taken away, because its ``ttl`` was over.

            LockError: The locks are not held.
        """
        self._hold.check()
        stale = self._hold.stale
        if stale:
            new = [one for key, one in stale.items() if self._refused.get(key) is not one]
            self._story.refused(new)
            self._refused.update(stale)
            first, *more = stale.values()
            raise WriteConflictError(
                first.key, expected=first.expected, found=first.found, more=more
            )

    def refresh(self) -> None:
        """Begin with what is there now, after a conflict: to be called before reading again."""
        self._hold.refresh()

    def heartbeat(self) -> None:
        """Say that it is at work: the locks last ``ttl`` from now, up to ``max_hold``."""
        self._hold.heartbeat()

    # -- with -----------------------------------------------------------------

    def __enter__(self) -> Reflection:
        self._claim()
        try:
            self._begin()
            self._hold.take()
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
            self._hold.let_go()
            lost = self._hold.loss() if error is None else None
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
            await self._hold.take_async()
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
        self._story.begin()
        holders = self._rota.join(self, skip=self._skips)
        if holders:
            self._hold.end()
            self._story.skipped(holders)
            raise ReflectionSkippedError(self.name, holders=[one.id for one in holders])

    def _start(self) -> Reflection:
        self._hold.state = RUNNING
        self._story.started()
        return self

    def _end(self, error: BaseException | None) -> None:
        if self.state is ENDED or self._pid != os.getpid():
            return  # in a fork child: it is the parent's to end
        try:
            self._hold.let_go()
        finally:
            self._hold.end()
            self._rota.leave(self)
            self._story.ended(self, self.duration_s, error)
        if self.rerun_requested and self._on_rerun is not None:
            guarded(partial(self._on_rerun, self), "on_rerun")
