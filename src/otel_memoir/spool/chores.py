"""How work that is not an emit gets into a commit: the courier's, the writer's, an eviction."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TypeVar, cast

from otel_memoir.errors import SpoolError
from otel_memoir.settings import Settings
from otel_memoir.spool.chore import Chore
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.group_commit import GroupCommit
from otel_memoir.spool.home import Home
from otel_memoir.spool.model import Entry

T = TypeVar("T")

RIDE_S = 0.05
"""How long a chore waits for an emitter's commit to ride in, before it makes its own."""


class LateError(SpoolError):
    """Work did not end in time. If somebody had begun with it, it may happen yet."""


class Chores:
    """Runs work in the next commit, and waits until that is on disk.

    Args:
        home: Whose file.

        commits: How commits are made.

        settings: The settings.

        monotonic_s: The clock for durations.
    """

    def __init__(
        self,
        home: Home,
        commits: GroupCommit[Entry],
        settings: Settings,
        *,
        monotonic_s: Callable[[], float],
    ) -> None:
        self._home = home
        self._commits = commits
        self._settings = settings
        self._monotonic_s = monotonic_s

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def perform(
        self, work: Callable[[SpoolFile], T], *, ride: bool = False, timeout: float | None = None
    ) -> T:
        """Run work inside a commit that is fsynced when this returns.

        Args:
            work: What to do with the file. If it raises, nothing of it happened.

            ride: Wait a little for an emitter's commit first.

            timeout: The longest wait, in seconds; ``emit_timeout_s`` by default.

        Raises:
            LateError: It was not committed in time.

            SpoolError: It could not be committed; nothing of it happened.

            Exception: What ``work`` raised.
        """
        committer = self._home.committer
        if committer is None:
            raise SpoolError("write", target=self._home.directory, cause="the spool is not open")
        chore = Chore(work)
        committer.chores.append(chore)
        if not (ride and chore.gate.acquire(timeout=RIDE_S)):
            self._commit(chore, self._settings.emit_timeout_s if timeout is None else timeout)
        if not chore.done:
            with contextlib.suppress(ValueError):
                committer.chores.remove(chore)
            raise LateError("write", target=self._home.directory, cause="the disk is too slow")
        if chore.error is not None:
            raise chore.error
        return cast(T, chore.result)

    def _commit(self, chore: Chore, timeout: float) -> None:
        deadline_s = self._monotonic_s() + timeout
        while not chore.done and (left_s := deadline_s - self._monotonic_s()) > 0:
            self._commits.commit_queued(min(left_s, 1.0))

    def sync(self, *, timeout: float | None = None) -> None:
        """Commit and fsync all that is queued.

        Raises:
            SpoolError: As ``perform``.
        """
        self.perform(_nothing, timeout=timeout)


def _nothing(_: SpoolFile) -> None:
    """Work that does nothing but to be committed, and so fsynced."""
