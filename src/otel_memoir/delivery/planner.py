"""Which batch goes next, and from which file."""

from __future__ import annotations

from collections.abc import Callable

from otel_memoir.delivery.partial import RETRY_AFTER_MAX_S
from otel_memoir.delivery.sources import AdoptedSource, Adoption, OwnSource, Source
from otel_memoir.settings import Settings
from otel_memoir.spool import Batch, Spool, ledger

_TURN = 8
"""Batches in a row from one file, or new ones in place of one that waits. A process that never
rests must not starve what a dead one left, nor what failed before; to change the file costs a
commit of its own for the last answer."""

_ADOPTED_MAX = 16
"""How many files of dead processes one courier holds at a time. What it does not hold, the
next process takes for its own. Without a bound, 60 short-lived children beside one process
that could not deliver left 61 files (2.3 MB each) and 300 open descriptors."""

_WITNESS_TRIES = 8
"""How many failures more than the batch that gives way a later one may have: two that are at
fault were tried for ever, and nothing after them. Few would make a destination that throttles
look like one that refuses these records."""

_JUMP_S = 1.0
"""More than this is a step (or a suspend): slewing moves both clocks alike."""


class Planner:
    """Chooses the next batch. Only the courier's thread calls it.

    Args:
        spool: This process's spool.

        settings: The settings.

        wall_ns: The wall clock.

        monotonic_s: The clock for durations.
    """

    def __init__(
        self,
        spool: Spool,
        settings: Settings,
        *,
        wall_ns: Callable[[], int],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._wall_ns = wall_ns
        self._monotonic_s = monotonic_s
        self._own: OwnSource | None = None
        self._has_left = False
        self._adopted: list[AdoptedSource] = []
        self._adoption = Adoption(
            spool.directory, wall_ns=wall_ns, owner=lambda: spool.owner
        )
        self._next_look_s = float("-inf")
        self._began_filling = (0, 0.0)
        self.filling: int | None = None
        """The open batch, if our own file has nothing else to send and it may still fill up."""
        self._began_s = monotonic_s()
        self._offset_s = wall_ns() / 1e9 - self._began_s
        self._served: Source | None = None
        self._in_a_row = 0
        self._passed_over = 0
        self._next_side_s = monotonic_s() + settings.backoff_max_s

    def use(self, settings: Settings) -> None:
        """Choose by other settings from the next batch on."""
        self._settings = settings
        now_s = self._monotonic_s()
        self._next_side_s = min(self._next_side_s, now_s + settings.backoff_max_s)
        self._next_look_s = min(self._next_look_s, now_s + settings.adoption_interval_s)

    def sources(self) -> list[Source]:
        """The files that this courier delivers, the one whose turn it is first."""
        file = self._spool.file
        if file is None:
            self._own = None
        elif self._own is None or self._own.file is not file:
            if self._own is not None:
                self._has_left, self._next_look_s = True, float("-inf")
            self._own = OwnSource(self._spool, file)
        found: list[Source] = [*([self._own] if self._own else []), *self._adopted]
        if self._served in found and self._in_a_row >= _TURN:
            next_ = found.index(self._served) + 1
            return found[next_:] + found[:next_]
        return found

    def note_served(self, source: Source) -> None:
        """Take note that a batch of a file was sent: after some in a row, others have a turn."""
        self._in_a_row = self._in_a_row % _TURN + 1 if source is self._served else 1
        self._served = source

    def note_answer(self, *, is_yes: bool) -> None:
        """Take note of an answer.

        A destination that says now yes, now no may throttle. What waits gets no turn between
        then: three noes among the yeses that others get would make poison of it (6 of 25 runs).
        """
        if not is_yes:
            self._passed_over = 0

    def look_around(self) -> None:
        """Adopt files of dead processes, once every ``adoption_interval_s``."""
        now_s = self._monotonic_s()
        room = _ADOPTED_MAX - len(self._adopted)
        if room > 0 and now_s >= self._next_look_s:
            if self._has_left:  # the left file is free once the commit that left it is over
                self._has_left = not self._spool.flush(self._settings.emit_timeout_s)
            own = self._spool.file.name if self._spool.file else ""
            self._adopted += self._adoption.look(most=room, own=own)
            self._next_look_s = now_s + self._settings.adoption_interval_s

    def let_go(self) -> None:
        """Give back the adopted files in which nothing waits any more."""
        for source in [s for s in self._adopted if s.is_drained()]:
            self._adopted.remove(source)
            self._adoption.release(source)
            self._next_look_s = float("-inf")  # others may have waited for this room

    def set_aside(self, source: Source, error: Exception) -> None:
        """Stop delivering from a file that is broken; what can be read of it is salvaged."""
        if isinstance(source, AdoptedSource):
            self._adopted.remove(source)
            self._adoption.set_aside(source, error)
        else:
            self._spool.leave_file(error)
        self._next_look_s = float("-inf")

    def release_all(self) -> None:
        """Give back every adopted file, drained or not."""
        while self._adopted:
            self._adoption.release(self._adopted.pop())

    def abandon(self) -> None:
        """In a fork child: let go of the parent's files without touching them."""
        for source in self._adopted:
            source.file.abandon()

    @property
    def has_looked(self) -> bool:
        """Whether files of dead processes were looked for since there is room for them."""
        knows_own = self._own is None or self._own.file is self._spool.file
        return knows_own and self._next_look_s > float("-inf")

    def adopted_any(self) -> bool:
        """Whether files of dead processes are being delivered."""
        return bool(self._adopted)

    def next_batch(
        self, source: Source, *, skip: int | None, hurry: bool, found: Batch | None = None
    ) -> Batch | None:
        """The batch of a file that should be sent now, if any.

        Args:
            source: The file.

            skip: A batch whose settlement is not written yet.

            hurry: Send a batch that could still fill up.

            found: The next batch that was never sent, where that is known.
        """
        now_ns = self._wall_ns()

        def due(lane: str) -> list[Batch]:
            tried = ledger.waiting(source.file.reader, lane=lane)
            return [b for b in tried if self._is_due(b, now_ns) and b.number != skip]

        tried = due("main")
        first = tried[0] if tried else None
        if first is not None and not _may_give_way(first):
            return first
        later = [b for b in tried[1:] if b.failures < tried[0].failures + _WITNESS_TRIES]
        if later and later[0] is tried[1]:
            return later[0]
        # What was never sent goes before what waits: of many that are at fault in a row, each
        # would have its tries first.
        fresh = found or self._fresh(source, hurry=hurry)
        waits = next(iter([*later, *tried[:1]]), None)
        if fresh is None or self._passed_over >= _TURN:
            self._passed_over = 0
            return waits or next(iter(due("side")), None) or fresh
        self._passed_over += int(waits is not None)
        return self._side_in_its_turn(due) or fresh

    def _side_in_its_turn(self, due: Callable[[str], list[Batch]]) -> Batch | None:
        """One of the side lane, once per longest wait: a flow that never ends must not starve it.

        Not more often, because each may cost as much as a request may take.
        """
        now_s = self._monotonic_s()
        if now_s < self._next_side_s:
            return None
        self._next_side_s = now_s + self._settings.backoff_max_s
        return next(iter(due("side")), None)

    def _is_due(self, batch: Batch, now_ns: int) -> bool:
        """Whether a batch may be tried; one that waits for too long met a clock that jumped."""
        wait_ns = batch.next_attempt_unix_ns - now_ns
        longest_ns = int((self._settings.backoff_max_s + RETRY_AFTER_MAX_S) * 1e9)
        return not 0 < wait_ns <= longest_ns

    def is_expired(self, source: Source, batch: Batch) -> bool:
        """Whether a batch waited longer than ``expire_after_s``, by both clocks.

        A wall clock that jumped must not expire anything, so this courier has to have
        tried for as long as well, since the last jump.
        """
        limit_s = self._settings.expire_after_s
        if limit_s is None or self.tried_s() < limit_s:
            return False
        accepted_ns = ledger.youngest_unix_ns(source.file.reader, batch)
        return (self._wall_ns() - accepted_ns) / 1e9 > limit_s

    def tried_s(self) -> float:
        """How long this courier has tried with a wall clock that ran as time does.

        Asked at each step: of two jumps that cancel out, the one between must be seen.
        """
        now_s = self._monotonic_s()
        offset_s = self._wall_ns() / 1e9 - now_s
        if abs(offset_s - self._offset_s) > _JUMP_S:
            self._began_s = now_s
        self._offset_s = offset_s
        return now_s - self._began_s

    def _fresh(self, source: Source, *, hurry: bool) -> Batch | None:
        """The next rows that were never sent, unless their batch should fill up first."""
        if not isinstance(source, OwnSource):
            return self._unledgered(source, source.end_of_closed(close_open=False))
        # In this order: a batch that is full, or committed, only after the look is news.
        number, records = self._spool.open_batch
        end = source.end_of_closed(close_open=False)
        found = self._unledgered(source, end)
        self.filling = None
        if found is None and (hurry or self._fill_s() <= 0):
            found = self._unledgered(source, source.end_of_closed(close_open=True))
        elif found is None and records and end == number:
            self.filling = number
        return found

    def _unledgered(self, source: Source, end: int) -> Batch | None:
        return ledger.next_unledgered(
            source.file.reader, source.file.ledgered_id, end, self._settings.request_records_max
        )

    def _fill_s(self) -> float:
        """How long the open batch may go on filling, in seconds; infinite if it is empty."""
        number, records = self._spool.open_batch
        if not records:
            return float("inf")
        if self._began_filling[0] != number:
            self._began_filling = (number, self._monotonic_s())
        return self._began_filling[1] + self._settings.linger_s - self._monotonic_s()

    def idle_s(self, most_s: float) -> float:
        """How long there is nothing to plan, in seconds."""
        has_room = len(self._adopted) < _ADOPTED_MAX
        until_look_s = self._next_look_s - self._monotonic_s() if has_room else most_s
        return max(0.001, min(most_s, self._fill_s(), until_look_s))


def _may_give_way(batch: Batch) -> bool:
    """Whether a later batch may be tried in the place of one that failed.

    Only that tells whether the destination is at fault or the batch.
    """
    return not batch.suspect and batch.failures >= 2 and batch.failures % 2 == 0
