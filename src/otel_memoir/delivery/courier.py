"""The courier: one thread that sends batches until each is settled.

    plan ─► write down the attempt ─► send ─► judge ─► settle

Promises:

- One request is in flight. Before it leaves, its batch and the attempt are fsynced.
- A batch leaves the spool only for a final state, with its counter.
- Batches go in row order. A batch that fails while others are delivered lets them
  pass; a destination that fails holds everything back, with exponential backoff,
  full jitter and no limit in time.
- While delivery is on hold, one batch is tried every ``hold_probe_interval_s``, and
  the first plain OK ends the hold. So does another destination.
- After an outage the rate grows from small, and requests are as large as the
  destination takes them (``flow``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from otel_memoir.delivery.backoff import UNIFORM
from otel_memoir.delivery.dispatch import Dispatcher, Sender
from otel_memoir.delivery.pace import Pace
from otel_memoir.delivery.planner import Planner
from otel_memoir.delivery.sources import Source
from otel_memoir.delivery.tally import DeliveryTally
from otel_memoir.delivery.teller import MakeGapDraft, MakeOrphanDraft, Teller
from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.errors import MemoirError
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Hold, Spool
from otel_memoir.spool.alarm import Alarm
from otel_memoir.spool.connection import StorageError, is_corrupt

_IDLE_S = 1.0
_TROUBLE_S = 1.0


class Courier:
    """Delivers what a spool, and the files of dead processes beside it, hold.

    Args:
        spool: This process's spool.

        sender: How to send.

        settings: The settings.

        make_gap_draft: Turns a loss into the event that tells of it.

        make_orphan_draft: Turns an intent whose outcome nobody knows into such an event,
            which ends it.

        on_turn: (attribute) Called after each turn, and at least about once a second while
            the thread lives, with no lock held. It must not raise.

        wall_ns: The wall clock, for times on disk.

        monotonic_s: The clock for durations.

        uniform: Gives a random number between its arguments, for jitter.
    """

    def __init__(
        self,
        spool: Spool,
        sender: Sender,
        settings: Settings,
        *,
        make_gap_draft: MakeGapDraft,
        make_orphan_draft: MakeOrphanDraft,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_s: Callable[[], float] = time.monotonic,
        uniform: Callable[[float, float], float] = UNIFORM,
    ) -> None:
        self._spool = spool
        self._sender = sender
        self._settings = settings
        self._make_gap_draft = make_gap_draft
        self._make_orphan_draft = make_orphan_draft
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._uniform = uniform
        self._news: deque[tuple[Sender, Settings]] = deque(maxlen=1)
        self.on_turn: Callable[[], None] = lambda: None
        self.tally = DeliveryTally(monotonic_s)
        self._start_anew()

    def _start_anew(self) -> None:
        settings = self._settings
        self._alarm = Alarm()
        self._stopping = threading.Event()
        self._hurry = 0
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._progress = threading.Condition()
        # What the courier sleeps over; only its thread writes them.
        self._paused = False
        self._filling: int | None = None
        self._own_name = ""
        self._teller = Teller(self._spool, self._make_gap_draft, self._make_orphan_draft)
        self._planner = Planner(
            self._spool, settings, wall_ns=self._wall_ns, monotonic_s=self._monotonic_s
        )
        pace = Pace(
            settings, wall_ns=self._wall_ns, monotonic_s=self._monotonic_s,
            uniform=self._uniform, fit=self._spool.limit_requests,
        )
        self._dispatcher = Dispatcher(
            self._sender, settings, pace, self.tally, reading=self._spool.reading,
            wall_ns=self._wall_ns, monotonic_s=self._monotonic_s,
        )

    def use(self, sender: Sender, settings: Settings) -> None:
        """Deliver so from the next request on; one in flight ends as it began. Never blocks.

        Args:
            sender: How to send; another one than before is another destination, and a hold
                or a backoff ends at once.

            settings: The settings.
        """
        self._news.append((sender, settings))
        self._alarm.ring()

    def _take_news(self) -> None:
        with contextlib.suppress(IndexError):
            sender, settings = self._news.pop()
            before, self._sender, self._settings = self._sender, sender, settings
            self._planner.use(settings)
            self._dispatcher.use(sender, settings)
            if before is not sender:
                before.close()

    def forget(self) -> None:
        """In a fork child: let go of all that belongs to the parent."""
        self._planner.abandon()
        self._sender.forget()
        self.tally = DeliveryTally(self._monotonic_s)
        self._start_anew()

    # -- the thread -----------------------------------------------------------

    def wake(self) -> None:
        """Start the courier, or tell it that there is something to send. Never blocks.

        It is let sleep while only time can change what it would do: woken for each
        record, it took the interpreter from the emitters (140 µs of CPU an emit, measured).
        """
        if self._thread is None:
            self._start()
        elif self._paused or self._spool.open_batch[0] == self._filling:
            return
        self._alarm.ring()

    def _start(self) -> None:
        if self._stopping.is_set() or not self._start_lock.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="memoir-courier", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:
            # No thread can be started while the interpreter ends (3.12); ``close``
            # then delivers in the thread that calls it.
            complaints.say("courier", "no courier thread can be started any more")
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        with unobserved():
            while not self._stopping.is_set():
                wait_s = self._go_on()
                self.on_turn()
                if wait_s > 0:
                    self._alarm.wait(wait_s)
            self._finish()

    def _go_on(self) -> float:
        """Do one thing; return how long to wait for the next, in seconds."""
        try:
            with self._spool.reading:
                return self._step()
        except Exception as error:  # noqa: BLE001 - a courier that ends delivers nothing
            complaints.say("courier", f"cannot go on delivering just now: {error}")
            return _TROUBLE_S
        finally:
            with self._progress:
                self._progress.notify_all()

    def _step(self) -> float:
        self._paused, self._filling = False, None
        self._restore_pace()
        self._take_news()
        self._planner.tried_s()
        wait_s = self._dispatcher.pace.left_s
        if wait_s > 0:
            self._dispatcher.write()
            self._paused = True
            return min(wait_s, _IDLE_S)
        self._planner.look_around()
        for source in self._planner.sources():
            if self._serve_or_set_aside(source):
                self._planner.note_served(source)
                return 0.0
        self._dispatcher.write()
        self._planner.let_go()
        self._filling = self._planner.filling
        return self._planner.idle_s(_IDLE_S)

    def _restore_pace(self) -> None:
        """Once for each file of our own: go on waiting where the last process left off."""
        for source in self._planner.sources():
            if source.file is self._spool.file and source.file.name != self._own_name:
                self._own_name = source.file.name
                self._dispatcher.restore_pace(source)

    def _serve_or_set_aside(self, source: Source) -> bool:
        try:
            return self._serve(source)
        except StorageError as error:
            if not is_corrupt(error):
                return self._pass_over(source, error)
            with contextlib.suppress(MemoirError, StorageError):
                self._dispatcher.write()  # what is settled is not salvaged
            self._planner.set_aside(source, error)
            return True

    def _pass_over(self, source: Source, error: Exception) -> bool:
        """Trouble with what a dead process left holds nobody up; our own is tried again later."""
        if source.file is self._spool.file:
            raise error
        complaints.say("adopted", f"cannot deliver from {source.file.path} just now: {error}")
        self._planner.note_served(source)
        return False

    def _serve(self, source: Source) -> bool:
        """Send the next batch of a file; return whether there was one."""
        self._teller.tell_of(source, timeout=self._settings.emit_timeout_s)
        batch = self._planner.next_batch(
            source, skip=self._dispatcher.unwritten_of(source), hurry=self._hurry > 0,
            found=self._dispatcher.found_ahead(source),
        )
        if batch is None:
            return False
        if self._planner.is_expired(source, batch):
            self._dispatcher.expire(source, batch)
        else:
            before = self._dispatcher.deliveries
            self._dispatcher.attempt(source, batch)
            self._planner.note_answer(is_yes=self._dispatcher.deliveries > before)
        return True

    def tell(self, draft: Draft) -> bool:
        """Emit an event about ourselves; return whether it was accepted.

        One that finds no room is no new gap: it can be told later.
        """
        return self._teller.tell(draft) is not None

    def _finish(self) -> None:
        with self._spool.reading:
            try:
                self._dispatcher.write()
            except (MemoirError, StorageError) as error:
                complaints.say("courier", f"the last answer could not be written down: {error}")
            self._planner.release_all()
        self._dispatcher.join()

    # -- for those who wait ---------------------------------------------------

    @property
    def hold(self) -> Hold | None:
        """Why delivery stands still, if it does."""
        return self._dispatcher.pace.hold

    @property
    def next_try_s(self) -> float:
        """How long the destination is left alone yet, in seconds."""
        return max(0.0, self._dispatcher.pace.not_before_s - self._monotonic_s())

    def is_drained(self) -> bool:
        """Whether nothing waits in our own file or in those we adopted."""
        file = self._spool.file
        if self._dispatcher.has_unwritten or self._planner.adopted_any():
            return False
        if not self._planner.has_looked:
            return False
        return file is None or not self._spool.has_work()

    def wait_drained(self, timeout: float) -> bool:
        """Wait until nothing waits; return whether it came to that in ``timeout`` seconds."""
        self._hurry += 1
        self.wake()
        self._alarm.ring()
        try:
            return self._wait_until(self.is_drained, self._monotonic_s() + timeout)
        finally:
            self._hurry -= 1

    def _wait_until(self, condition: Callable[[], bool], deadline_s: float) -> bool:
        with self._progress:
            while not condition():
                left_s = deadline_s - self._monotonic_s()
                if left_s <= 0 or self._stopping.is_set():
                    return False
                self._progress.wait(min(left_s, 0.25))
        return True

    # -- the end --------------------------------------------------------------

    def close(self, timeout: float) -> None:
        """Go on delivering for at most ``timeout`` seconds, then stop. Idempotent.

        It stops at once when delivery is on hold or backing off: waiting would not help.
        """
        deadline_s = self._monotonic_s() + timeout
        self._hurry += 1
        thread = self._thread
        if thread is not None and thread.is_alive():
            self._alarm.ring()
            self._wait_until(self._is_stuck_or_drained, deadline_s)
            self._stopping.set()
            self._alarm.ring()
            thread.join(max(0.1, deadline_s - self._monotonic_s()))
        elif not self._stopping.is_set():
            self._deliver_inline(deadline_s)
        self._stopping.set()
        self._sender.close()

    def _deliver_inline(self, deadline_s: float) -> None:
        with unobserved():
            while self._monotonic_s() < deadline_s and not self._is_stuck_or_drained():
                if self._go_on() >= _TROUBLE_S:
                    break
            self._finish()

    def _is_stuck_or_drained(self) -> bool:
        return self._dispatcher.pace.is_blocked or self.is_drained()
