"""One program of the model: a spool and its courier, each driven by hand.

Nothing here runs by itself: the writer thread ends as it begins, the courier's thread
is never started, and the clocks move only when they are told to or looked at.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from model.destination import Destination, ProcessSender
from otel_memoir.clock import Reading
from otel_memoir.delivery import Courier
from otel_memoir.delivery.encoding import join_envelope
from otel_memoir.settings import Settings
from otel_memoir.spool import Draft, Refused, Spool, Stream, Ticket
from otel_memoir.spool.commit import Committer
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.intents import Orphan
from otel_memoir.spool.ledger import Gap
from otel_memoir.spool.model import Life
from otel_memoir.stamping import stream_stamper
from otel_memoir.testing import FakeClock
from spool_helpers import FaultyConnection

ENVELOPE = join_envelope(b"", b"")


class TickingClock(FakeClock):
    """A clock whose every look takes a millisecond, so that each wait ends.

    Attributes:
        epoch: How often it had to go back: then each process begins another stream.
    """

    status, epoch = "", 0

    def monotonic_s(self) -> float:
        """What ``time.monotonic`` would say."""
        self.advance(0.001)
        return super().monotonic_s()

    @property
    def now_s(self) -> float:
        """The same, without letting time pass."""
        return super().monotonic_s()

    def read(self) -> Reading:
        """What a stamper asks."""
        return self.wall_ns(), None


def _make_suffix(stream: Stream) -> Callable[..., bytes]:
    def suffix(uid: str, sequence: int, unix_ns: int | None, _: int | None, /) -> bytes:
        return f"#{stream.stream_id}.{stream.epoch}.{sequence}.{unix_ns}#".encode()

    return suffix


class Journal(Protocol):
    """Is told of each record: before it is appended, when it gets a number, and afterwards."""

    def begun(self, process: int, draft: Draft) -> None: ...

    def numbered(self, draft: Draft, ticket: Ticket) -> None: ...

    def ended(self, draft: Draft, found: Ticket | Refused | None) -> None: ...


class HandDrivenSpool(Spool):
    """A spool whose writer thread does nothing, and that tells what it is given."""

    process = 0
    journal: Journal

    def _start_anew(self) -> None:
        super()._start_anew()
        self._writer.start = lambda: None  # type: ignore[method-assign]  # driven by hand
        self._plain_add = self._intake._add_locked
        self._intake._add_locked = self._add  # type: ignore[method-assign]  # tells, no more

    def _add(
        self, life: Life, draft: Draft, payload: bytes, packed: bool
    ) -> tuple[Ticket, bool]:
        ticket, leads = self._plain_add(life, draft, payload, packed)
        self.journal.numbered(draft, ticket)
        return ticket, leads

    def append(self, draft: Draft) -> Ticket | Refused | None:
        """As the spool's own."""
        self.journal.begun(self.process, draft)
        found = super().append(draft)
        self.journal.ended(draft, found)
        return found


def gap_draft(gap: Gap, _: bytes | None) -> Draft:
    """The record that tells of a gap; its name says all that the gap says."""
    name = gap_name(gap.stream.stream_id, gap.stream.epoch, *gap[2:6])
    return Draft(ENVELOPE, f"<{name}>".encode(), 13, f"uid-{name}")


def gap_name(
    stream_id: str, epoch: int, cause: str, records: int, first: int | None, last: int | None
) -> str:
    """The name of the record that tells of a gap."""
    return f"gap {stream_id}.{epoch} {cause} {records} in {first}..{last}"


