"""What people, programs and metrics are shown of a clock: frozen values."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from otel_memoir.clock.confidence import Factors


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceView:
    """One source.

    Attributes:
        name: Its name.

        vote: What became of it, as ``Selection.votes`` says.

        options: The options that are set for it, by name.

        reach: Its last eight polls, one bit each, the newest lowest.

        polls: How often it was asked.

        failures: How often it gave nothing usable, by reason.

        last_failure: Why the last poll failed, if it did.

        offset_ns: How far the wall clock was ahead of what it said.

        distance_ns: How far true time can be from what it said.

        delay_ns: The part of that which is the round trip.

        jitter_ns: How much it jumps about.

        age_ns: How old the sample is that speaks for it.

        stratum: Hops from a reference clock, where it says so.

        authenticated: Whether its answers are signed.

        confidence: From 0 to 1.

        factors: Why.
    """

    name: str
    vote: str
    options: tuple[str, ...] = ()
    reach: int = 0
    polls: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)
    last_failure: str = ""
    offset_ns: int | None = None
    distance_ns: int | None = None
    delay_ns: int | None = None
    jitter_ns: int | None = None
    age_ns: int | None = None
    stratum: int | None = None
    authenticated: bool = False
    confidence: float = 0.0
    factors: Factors | None = None

    def but(self, **changes: Any) -> SourceView:
        """The same with other values."""
        return dataclasses.replace(self, **changes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSnapshot:
    """A clock and its sources at one moment.

    Attributes:
        taken_unix_ns: When, by the wall clock.

        mode: ``observe`` or ``correct``.

        role: ``leader`` polls for this host, ``follower`` reads what the leader found,
            ``alone`` polls for itself; empty before the first poll.

        leader_pid: Who polls.

        status: One word for what is not normal; empty when all is.

        epoch: How often the served clock had to jump back.

        offset_ns: How far the wall clock is ahead of the estimate of true time.

        bound_ns: How far true time can be from the estimate.

        drift_ppm: What true time gains on the ruler.

        drift_error_ppm: How wrong that can be.

        confidence: In the estimate, from 0 to 1.

        selected: The source in whose favour the selection went.

        voters: How many votes counted.

        liars: How many of them were outvoted.

        contradicted_by: Sources without a vote that say otherwise.

        slew_left_ns: How far the served clock still is from the estimate.

        holdover_ns: How long ago the last selection was.

        steps: How often the clock jumped: ``wall_forward`` and ``wall_back`` for the system's,
            ``served_forward`` and ``served_back`` for ours, ``suspended`` for the machine, and
            ``surprise`` for a selection that the estimate did not expect.

        sources: All of them, in the order in which they were given.
    """

    taken_unix_ns: int
    mode: str
    role: str = ""
    leader_pid: int = 0
    status: str = "uncalibrated"
    epoch: int = 0
    offset_ns: int | None = None
    bound_ns: int | None = None
    drift_ppm: float = 0.0
    drift_error_ppm: float = 500.0
    confidence: float = 0.0
    selected: str = ""
    voters: int = 0
    liars: int = 0
    contradicted_by: tuple[str, ...] = ()
    slew_left_ns: int = 0
    holdover_ns: int | None = None
    steps: Mapping[str, int] = field(default_factory=dict)
    sources: tuple[SourceView, ...] = ()

    def but(self, **changes: Any) -> ClockSnapshot:
        """The same with other values."""
        return dataclasses.replace(self, **changes)

    def as_dict(self) -> dict[str, Any]:
        """As JSON would have it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, given: Mapping[str, Any]) -> ClockSnapshot:
        """From ``as_dict``, also by another version: unknown names are left out."""
        known = _known(cls, given)
        known["sources"] = tuple(_view(view) for view in given.get("sources", ()))
        known["contradicted_by"] = tuple(given.get("contradicted_by", ()))
        return cls(**known)


def _view(given: Mapping[str, Any]) -> SourceView:
    known = _known(SourceView, given)
    known["options"] = tuple(given.get("options", ()))
    found = given.get("factors")
    known["factors"] = Factors(**_known(Factors, found)) if found else None
    return SourceView(**known)


def _known(cls: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    names = {f.name for f in dataclasses.fields(cls)}
    return {name: value for name, value in given.items() if name in names}
