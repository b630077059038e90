"""What an emitter holds of a record that was queued: its number, and how to wait for the disk."""

from __future__ import annotations

from typing import Protocol

from otel_memoir.spool.group_commit import Group
from otel_memoir.spool.model import Entry, Life, Refused


class Waited(Protocol):
    """What a ticket asks of its spool."""

    @property
    def is_on_disk(self) -> bool: ...

    def wait_committed(self, group: Group[Entry], timeout: float) -> bool: ...


class Ticket:
    """A record that has its sequence number; ``wait`` until it is on disk."""

    __slots__ = ("_spool", "group", "life", "sequence")

    def __init__(self, spool: Waited, group: Group[Entry], life: Life, sequence: int) -> None:
        self._spool = spool
        self.group = group
        self.life = life
        self.sequence = sequence

    @property
    def stored(self) -> bool:
        """Whether the record is on disk, as durable as the settings say."""
        return self.group.done and self.refusal is None and self._spool.is_on_disk

    @property
    def refusal(self) -> Refused | None:
        """Why the record's commit came to nothing, if it did."""
        return self.life.refusal(self.sequence)

    def wait(self, timeout: float) -> bool:
        """Wait until the record is committed; return whether it was, in ``timeout`` seconds."""
        self._spool.wait_committed(self.group, timeout)
        return self.stored
