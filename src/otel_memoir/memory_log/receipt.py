"""A receipt: what an emitter holds of an event, and how it learns what became of it.

It is good in the process that emitted, in any other one on the same machine, and after a
restart: ``str(receipt)`` is all there is to keep.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from otel_memoir.errors import MemoirError
from otel_memoir.memory_log.watch import Watch
from otel_memoir.sdk.bell import Bell
from otel_memoir.sdk.emission import Emission
from otel_memoir.spool import State, Stream
from otel_memoir.spool.connection import StorageError
from otel_memoir.spool.whereabouts import (
    LOST,
    PARTLY_REJECTED,
    UNKNOWN,
    Whereabouts,
    whereabouts_of_all,
)

IN_MEMORY = "in memory"
REFUSED = "refused"

_UNSETTLED = (IN_MEMORY, State.PENDING.value)
_ON_DISK = (*(state.value for state in State), PARTLY_REJECTED)
_FORM = re.compile(
    r"memoir:(?P<stream>[\w.:-]+)/(?P<epoch>\d{1,19})/(?P<sequence>\d{1,19})/(?P<uid>[\w-]*)",
    re.ASCII,
)


class Receipt:
    """What became of an event. Made by the methods of ``MemoryLog``, or from text.

    Nothing raises out of its methods. Two of one event are equal, whichever process made
    them. It can be pickled once its event has a number.

    Args:
        emission: The emission, in the process that emitted.

        directory: The spool directory, elsewhere.

        stream, sequence, uid: The event's stamps, elsewhere.

        refusal: Why there was no emission.
    """

    def __init__(
        self, emission: Emission | None = None, *, directory: Path | None = None,
        stream: Stream | None = None, sequence: int = 0, uid: str = "", refusal: str = "",
    ) -> None:  # fmt: skip
        self._emission = emission
        self._directory = directory
        self._stream, self._sequence, self._uid = stream, sequence, uid
        self._refusal = refusal

    @classmethod
    def parse(cls, text: str, *, spool_dir: str | Path) -> Receipt:
        """A receipt from what ``str`` made of one, in any process.

        Raises:
            MemoirError: The text is no receipt.
        """
        found = _FORM.fullmatch(text)
        if found is None:
            raise MemoirError(
                "read receipt", target=f"{text!r:.80}", cause="it is not one",
                hint="Give what str(receipt) said, once the event had a number.",
            )
        stream = Stream(found["stream"], int(found["epoch"]))
        return cls(
            directory=Path(spool_dir), stream=stream, sequence=int(found["sequence"]),
            uid=found["uid"],
        )

    # -- the stamps -----------------------------------------------------------

    @property
    def uid(self) -> str:
        """``log.record.uid`` of the event; empty if it was not emitted."""
        return self._emission.uid if self._emission is not None else self._uid

    @property
    def stream(self) -> Stream | None:
        """Its stream; ``None`` until it has a number: on an event loop that can be a moment."""
        ticket = self._emission.ticket if self._emission is not None else None
        return ticket.life.stream if ticket is not None else self._stream

    @property
    def sequence(self) -> int:
        """Its number in the stream; 0 until it has one."""
        ticket = self._emission.ticket if self._emission is not None else None
        return ticket.sequence if ticket is not None else self._sequence

    def __str__(self) -> str:
        stream = self.stream
        if stream is None:
            return f"memoir:-/0/0/{self.uid}"
        return f"memoir:{stream.stream_id}/{stream.epoch}/{self.sequence}/{self.uid}"

    def __repr__(self) -> str:
        return f"<Receipt {self}>"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Receipt):
            return NotImplemented
        return self is other or (bool(self.uid) and self.uid == other.uid)

    def __hash__(self) -> int:
        return hash(self.uid) if self.uid else id(self)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled it is what its text says, with the directory; a copy is such a one too."""
        known = (self._place(), self.stream, self.sequence, self.uid, self.refusal)
        return _revived, known

    # -- what became of it ----------------------------------------------------

    def state(self) -> str:
        """``in memory``, ``pending`` (on disk), ``delivered``, ``refused``, or another end.

        The others are ``rejected``, ``partly rejected`` (by the destination, which did not
        say which records of the batch), ``quarantined``, ``expired``, ``evicted``,
        ``discarded``, ``lost`` (named by a gap) and ``unknown``. Reads files: on an event
        loop, await ``delivered`` instead.
        """
        return self.details().state

    def details(self) -> Whereabouts:
        """The state, with the last answer of the destination or the reason of a refusal."""
        return _details_of_all((self,))[0]

    def _known_here(self) -> Whereabouts | None:
        """What is known without a file, if that is all that can be."""
        emission = self._emission
        if refusal := self.refusal:
            return Whereabouts(REFUSED, refusal)
        if emission is not None and not emission.is_stored:
            return _in_memory(emission)
        return UNKNOWN if self._place() is None or self.stream is None else None

    @property
    def refusal(self) -> str:
        """Why it was not accepted; empty if it was, or if that is not known in this process."""
        found = self._emission.refusal if self._emission is not None else None
        return self._refusal or str(found or "")

    def _place(self) -> Path | None:
        pipeline = self._emission.pipeline if self._emission is not None else None
        return pipeline.directory if pipeline is not None else self._directory

    @property
    def is_stored(self) -> bool:
        """Whether the event is on disk, as durable as the settings say."""
        if self._emission is not None:
            return self._emission.is_stored
        return self.details().state in _ON_DISK

    def wait_stored(self, timeout: float) -> bool:
        """Wait in this thread until it is on disk; return whether it is, in ``timeout`` seconds."""
        if self._emission is None:
            return Bell().wait(lambda: self.is_stored, timeout)
        return self._emission.wait_stored(timeout)

    def wait(self, timeout: float) -> bool:
        """Wait in this thread until it is settled or unknown; return whether it was delivered.

        Args:
            timeout: The longest wait, in seconds.
        """
        _watch.wait(self, timeout)
        return self.state() == State.DELIVERED.value

    async def stored(self, timeout: float | None = None) -> bool:
        """Wait in this task until it is on disk or refused; return whether it is on disk.

        Args:
            timeout: The longest wait, in seconds; ``None``: as long as it takes.
        """
        emission = self._emission
        if emission is None:
            return await asyncio.to_thread(lambda: self.is_stored)
        if emission.pipeline is None:
            return False
        await emission.pipeline.bell.wait_async(emission.is_decided, timeout)
        return emission.is_stored

    async def delivered(self, timeout: float | None = None) -> bool:
        """Wait in this task until it is settled or unknown; return whether it was delivered.

        Args:
            timeout: The longest wait, in seconds; ``None``: as long as it takes.
        """
        await _watch.wait_async(self, timeout)
        return await asyncio.to_thread(self.state) == State.DELIVERED.value


