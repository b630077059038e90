"""The next request, made ready while one is in flight.

A server takes about as long over a request as it takes to read and build one: done in
turn, a drain is idle half of the time. Nothing depends on what is made ready here: what
is not there in time, or is not what the courier wants, the courier makes itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from otel_memoir.delivery.request import build_request
from otel_memoir.delivery.sources import Source
from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.spool import Batch, ledger

_PATIENCE_S = 5.0


@dataclass
class _Work:
    """One request in the making. ``begun`` and ``unwanted`` are guarded by ``reading``."""

    source: Source
    after: Batch
    end: int
    begun: bool = False
    unwanted: bool = False
    done: threading.Event = field(default_factory=threading.Event)
    batch: Batch | None = None
    request: bytes | None = None


class Ahead:
    """Makes one request ready. Only the courier's thread calls it.

    Args:
        reading: Held while a thread of ours reads, and by the caller of all but ``join``.

        records_max: Most records in a batch.

        pack: What the sender can do ahead.
    """

    def __init__(
        self,
        reading: threading.RLock,
        *,
        records_max: int,
        pack: Callable[[bytes], None] | None = None,
    ) -> None:
        self._reading = reading
        self.use(records_max=records_max, pack=pack)
        self._work: _Work | None = None
        self._thread: threading.Thread | None = None

    def use(self, *, records_max: int, pack: Callable[[bytes], None] | None) -> None:
        """Make what comes next so. The arguments are those of the constructor."""
        self._records_max, self._pack = records_max, pack

    def begin(self, source: Source, batch: Batch) -> None:
        """Begin to make the request after ``batch`` ready, if there is a batch after it."""
        end = source.end_of_closed(close_open=False)
        if source.file.last_id <= batch.last_id or end <= batch.number + 1:
            return
        work = _Work(source, batch, end)
        thread = threading.Thread(target=self._run, args=(work,), name="memoir-ahead", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # none can be started while the interpreter ends
            return
        self._work, self._thread = work, thread

    def take(self, source: Source, batch: Batch) -> bytes | None:
        """The request of a batch, if that is what was made ready."""
        work = self.drop()
        ready = work is not None and work.begun and work.done.wait(_PATIENCE_S)
        if ready and work and work.source is source and work.batch == batch:
            return work.request
        return None

    def found(self, source: Source) -> Batch | None:
        """The batch after the last one that was sent, if that was found already."""
        work = self._work
        if work is None or work.source is not source:
            return None
        return work.batch if source.file.ledgered_id == work.after.last_id else None

    def drop(self) -> _Work | None:
        """Want no longer what is in the making: from now on it reads no file."""
        work, self._work = self._work, None
        if work is not None:
            work.unwanted = True
        return work

    def join(self) -> None:
        """Wait for the thread to end. The caller does not hold ``reading``."""
        if self._thread is not None:
            self._thread.join(_PATIENCE_S)

    def _run(self, work: _Work) -> None:
        try:
            with unobserved():
                self._make(work)
        except Exception as error:  # noqa: BLE001 - the courier will see it for itself
            complaints.say("ahead", f"a request could not be made ready: {error}")
        finally:
            work.done.set()

    def _make(self, work: _Work) -> None:
        with self._reading:
            if work.unwanted:
                return
            work.begun = True
            file = work.source.file
            batch = ledger.next_unledgered(
                file.reader, work.after.last_id, work.end, self._records_max
            )
            if batch is None:
                return
            work.batch = batch
            rows, wrong = file.rows(batch.first_id, batch.last_id)
        if not wrong:
            request = build_request(rows)
            pack = self._pack
            if pack is not None:
                pack(request)
            work.request = request
