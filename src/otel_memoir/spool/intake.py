"""The way in: what ``emit`` calls, from the draft to its place in the queue.

It never raises an ``Exception`` and never lets a record vanish: each gets a sequence
number, or a reason why not, which is counted.
"""

from __future__ import annotations

import threading
import zlib
from collections import deque
from collections.abc import Callable

from otel_memoir.diagnostics import complaints
from otel_memoir.settings import Settings
from otel_memoir.spool.admission import Admission
from otel_memoir.spool.group_commit import Group, GroupCommit
from otel_memoir.spool.home import RESERVE, Home, on_event_loop
from otel_memoir.spool.model import AFTER_SHUTDOWN, BROKEN, BUSY, Draft, Entry, Life, Refused
from otel_memoir.spool.nesting import Nesting
from otel_memoir.spool.open_batch import OpenBatch
from otel_memoir.spool.ticket import Ticket

_PATIENCE_S = 5.0


class Intake:
    """Accepts records of one process.

    Args:
        home: Where they go.

        commits: How they get there.

        batch: The batch that is being appended to.

        admission: Who gets in.

        settings: The settings.

        open_home: Moves in, at the first record; returns the life, or ``None`` after the end.

        start_writer: Starts the writer thread, if it does not run yet.

        ring: Wakes the writer thread.

        on_accept: Called after each emit that accepted something.
    """

    def __init__(
        self,
        home: Home,
        commits: GroupCommit[Entry],
        batch: OpenBatch,
        admission: Admission,
        settings: Settings,
        *,
        open_home: Callable[[], Life | None],
        start_writer: Callable[[], None],
        ring: Callable[[], None],
        on_accept: Callable[[], None],
    ) -> None:
        self.nesting: Nesting[Draft] = Nesting(self._append_all, ring)
        self.late = 0
        self.is_closed = False
        self._home = home
        self._commits = commits
        self._batch = batch
        self._admission = admission
        self._settings = settings
        self._open_home = open_home
        self._start_writer = start_writer
        self._early: deque[Draft] = deque()
        self._early_bytes = 0
        self._taking_early = threading.Lock()
        self._ring = ring
        self._on_accept = on_accept
        self._queued_bytes = 0

    def use(self, settings: Settings) -> None:
        """Go on with other settings."""
        self._settings = settings

    def append(self, draft: Draft) -> Ticket | Refused | None:
        """As ``Spool.append``."""
        nesting, me = self.nesting, threading.get_ident()
        if me in nesting.busy:
            nesting.keep(me, draft)
            return None
        try:
            nesting.busy.add(me)
            return self._append(draft)
        finally:
            # Twice, since an exception from outside can strike in between.
            try:
                nesting.leave(me)
            finally:
                nesting.busy.discard(me)

    @property
    def is_on_disk(self) -> bool:
        """Whether records go to a file."""
        return self._home.is_on_disk

    def wait_committed(self, group: Group[Entry], timeout: float) -> bool:
        """Wait until a group is committed; return whether it was, in ``timeout`` seconds."""
        with self.nesting.uninterrupted():
            return self._commits.wait(group, False, timeout)

    def committed(self, size: int) -> None:
        """Take note that payload bytes no longer wait in memory."""
        self._queued_bytes = max(0, self._queued_bytes - size)

    @property
    def has_early(self) -> bool:
        """Whether event loops handed over records before there was a file."""
        return bool(self._early)

    def take_early(self) -> None:
        """Open the file, and store what event loops handed over before. Not for their threads."""
        if not self._early or not self._taking_early.acquire(timeout=_PATIENCE_S):
            return
        try:
            self._open_home()
            committer = self._home.committer
            if committer is not None:
                committer.reserve = RESERVE
            self._append_all(self._early)
            self._early_bytes = 0
        finally:
            self._taking_early.release()

    def close(self) -> None:
        """Refuse what comes from now on; on return, all that came before is in the queue."""
        with self.nesting.uninterrupted():
            self.nesting.drain_left_over()
            self.take_early()
        self.is_closed = True
        with self.nesting.uninterrupted(), self._commits.append_lock:
            pass  # an emit that saw it open has its place in the queue now

    def reason_to_refuse(self, draft: Draft, *, on_loop: bool = False) -> Refused | None:
        """Why a record would be refused just now, if so."""
        if self.is_closed:
            return AFTER_SHUTDOWN
        return self._admission.reason_to_refuse(draft, queued=self._queued_bytes, on_loop=on_loop)

    # -- one record, or all that interrupted one ------------------------------

    def _append(self, draft: Draft) -> Ticket | Refused | None:
        on_loop = on_event_loop()
        if on_loop and self._hands_over(on_loop) and (self._early or self._home.life is None):
            return self._put_off(draft)
        added = self._enqueue(draft, on_loop)
        if isinstance(added, Refused):
            return added
        ticket, leads = added
        if self._hands_over(on_loop):
            return self._hand_over(ticket, leads, on_loop)
        if not self._commits.wait(ticket.group, leads, self._settings.emit_timeout_s):
            self._is_late()
        self._on_accept()
        return ticket.refusal or ticket

    def _put_off(self, draft: Draft) -> Refused | None:
        """Keep a record until the writer has opened the file: to open it would block the loop.

        While others wait here, it waits behind them: order is order of emits.
        """
        size = len(draft.payload)
        crowded = self._early_bytes + size > 2 * self._settings.memory_bytes_max
        if self.is_closed or crowded:
            refused = self._admission.refuse(AFTER_SHUTDOWN if self.is_closed else BUSY)
            if draft.taken is not None:
                draft.taken(refused)
            return refused
        self._early_bytes += size
        self._early.append(draft)
        self._start_writer()
        self._ring()
        return None

    def _append_all(self, drafts: deque[Draft]) -> None:
        """Accept what interrupted an emit, all with one wait for the disk.

        A draft is removed once it is in the queue: torn in between, it is taken twice,
        under one uid, and not lost.
        """
        on_loop = on_event_loop()
        last: Ticket | None = None
        while drafts:
            added = self._enqueue(drafts[0], on_loop)
            drafts.popleft()
            last = last if isinstance(added, Refused) else added[0]
        if last is None:
            return
        if self._hands_over(on_loop):
            self._ring()
        elif not self._commits.wait(last.group, True, self._settings.emit_timeout_s):
            self._is_late()
        self._on_accept()

    def _hands_over(self, on_loop: bool) -> bool:
        return self._settings.durability == "batch" or (
            on_loop and self._settings.on_event_loop == "handover"
        )

    def _hand_over(self, ticket: Ticket, leads: bool, on_loop: bool) -> Ticket:
        if leads:
            self._ring()
        crowded = self._queued_bytes > self._settings.memory_bytes_max
        if not on_loop and (crowded or ticket.sequence > ticket.life.reserved):
            self._commits.wait(ticket.group, False, self._settings.emit_timeout_s)
        return ticket

    def _is_late(self) -> None:
        self.late += 1
        complaints.say(
            "late",
            f"the disk under {self._home.directory} did not answer in "
            f"{self._settings.emit_timeout_s:g} s; records wait in memory",
        )

    # -- into the queue -------------------------------------------------------

    def _enqueue(self, draft: Draft, on_loop: bool) -> tuple[Ticket, bool] | Refused:
        """Give a record its number and its place in the queue, or say why not."""
        added = self._add(draft, on_loop)
        if draft.taken is not None:
            draft.taken(added if isinstance(added, Refused) else added[0])
        return added

    def _add(self, draft: Draft, on_loop: bool) -> tuple[Ticket, bool] | Refused:
        if self._home.life is None:
            self._open_home()
        reason = self.reason_to_refuse(draft, on_loop=on_loop)
        if reason is not None:
            return self._admission.refuse(reason)
        packed = len(draft.payload) > self._settings.compress_above_bytes
        payload = zlib.compress(draft.payload, 1) if packed else draft.payload
        committer = self._home.committer
        if committer is not None and not committer.reserve and self._hands_over(on_loop):
            committer.reserve = RESERVE
        try:
            with self._commits.append_lock:
                # The end may have come since the reason was asked for.
                life = None if self.is_closed else self._home.life
                added = self._add_locked(life, draft, payload, packed) if life else None
        except Exception as error:  # noqa: BLE001 - the clock may be the application's own
            complaints.say("stamp", f"a record could not be stamped: {error!r}")
            return self._admission.refuse(BROKEN)
        return added or self._admission.refuse(AFTER_SHUTDOWN)

    def _add_locked(
        self, life: Life, draft: Draft, payload: bytes, packed: bool
    ) -> tuple[Ticket, bool]:
        sequence = life.next_sequence
        suffix, unix_ns = life.stamp(draft, sequence)
        size = len(draft.payload) + len(suffix)
        entry = Entry(
            life, sequence, self._batch.take(size), draft.envelope, draft.severity, unix_ns, size,
            packed, payload + suffix, draft.intent,
        )
        life.next_sequence = sequence + 1
        self._queued_bytes += size
        group, leads = self._commits.add_locked(entry)
        return Ticket(self, group, life, sequence), leads