def _in_memory(emission: Emission) -> Whereabouts:
    """What is known of what is on no disk: not yet, or, where there is none, never."""
    ticket = emission.ticket
    if emission.pipeline is None:
        return UNKNOWN
    if ticket is None or not ticket.group.done:
        return Whereabouts(IN_MEMORY)
    try:
        found = emission.pipeline.in_memory(ticket.life.stream, ticket.sequence)
    except (MemoirError, StorageError):
        return Whereabouts(IN_MEMORY)
    return Whereabouts(IN_MEMORY) if found.state == State.PENDING.value else found


def _details_of_all(receipts: Sequence[Receipt]) -> list[Whereabouts]:
    """What became of each; the files of a directory are opened once for all of it."""
    found = [receipt._known_here() for receipt in receipts]
    asked: dict[Path, dict[int, tuple[Stream, int]]] = {}
    for place, receipt in enumerate(receipts):
        directory, stream = receipt._place(), receipt.stream
        if found[place] is None and directory is not None and stream is not None:
            asked.setdefault(directory, {})[place] = (stream, receipt.sequence)
    for directory, wanted in asked.items():
        told = whereabouts_of_all(directory, list(wanted.values()))
        for place, answer in zip(wanted, told, strict=True):
            found[place] = answer
    return [answer or UNKNOWN for answer in found]


def _are_settled(receipts: Sequence[Receipt]) -> list[bool]:
    return [answer.state not in _UNSETTLED for answer in _details_of_all(receipts)]


def _revived(
    directory: Path | None, stream: Stream | None, sequence: int, uid: str, refusal: str
) -> Receipt:
    return Receipt(
        directory=directory, stream=stream, sequence=sequence, uid=uid, refusal=refusal
    )


_watch: Watch[Receipt] = Watch(_are_settled)


__all__ = ["IN_MEMORY", "LOST", "REFUSED", "Receipt"]
