"""The value that validation, order and resolution work on: a stamp, and what it is of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Identity = tuple[str, int, int]
"""Stream id, epoch and sequence number: no two records share one, unless something is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StampedEvent:
    """A record as far as its place among others depends on it.

    Attributes:
        uid: The id of the emission.

        stream: The stream's id.

        epoch: The stream's epoch.

        sequence: The number in them.

        unix_ns: The time, in ns since 1970.

        error_bound_ns: How far it can be from true time; ``None`` where nobody knows, which
            is not the same as not at all.

        causes: Uids of emissions that came before it because it came of them.

        digest: What two copies of one record share, and two records do not.

        rank: Of two sources the one that is preferred has the smaller one.

        payload: Whatever the caller wants back; nothing here looks at it.
    """

    uid: str
    stream: str
    epoch: int
    sequence: int
    unix_ns: int
    error_bound_ns: int | None = None
    causes: tuple[str, ...] = ()
    digest: str = ""
    rank: int = 0
    payload: Any = field(default=None, compare=False, repr=False)

    @property
    def identity(self) -> Identity:
        """Which record of which stream it is."""
        return self.stream, self.epoch, self.sequence

    @property
    def total_key(self) -> tuple[Any, ...]:
        """Breaks every tie, and differs for any two events that are not equal.

        Time first, then rank, stream, epoch, sequence and digest; never the order of arrival.
        """
        bound_ns = -1 if self.error_bound_ns is None else self.error_bound_ns
        return (
            self.unix_ns, self.rank, self.stream, self.epoch, self.sequence, self.digest,
            self.uid, bound_ns, self.causes,
        )
