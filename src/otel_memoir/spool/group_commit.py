"""Many emitters, one fsync: how records of several threads share a commit.

Promises:

- When ``wait`` returns ``True``, the entry was handed to a ``commit`` that
  returned; until then it stays queued, in order.
- The first emitter of an open group leads; a lone emitter commits in its own
  thread, with no thread switch. Emitters that come while another group commits
  form the next one.
- A leader that is torn out of its work by an exception from outside (a signal
  handler, ``PyThreadState_SetAsyncExc``) leaves its group in the queue and wakes
  a follower to lead. A group leaves the queue only after its commit.
- No wait lacks a deadline: a follower that nobody woke tries to lead.

``commit`` runs under the commit lock and must not raise an ``Exception``. It
returns False if the entries must be offered again; what it can never store it
answers for itself. ``after`` runs in the same thread once the lock is free.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, TypeVar

E = TypeVar("E")

_FOLLOWER_PATIENCE_S = 0.25


class Group(Generic[E]):
    """Entries that are committed together, and the gate their emitters wait at."""

    __slots__ = ("done", "entries", "gate")

    def __init__(self) -> None:
        self.entries: list[E] = []
        self.done = False
        self.gate = threading.Lock()
        self.gate.acquire()

    def open_gate(self) -> None:
        """Wake the followers: each wakes the next."""
        try:
            self.gate.release()
        except RuntimeError:  # open already
            pass

    def pass_gate(self, timeout: float) -> None:
        """Wait at the gate, and leave it open for the next."""
        if self.gate.acquire(timeout=timeout):
            self.open_gate()


class GroupCommit(Generic[E]):
    """A queue of groups in front of one ``commit``.

    ``append_lock`` guards ``_queue`` and ``_open``, and is never held across I/O.
    The commit lock is held across I/O, and taken before the append lock.
    """

    def __init__(
        self,
        commit: Callable[[Sequence[E]], bool],
        *,
        after: Callable[[], None] = lambda: None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.append_lock = threading.Lock()
        self._commit = commit
        self._after = after
        self._monotonic_s = monotonic_s
        # Re-entrant only so that releasing it without owning it is an error that
        # can be told apart (see ``committing``); it is never taken twice.
        self._commit_lock = threading.RLock()
        self._queue: deque[Group[E]] = deque()
        self._open: Group[E] | None = None

    def add_locked(self, entry: E) -> tuple[Group[E], bool]:
        """Queue an entry; return its group, and whether the caller leads it."""
        group = self._open
        leads = group is None
        if group is None:
            group = Group()
            self._queue.append(group)
            self._open = group
        group.entries.append(entry)
        return group, leads

    def wait(self, group: Group[E], leads: bool, timeout: float) -> bool:
        """Wait until the group is committed, leading it if need be.

        Returns:
            Whether it was committed within ``timeout`` seconds. If not, it stays
            queued and is committed by the next one who commits.
        """
        deadline_s = self._monotonic_s() + timeout
        if leads:
            self.commit_queued(timeout)
        while not group.done:
            left_s = deadline_s - self._monotonic_s()
            if left_s <= 0:
                return False
            group.pass_gate(min(left_s, _FOLLOWER_PATIENCE_S))
            if not group.done:
                self.commit_queued(min(left_s, _FOLLOWER_PATIENCE_S))
        return True

    def first_queued(self) -> E | None:
        """The oldest entry that no commit has stored yet."""
        with self.append_lock:
            return self._queue[0].entries[0] if self._queue else None

    def commit_queued(self, timeout: float) -> bool:
        """Commit all that is queued now; return whether the lock was had in time."""
        # Written out, with nothing but C calls around the lock: an exception from
        # outside strikes between two Python calls, and a ``with`` over a generator or
        # a ``suppress`` in the ``finally`` has some. A leaked lock hung 64 threads.
        held = False
        try:
            held = self._commit_lock.acquire(timeout=max(timeout, 0.0))
            if held:
                self.commit_held()
            return held
        finally:
            try:
                self._commit_lock.release()
            except RuntimeError:  # not owned: not had in time
                pass
            self._after()

    @contextlib.contextmanager
    def committing(self, timeout: float) -> Iterator[bool]:
        """Hold the commit lock for a block; yields whether it was had in time.

        An exception from outside can strike between the lock's acquisition and
        the assignment of its result, so release asks the lock, not a variable.
        """
        held = False
        try:
            held = self._commit_lock.acquire(timeout=max(0.0, timeout))
            yield held
        finally:
            try:
                self._commit_lock.release()
            except RuntimeError:
                pass

    def hold(self, timeout: float) -> None:
        """Keep everybody from committing, if that can be had in time (before a fork)."""
        self._commit_lock.acquire(timeout=timeout)

    def let_go(self) -> None:
        """Undo ``hold``; harmless if it was not had."""
        with contextlib.suppress(RuntimeError):
            self._commit_lock.release()

    def commit_held(self) -> None:
        """Commit all that is queued now. The caller holds the commit lock (``committing``)."""
        with self.append_lock:
            groups = list(self._queue)
            self._open = None
        try:
            if not self._commit([entry for group in groups for entry in group.entries]):
                return
            with self.append_lock:
                for group in groups:
                    # In this order: torn between the two, a group is offered
                    # again and not forgotten; ``commit`` skips what it stored.
                    group.done = True
                    self._queue.popleft()
        finally:
            for group in groups:
                group.open_gate()
