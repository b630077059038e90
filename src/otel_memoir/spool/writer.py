"""The writer thread: commits what is handed over, fsyncs in ``process``, and keeps room."""

from __future__ import annotations

import threading
from collections.abc import Callable

from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import SpoolRemovedError
from otel_memoir.settings import Settings
from otel_memoir.spool.alarm import Alarm
from otel_memoir.spool.chores import Chores
from otel_memoir.spool.connection import StorageError, is_io_error
from otel_memoir.spool.group_commit import GroupCommit
from otel_memoir.spool.home import Home
from otel_memoir.spool.model import Draft, Entry
from otel_memoir.spool.nesting import Nesting
from otel_memoir.spool.upkeep import Upkeep

_UPKEEP_INTERVAL_S = 1.0


class Writer:
    """One thread, from the first record to the end.

    Args:
        home: Whose file.

        chores: How its work gets into a commit.

        commits: How commits are made.

        nesting: Whose left-overs it stores.

        settings: The settings.

        take_early: Opens the file, and stores what event loops handed over before.

        make_room: Evicts for what event loops handed over although there was no room.

        leave_file: Goes on in another file.

        on_written: Called after each round.
    """

    def __init__(
        self,
        home: Home,
        chores: Chores,
        commits: GroupCommit[Entry],
        nesting: Nesting[Draft],
        settings: Settings,
        *,
        take_early: Callable[[], None],
        make_room: Callable[[], None],
        leave_file: Callable[[Exception], None],
        on_written: Callable[[], None],
    ) -> None:
        self.alarm = Alarm()
        self._home = home
        self._chores = chores
        self._commits = commits
        self._nesting = nesting
        self._settings = settings
        self._leave_file = leave_file
        self._on_written = on_written
        self._take_early = take_early
        self._make_room = make_room
        self._stopping = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def start(self) -> None:
        """Start the thread, where one can be started: else ``flush`` and the end do its work."""
        if self._thread is not None or not self._starting.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                self._start()
        finally:
            self._starting.release()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="memoir-writer", daemon=True)
        try:
            thread.start()
            self._thread = thread
        except RuntimeError as error:  # too many threads, or the interpreter ends (3.12)
            complaints.say("writer", f"the writer thread cannot be started: {error}")

    def stop(self, timeout: float) -> None:
        """End the thread; wait for it at most ``timeout`` seconds."""
        self._stopping.set()
        self.alarm.ring()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(timeout)

    def _run(self) -> None:
        with unobserved(), self._nesting.uninterrupted():
            while not self._stopping.is_set():
                rung = self.alarm.wait(self._next_wake_s())
                if rung:
                    self._stopping.wait(self._settings.batch_delay_s)
                self._write_once()

    def _next_wake_s(self) -> float:
        if self._settings.durability == "process":
            return min(self._settings.fsync_interval_s, _UPKEEP_INTERVAL_S)
        return _UPKEEP_INTERVAL_S

    def _write_once(self) -> None:
        try:
            self._take_early()
        except Exception as error:  # noqa: BLE001 - as below
            complaints.say("writer", f"{self._home.directory} could not be opened: {error}")
        committer, upkeep = self._home.committer, self._home.upkeep
        if committer is None or upkeep is None:
            return
        try:
            self._nesting.drain_left_over()
            self._begin_anew()
            if committer.needs_sync:
                self._chores.sync()
            else:
                self._commits.commit_queued(1.0)
            self._make_room()
            if upkeep.is_due():
                self._keep_up(upkeep)
        except Exception as error:  # noqa: BLE001 - without its writer a spool goes silent
            complaints.say("writer", f"upkeep of {self._home.directory} failed: {error}")
        self._on_written()

    def _begin_anew(self) -> None:
        """Begin the next life if the clock had to go back. Whatever fails, commits go on."""
        try:
            if not self._home.is_over:
                return
            with self._commits.committing(1.0) as held:
                if held:
                    self._home.begin_anew(self._commits.commit_held)
        except Exception as error:  # noqa: BLE001 - the clock may be the application's own
            complaints.say("anew", f"no stream could be begun, though the clock went back: {error}")
        finally:
            complaints.let_out()

    def _has_step(self, upkeep: Upkeep) -> bool:
        with self._commits.committing(1.0) as held:
            file = self._home.file
            return held and file is not None and upkeep.has_step(file)

    def _keep_up(self, upkeep: Upkeep) -> None:
        file = self._home.file
        if file is not None and (removed := file.removed()):
            self._on_removed(removed, is_lost=removed == str(file.path))
        upkeep = self._home.upkeep or upkeep
        upkeep.refresh()
        while not self._stopping.is_set() and self._has_step(upkeep):
            upkeep.let_go(self._chores.perform(upkeep.step))
        if upkeep.disk_is_low:
            self._truncate_log()

    def _truncate_log(self) -> None:
        try:
            with self._commits.committing(1.0) as held:
                if held and self._home.file is not None:
                    self._home.file.truncate_log()
        except StorageError as error:
            if not is_io_error(error):
                raise
            self._leave_file(error)  # a checkpoint fsyncs what commits of ``process`` did not

    def _on_removed(self, name: str, *, is_lost: bool) -> None:
        """A lock that is gone lets a second writer in; a log that is gone is lost with us."""
        if is_lost:
            complaints.say(
                "removed", f"{name} was removed while in use: what it holds is delivered as long "
                "as this process lives, and is not durable. Restart it.",
            )
            return
        self._leave_file(SpoolRemovedError("write", target=name, cause="it was removed"))