class Process:
    """A program that emits and delivers, until it ends or is killed.

    Args:
        number: Its name for the model.
    """

    def __init__(
        self, number: int, directory: Path, settings: Settings, *, clock: TickingClock,
        destination: Destination, journal: Journal,
        make_orphan_draft: Callable[[Orphan, bytes | None], Draft],
    ) -> None:
        self.number = number
        self._last_committer: Committer | None = None
        self.spool = HandDrivenSpool(
            settings, directory=directory, wall_ns=clock.wall_ns,
            monotonic_s=clock.monotonic_s, clock_epoch=lambda: clock.epoch,
            make_stamper=lambda stream: stream_stamper(
                stream, clock=clock, make_suffix=_make_suffix
            ),
        )
        self.spool.process, self.spool.journal = number, journal
        self._make_sender = lambda: ProcessSender(
            destination, number, before_answer=self._let_read_ahead
        )
        self._sender = self._make_sender()
        self.courier = Courier(
            self.spool, self._sender, settings, make_gap_draft=gap_draft,
            make_orphan_draft=make_orphan_draft,
            wall_ns=clock.wall_ns, monotonic_s=clock.monotonic_s, uniform=lambda low, high: high,
        )

    # -- what it does ---------------------------------------------------------

    def emit(self, draft: Draft, *, on_loop: bool) -> None:
        """Emit a record, from a plain thread or from one that runs an event loop."""
        if not on_loop:
            self.spool.append(draft)
            return

        async def emit() -> None:
            self.spool.append(draft)

        asyncio.run(emit())

    def change(self, settings: Settings, *, moves: bool) -> None:
        """Go by other settings, with or without another destination, as the pipeline does."""
        if moves:
            self._sender = self._make_sender()
        self.spool.use(settings)
        self.courier.use(self._sender, settings)

    def deliver_once(self) -> float:
        """Let the courier do one thing; return how long it would wait, in seconds."""
        return self.courier._go_on() if self.spool.file is not None else 1.0

    def write_once(self) -> None:
        """Let the writer wake up once."""
        self.spool._writer._write_once()

    def shut_down(self, timeout: float) -> None:
        """End as the pipeline does; the end wakes the writer for a last time."""
        self._last_committer = self.spool._home.committer
        self.spool.flush(min(timeout, 1.0))
        self.courier.close(timeout)
        self.write_once()
        self.spool.close(max(0.5, timeout))

    def _let_read_ahead(self) -> None:
        """While a request is in flight, its successor is made ready: always in time."""
        self.courier._dispatcher.join()

    # -- what it has ----------------------------------------------------------

    def files(self) -> list[SpoolFile]:
        """The files that it holds: its own, then those it adopted."""
        own = self.spool.file
        adopted = [source.file for source in self.courier._planner._adopted]
        return [*([own] if own is not None else []), *adopted]

    def unwritten_refusals(self) -> Counter[str]:
        """Refusals that stand in its memory only."""
        found = Counter(self.spool.refused_unwritten)
        committer = self.spool._home.committer or self._last_committer
        if committer is not None:
            found.update({str(reason): n for reason, n in committer.refused.items()})
            found.update(str(reason) for reason in committer._refusals)
            for _, first, last, reason in committer.lost:
                found[str(reason)] += last - first + 1
        return found

    # -- how it dies ----------------------------------------------------------

    def kill(self) -> None:
        """Die: leave on disk what was written so far, and do nothing any more.

        Closing a connection writes: it checkpoints, and deletes the log. So the bytes
        are kept, the connections closed, and the bytes put back into the same inode.
        What the next process finds is what SIGKILL leaves: page cache and all, a log
        with or without an unfinished transaction, no shared memory.
        """
        self.courier._dispatcher.join()
        for left in self.spool._home._left:
            left.close_reader()
            left.let_go()
        for file in self.files():
            images = {path: _bytes_of(path) for path in _paths(file)}
            for connection in (file.take_reader(), file.connection):
                if connection is not None:
                    connection.close()
            for path, image in images.items():
                _put_back(path, image)
            if file.lock is not None:
                file.lock.release()
        self.spool._home.committer = None


def _paths(file: SpoolFile) -> list[Path]:
    if file.lock is None:
        return []
    return [Path(f"{file.path}{ending}") for ending in ("", "-wal")]


def _bytes_of(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _put_back(path: Path, image: bytes | None) -> None:
    if image is None:
        path.unlink(missing_ok=True)
        return
    with open(path, "r+b" if path.exists() else "wb") as out:
        out.truncate(0)
        out.write(image)


def strike(file: SpoolFile, statement: str, error: BaseException, **given: Any) -> None:
    """Make the next such statement on a file fail."""
    file.connection = FaultyConnection(  # type: ignore[assignment]  # it stands in for one
        file.connection, statement, error, **given
    )


def calm_down(file: SpoolFile) -> None:
    """Let nothing on a file fail any more."""
    while isinstance(file.connection, FaultyConnection):
        file.connection = file.connection._real
