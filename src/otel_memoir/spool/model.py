"""The values that cross the spool's door. None of them knows OpenTelemetry."""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol


class State(str, enum.Enum):
    """What became of a batch. ``SPLIT`` counts nothing: its halves do."""

    PENDING = "pending"
    DELIVERED = "delivered"
    REJECTED = "rejected"
    QUARANTINED = "quarantined"
    EXPIRED = "expired"
    EVICTED = "evicted"
    DISCARDED = "discarded"
    SPLIT = "split"


OUTCOMES = ("delivered", "rejected", "quarantined", "expired", "evicted", "discarded")
"""The states, beside pending, in which an accepted record can be."""


@dataclass(frozen=True)
class Stream:
    """The records of one writer process in one life.

    Attributes:
        stream_id: Its id.

        epoch: Its life, from 1.

        after_unix_ns: The latest time that a record of an earlier life in its file has.
    """

    stream_id: str
    epoch: int
    after_unix_ns: int = field(default=0, compare=False)


class Intent(NamedTuple):
    """What a record says of something that its process does besides.

    Attributes:
        id: What the intent and its outcome have in common.

        note: What shall be known of it should its outcome never come, opaque here;
            ``None``: this is its outcome.
    """

    id: str
    note: bytes | None


class Draft(NamedTuple):
    """A record on its way in.

    Attributes:
        envelope: What many records share (resource and scope), opaque here.

        payload: The encoded record, without stamps.

        severity: OpenTelemetry's severity number, 0 where unknown.

        uid: The emission's own id.

        timed: Whether the record says itself when its event happened.

        intent: An intent that the record declares or ends, in its own commit.

        taken: Called, in whatever thread, with the record's ``Ticket``, or with the
            ``Refused`` that says why there is none; may not raise.
    """

    envelope: bytes
    payload: bytes
    severity: int
    uid: str
    timed: bool = False
    intent: Intent | None = None
    taken: Callable[[Any], object] | None = None


class Stamper(Protocol):
    """Writes stamps: called under the append lock, so it is quick and calls nothing foreign."""

    def __call__(self, draft: Draft, sequence: int) -> tuple[bytes, int]:
        """Return the bytes to append to the payload, and the time stamped in unix ns."""


MakeStamper = Callable[[Stream], Stamper]


@dataclass(eq=False)
class Life:
    """A stream while its process lives: what the next record gets.

    Guarded by the append lock, but for ``stored``, which the commit lock guards.

    Attributes:
        file_name: The slot in which the stream began.

        number: The stream's number in the file that it is now written to.

        next_sequence: The number that the next record gets.

        reserved: No number above it is given out before a commit has raised it.

        stored: The last number that a commit made durable; entries up to it that
            are offered again are not stored twice.

        refused: Numbers whose commit came to nothing (first, last, why).
    """

    file_name: str
    number: int
    stream: Stream
    stamp: Stamper
    next_sequence: int = 1
    reserved: int = 0
    stored: int = 0
    refused: list[tuple[int, int, Refused]] = field(default_factory=list)

    def refuse(self, first: int, last: int, reason: Refused) -> None:
        """Note that the commit of numbers came to nothing.

        A disk that is full for long makes one run: each emit looks through all of them.
        """
        if self.refused and self.refused[-1][1:] == (first - 1, reason):
            self.refused[-1] = (self.refused[-1][0], last, reason)
        else:
            self.refused.append((first, last, reason))
        self.stored = max(self.stored, last)

    def refusal(self, sequence: int) -> Refused | None:
        """Why the commit of a number came to nothing, if it did."""
        for first, last, reason in self.refused:
            if first <= sequence <= last:
                return reason
        return None


class Entry(NamedTuple):
    """A stamped record that waits for its commit."""

    life: Life
    sequence: int
    batch: int
    envelope: bytes
    severity: int
    unix_ns: int
    size: int
    packed: bool
    payload: bytes
    intent: Intent | None = None


class Refused(str):
    """Why a record was not accepted; the name under which it is counted."""

    __slots__ = ()


TOO_LARGE = Refused("too_large")
FULL = Refused("full")
DISK_FULL = Refused("disk_full")
AFTER_SHUTDOWN = Refused("after_shutdown")
BUSY = Refused("busy")
BROKEN = Refused("broken")
INTERRUPTED = Refused("interrupted")


@dataclass(frozen=True, kw_only=True)
class Batch:
    """A ledger row: consecutive records of one stream, sent in one request."""

    number: int
    stream: int
    first_id: int
    last_id: int
    first_sequence: int
    last_sequence: int
    records: int
    bytes: int
    attempts: int = 0
    failures: int = 0
    suspect: int = 0
    lane: str = "main"
    next_attempt_unix_ns: int = 0


@dataclass(frozen=True, kw_only=True)
class Totals:
    """The numbers of promise 2, for one spool file or the sum of several.

    ``accepted = delivered + pending + rejected + quarantined + expired + evicted
    + discarded``; what does not add up is ``unaccounted``.
    """

    accepted: int = 0
    delivered: int = 0
    pending: int = 0
    rejected: int = 0
    quarantined: int = 0
    expired: int = 0
    evicted: int = 0
    discarded: int = 0
    refused: Mapping[str, int] = field(default_factory=dict)
    ambiguous_attempts: int = 0

    @property
    def unaccounted(self) -> int:
        """Accepted records that are in no state: zero, or something is wrong."""
        return self.accepted - self.pending - sum(int(getattr(self, name)) for name in OUTCOMES)

    def __add__(self, other: Totals) -> Totals:
        names = ("accepted", "pending", "ambiguous_attempts", *OUTCOMES)
        reasons = {*self.refused, *other.refused}
        return Totals(
            refused={r: self.refused.get(r, 0) + other.refused.get(r, 0) for r in sorted(reasons)},
            **{name: getattr(self, name) + getattr(other, name) for name in names},
        )


@dataclass(frozen=True, kw_only=True)
class Hold:
    """Why delivery stands still, and since when."""

    since_unix_ns: int
    code: str
    message: str
    hint: str


@dataclass(frozen=True, kw_only=True)
class SpoolStatus:
    """One spool file at one moment.

    Attributes:
        name: The slot's name; ``memory`` where there is no usable directory.

        path: The file.

        alive: Whether a living process holds it.

        totals: The numbers of promise 2.

        oldest_pending_age_s: How long the oldest waiting record has waited.

        spool_bytes: What the file and its siblings take on disk.

        hold: Set while delivery is on hold.

        problem: Set if the file could not be read: why.

        is_copy: Whether it was copied or restored since it was written to.
    """

    name: str
    path: str
    alive: bool
    totals: Totals = field(default_factory=Totals)
    oldest_pending_age_s: float = 0.0
    spool_bytes: int = 0
    hold: Hold | None = None
    problem: str = ""
    is_copy: bool = False
