"""Where a process writes: the file of its slot, the life that it began in it, and its room.

It moves in at the first record, on to a new file when the current one cannot be trusted,
and into memory when no file can be begun. After it moved in, the commit lock guards all
changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError, SpoolError
from otel_memoir.settings import Settings
from otel_memoir.spool.chore import Successor
from otel_memoir.spool.commit import Committer
from otel_memoir.spool.connection import is_disk_full
from otel_memoir.spool.directory import prepare_directory, slots
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.group_commit import GroupCommit
from otel_memoir.spool.model import Entry, Life, MakeStamper
from otel_memoir.spool.open_batch import OpenBatch
from otel_memoir.spool.recovery import LeftFile, leave, open_slot
from otel_memoir.spool.upkeep import Upkeep

RESERVE = 2**14
"""So many numbers are reserved at once where records wait in memory."""

_FILES_TRIED = 3
_FULL_RETRY_S = 1.0


class Home:
    """A process's file and what goes with it; nothing of it before it moved in.

    Args:
        settings: The settings.

        directory: Where the slots are.

        make_stamper: Gives the stamper of each new stream.

        commits: Whose append lock guards the change of lives.

        batch: The batch that is being appended to.

        wall_ns: The wall clock, for times on disk.

        monotonic_s: The clock for durations.

        clock_epoch: Rises when the clock of the stamps had to go back: then a life is over,
            since the times of a stream never decrease.

        owner: Whose intents are written.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        directory: Path,
        make_stamper: MakeStamper,
        commits: GroupCommit[Entry],
        batch: OpenBatch,
        wall_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
        clock_epoch: Callable[[], int],
        owner: str,
    ) -> None:
        self.life: Life | None = None
        self.committer: Committer | None = None
        self.upkeep: Upkeep | None = None
        self.directory = directory
        self._settings = settings
        self._make_stamper = make_stamper
        self._commits = commits
        self._batch = batch
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._clock_epoch = clock_epoch
        self._owner = owner
        self._began_in = clock_epoch()
        self.disk_is_full = False
        self._next_try_s = float("-inf")
        self._avoid: frozenset[int] = frozenset()
        self._left: list[LeftFile] = []

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings
        if self.upkeep is not None:
            self.upkeep.use(settings)

    @property
    def file(self) -> SpoolFile | None:
        """The open file; ``None`` before the first record and after the end."""
        return self.committer.file if self.committer is not None else None

    @property
    def is_on_disk(self) -> bool:
        """Whether records go to a file; without a usable directory they die with the process."""
        file = self.file
        return file is None or file.lock is not None

    @property
    def files_left(self) -> int:
        """How many files were left because they could not be trusted."""
        return len(self._left)

    def move_in(self) -> None:
        """Begin a life in a file, or in memory where no file can be had.

        On a full disk it begins nowhere: there will be room, and memory dies with the process.
        """
        if self._monotonic_s() < self._next_try_s:
            return
        self.disk_is_full = False
        if self._begin_in_a_file(self._make_committer) is not None:
            return
        if self.disk_is_full:
            self.committer, self._next_try_s = None, self._monotonic_s() + _FULL_RETRY_S
        else:
            self._begin_in_memory(self._make_committer)

    def _make_committer(self, file: SpoolFile) -> None:
        self.committer = Committer(
            file, every_commit_synced=self._synchronous == "FULL", fail_over=self._fail_over,
            make_room=self._make_room, wall_ns=self._wall_ns, owner=self._owner,
        )

    def _begin_in_a_file(self, use: Callable[[SpoolFile], None]) -> SpoolFile | None:
        """Begin a life in a file that takes its first commit, if one does.

        Args:
            use: Told of each file before its life begins.
        """
        for _ in range(_FILES_TRIED):
            file = self._open_file()
            if file is not None and self._begins(file, use):
                return file
        return None

    def _begin_in_memory(self, use: Callable[[SpoolFile], None]) -> SpoolFile:
        complaints.say(
            "memory", f"{self.directory} cannot be used: records are kept in memory only, and die "
            "with the process.",
        )
        file = SpoolFile(None)
        use(file)
        self._begin_life(file)
        return file

    def _begins(self, file: SpoolFile, use: Callable[[SpoolFile], None]) -> bool:
        try:
            use(file)
            self._begin_life(file)
            return True
        except (sqlite3.Error, MemoirError, OSError) as error:
            complaints.say("begin", f"cannot begin in {file.path}: {error}")
            self.disk_is_full |= is_disk_full(error, at=file.path)
        if file.lock is not None and not self.disk_is_full:
            self._avoid |= {file.lock.slot.number}
        with contextlib.suppress(sqlite3.Error):
            file.close()
        return False

    @property
    def _synchronous(self) -> str:
        return "NORMAL" if self._settings.durability == "process" else "FULL"

    def _open_file(self) -> SpoolFile | None:
        try:
            prepare_directory(self.directory)
            return open_slot(
                self.directory, avoid=self._avoid | self._with_a_past(),
                synchronous=self._synchronous, wall_ns=self._wall_ns,
            )
        except (SpoolError, OSError, sqlite3.Error) as error:
            complaints.say("directory", str(error))
            self.disk_is_full |= is_disk_full(
                error.__cause__ or error, at=self.directory / "any"
            )
            return None

    def _with_a_past(self) -> frozenset[int]:
        """On a failover, the slots that have a file.

        What is on its way has its batch's number already, which the ledger of a file with a
        past may have too: that batch could never be sent, nor anything behind it.
        """
        if self.life is None:
            return frozenset()
        return frozenset(slot.number for slot in slots(self.directory))

    @property
    def is_over(self) -> bool:
        """Whether the clock of the stamps had to go back since the life began."""
        return self.life is not None and self._clock_epoch() != self._began_in

    def begin_anew(self, commit: Callable[[], object]) -> None:
        """Begin the next life in the same file, and end the one before.

        The caller holds the commit lock.

        Args:
            commit: Commits what is queued, and says nothing.

        Raises:
            sqlite3.Error: Nothing began, and nothing ended.
        """
        commit()  # the next life begins after the last time that is on disk
        committer, old = self.committer, self.life
        if committer is None or old is None or not self.is_over:
            return  # a failover has begun it
        file = committer.file
        self._begin_life(file, living=old.number)
        commit()  # after it the old one has nothing in the queue, if it went well
        # In another file the same number is somebody else's.
        if committer.file is file and old.stored == old.next_sequence - 1:
            file.end_stream(old.number, old.stored)

    def _begin_life(self, file: SpoolFile, *, living: int = 0) -> None:
        assert self.committer is not None
        began_in = self._clock_epoch()
        hand_over = self._settings.durability == "batch" or on_event_loop()
        reserve = RESERVE if hand_over or self.committer.reserve else 0
        number, stream = file.begin_stream(self._wall_ns(), reserve=reserve, living=living)
        life = Life(file.name, number, stream, self._make_stamper(stream), reserved=reserve)
        # A settlement that is on disk already may still be on its way to the old one.
        upkeep = (self.upkeep if living else None) or Upkeep(
            file, self._settings, wall_ns=self._wall_ns, monotonic_s=self._monotonic_s
        )
        self.committer.reserve = reserve
        with self._commits.append_lock:
            self._batch.skip_to(file.last_batch + 1)
            self.upkeep = upkeep
            self.life = life
            self._began_in = began_in

    def _fail_over(self, error: Exception) -> Successor:
        """Leave the current file for a new one; called under the commit lock."""
        assert self.committer is not None
        file, life = self.committer.file, self.life
        if file.lock is None:
            raise SpoolError("leave the memory spool", cause=error)
        self._avoid |= {file.lock.slot.number}
        left = leave(file, error, wall_ns=self._wall_ns)
        self._left.append(left)
        file = self._begin_in_a_file(_ignore) or self._begin_in_memory(_ignore)
        return Successor(file, life, left.let_go)

    def _make_room(self) -> bool:
        return self.upkeep is not None and self.upkeep.release_ballast()

    # -- the end --------------------------------------------------------------

    def abandon(self) -> None:
        """In a fork child: let go of the parent's files without touching them."""
        if self.committer is not None:
            self.committer.file.abandon()
        for left in self._left:
            left.abandon()

    def move_out(self) -> None:
        """End the life and close the file. The caller holds the commit lock; nobody reads."""
        committer, life = self.committer, self.life
        if committer is None or life is None:
            return
        self.committer = self.life = self.upkeep = None
        for left in self._left:
            left.close_reader()
        try:
            # Closed in any case: a slot that stays held is adopted by nobody.
            with contextlib.closing(committer.file):
                committer.file.end_stream(life.number, life.next_sequence - 1)
        except sqlite3.Error as error:
            complaints.say("close", f"cannot end {committer.file.path}: {error}")


def on_event_loop() -> bool:
    """Whether this thread runs an asyncio event loop just now."""
    return asyncio._get_running_loop() is not None


def _ignore(_: SpoolFile) -> None:
    return None
