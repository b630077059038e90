"""Whether the demo went well: pure functions from what was counted to what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from otel_memoir.spool import Totals


@dataclass(frozen=True, kw_only=True)
class Side:
    """What one side of the demo did.

    Attributes:
        name: Of the side, for the table.

        emitted: Ids whose ``emit`` had returned.

        received: Ids that the receiver took, in order; ``None`` if nobody can say.

        totals: The numbers of promise 2; ``None`` for a side that keeps none.

        findings: What ``verify`` found wrong.
    """

    name: str
    emitted: Collection[str]
    received: Sequence[str] | None
    totals: Totals | None = None
    findings: tuple[str, ...] = ()

    @property
    def lost(self) -> int | None:
        """Records whose emit had returned, that never arrived and do not wait either."""
        if self.received is None:
            return None
        waiting = self.totals.pending if self.totals else 0
        return max(0, len(set(self.emitted) - set(self.received)) - waiting)

    @property
    def seen_twice(self) -> int | None:
        """Arrivals beyond the first of each record."""
        return None if self.received is None else len(self.received) - len(set(self.received))


def judge(side: Side) -> list[str]:
    """Say, a sentence each, what breaks the promises; nothing if they were kept."""
    totals = side.totals
    if totals is None:
        return [f"{side.name}: it has no numbers"]
    wrong = list(side.findings)
    if totals.unaccounted:
        wrong.append(f"{totals.unaccounted} accepted records are in no state")
    if totals.accepted < len(set(side.emitted)):
        wrong.append(f"{len(set(side.emitted))} were emitted, only {totals.accepted} accepted")
    if totals.delivered != totals.accepted:
        wrong.append(f"{totals.accepted} were accepted, only {totals.delivered} delivered")
    if side.received is not None:
        wrong += _missing(side, side.received, totals)
    return [f"{side.name}: {sentence}" for sentence in wrong]


def _missing(side: Side, received: Sequence[str], totals: Totals) -> list[str]:
    wrong = []
    missing = sorted(set(side.emitted) - set(received))
    if missing:
        wrong.append(f"{len(missing)} emitted records never arrived, such as {missing[0]}")
    if len(set(received)) != totals.delivered:
        wrong.append(
            f"{totals.delivered} count as delivered, {len(set(received))} different ones arrived"
        )
    return wrong


HEADS = ("", "emitted", "accepted", "delivered", "waiting", "lost", "seen twice")


def row(side: Side) -> tuple[object, ...]:
    """A side as a row of the final table; ``-`` where nobody can say."""
    totals, received = side.totals, side.received
    if totals is not None:
        delivered: int | None = totals.delivered
    else:
        delivered = None if received is None else len(set(received))
    cells = (
        len(set(side.emitted)), totals.accepted if totals else None, delivered,
        totals.pending if totals else None, side.lost, side.seen_twice,
    )
    return (side.name, *("-" if cell is None else cell for cell in cells))
