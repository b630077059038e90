"""What the courier tells by itself: losses, and changes whose outcome nobody knows.

Each becomes a record of our own stream, and only once that is on disk it counts as told: a
crash in between tells of none twice, and of none not at all. The loss of a record that tells
of a loss is named in the ledger and told by no other record, since a destination that takes
none of them would be told for ever (47 in six seconds, seen).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from otel_memoir.delivery.sources import Source
from otel_memoir.spool import Draft, Spool, Stream, Ticket, intents, ledger
from otel_memoir.spool.intents import Orphan
from otel_memoir.spool.ledger import Gap

MakeGapDraft = Callable[[Gap, "bytes | None"], Draft]
MakeOrphanDraft = Callable[[Orphan, "bytes | None"], Draft]

_TELLINGS_KEPT = 4096


class Teller:
    """Tells of what the files of a spool have to tell.

    Args:
        spool: Where the events go.

        make_gap_draft: Turns a loss into the event that tells of it.

        make_orphan_draft: Turns an intent whose outcome nobody knows into such an event,
            which ends it.
    """

    def __init__(
        self, spool: Spool, make_gap_draft: MakeGapDraft, make_orphan_draft: MakeOrphanDraft
    ) -> None:
        self._spool = spool
        self._make_gap_draft = make_gap_draft
        self._make_orphan_draft = make_orphan_draft
        self._orphans: dict[str, Ticket | None] = {}
        self._tellings: deque[tuple[Stream, int]] = deque(maxlen=_TELLINGS_KEPT)

    def tell_of(self, source: Source, *, timeout: float) -> None:
        """Tell of the losses and the orphaned intents of a file.

        Args:
            timeout: The longest wait for the disk, in seconds.
        """
        self._tell_gaps(source, timeout)
        self._tell_orphans(source, timeout)

    def tell(self, draft: Draft) -> Ticket | None:
        """Emit an event of our own; ``None`` if it finds no room, which is no new loss."""
        found = None if self._spool.would_refuse(draft) else self._spool.append(draft)
        return found if isinstance(found, Ticket) else None

    # -- losses -----------------------------------------------------------------

    def _tell_gaps(self, source: Source, timeout: float) -> None:
        gaps = ledger.untold_gaps(source.file.reader)
        if not gaps or self._spool.file is None:
            return
        envelope = source.file.last_envelope()
        told = [gap for gap in gaps if self._is_of_tellings(gap)]
        tickets = {
            gap: self.tell(self._make_gap_draft(gap, envelope)) for gap in gaps if gap not in told
        }
        if any(tickets.values()) and self._spool.flush(timeout):
            kept = {gap: ticket for gap, ticket in tickets.items() if _is_kept(ticket)}
            self._tellings.extend(
                (ticket.life.stream, ticket.sequence) for ticket in kept.values() if ticket
            )
            told += kept
        if told:
            source.perform(lambda file: ledger.note_told(file.connection, told))

    def _is_of_tellings(self, gap: Gap) -> bool:
        """Whether nothing was lost but what told of losses, as far as this process knows."""
        first, last = gap.first_sequence, gap.last_sequence
        if first is None or last is None or last - first >= _TELLINGS_KEPT:
            return False
        return all((gap.stream, number) in self._tellings for number in range(first, last + 1))

    # -- orphaned intents -------------------------------------------------------

    def _tell_orphans(self, source: Source, timeout: float) -> None:
        """The record that tells of one ends it in our own file, where others find that."""
        found = intents.orphans(source.file.reader, owner=self._spool.owner)
        own = self._spool.file
        if not found or own is None:
            return
        envelope = source.file.last_envelope()
        known = intents.known_elsewhere(self._spool.directory, source.file.name, found)
        for orphan in found:
            if orphan.id not in known and not _is_on_its_way(self._orphans.get(orphan.id)):
                self._orphans[orphan.id] = self.tell(self._make_orphan_draft(orphan, envelope))
        if not self._spool.flush(timeout):
            return
        told = [one.id for one in found if one.id in known or _is_kept(self._orphans[one.id])]
        for id_ in told:
            self._orphans.pop(id_, None)
        if told:
            source.perform(lambda file: intents.forget(file.connection, told))
            if source.file is not own:
                self._spool.perform(lambda file: intents.forget(file.connection, told))


def _is_on_its_way(ticket: Ticket | None) -> bool:
    return ticket is not None and ticket.refusal is None


def _is_kept(ticket: Ticket | None) -> bool:
    """Whether an event of our own was committed: a full disk refuses what had a ticket."""
    return ticket is not None and ticket.group.done and ticket.refusal is None
