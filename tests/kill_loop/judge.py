"""What became of each acknowledged record. Pure: from sets and counts to a verdict."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was seen, by the name of a record.

    Attributes:
        acked: Acknowledged by the program: each must arrive.

        in_flight: Neither promised nor excluded: stored perhaps, when the kill came.

        taken: How often the first hop took it in, answered or not.

        arrived: How often the last hop has it.

        altered: Records that arrived with another content than they were emitted with.

        allowed_copies: How many times the sender admits that it may have sent it again;
            nothing for a record that is not named.

        kills: How often each program and server was killed.
    """

    acked: Collection[str]
    in_flight: Collection[str]
    taken: Mapping[str, int]
    arrived: Mapping[str, int]
    altered: Collection[str]
    allowed_copies: Mapping[str, int]
    kills: Mapping[str, int]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Counts. The first group must be zero, the second shows that something was tried."""

    missing: int
    """Acknowledged, and never arrived at the last hop."""
    invented: int
    """Arrived, and neither acknowledged nor in flight at a kill."""
    altered: int
    """Arrived with other content."""
    unexplained: int
    """Taken by the first hop more often than the sender admits."""

    acked: int
    kills: int
    copied: int
    """Records that the first hop took more than once: what the sender must explain."""
    may_be_copied: int
    """Records that the sender admits it may have sent more than once."""
    copied_behind: int
    """Records that the last hop has more often than the first: the first hop's own copies."""

    @property
    def holds(self) -> bool:
        return not (self.missing or self.invented or self.altered or self.unexplained)


def judge(seen: Evidence) -> Verdict:
    """Count what was promised and broken.

    Copies are counted at the first hop. A hop that is killed before it has noted an answer
    sends again too: those copies exist at the last hop only, and are not the sender's.
    """
    known = {*seen.acked, *seen.in_flight}
    copied = {name: times - 1 for name, times in seen.taken.items() if times > 1}
    return Verdict(
        missing=sum(name not in seen.arrived for name in seen.acked),
        invented=len({*seen.arrived, *seen.taken} - known),
        altered=len(set(seen.altered)),
        unexplained=sum(n > seen.allowed_copies.get(name, 0) for name, n in copied.items()),
        acked=len(seen.acked),
        kills=sum(seen.kills.values()),
        copied=len(copied),
        may_be_copied=sum(n > 0 for n in seen.allowed_copies.values()),
        copied_behind=sum(n > seen.taken.get(name, 0) for name, n in seen.arrived.items()),
    )


def table(rows: Sequence[tuple[str, Verdict]]) -> str:
    """Verdicts as Markdown, one a row."""
    names = [field.name for field in fields(Verdict)]
    lines = [f"| configuration | {' | '.join(n.replace('_', ' ') for n in names)} |"]
    lines.append(f"|---|{'---:|' * len(names)}")
    for title, verdict in rows:
        lines.append(f"| {title} | {' | '.join(str(getattr(verdict, n)) for n in names)} |")
    return "\n".join(lines)
