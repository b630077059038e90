"""How much to trust a source, from 0 to 1, as a product of factors that a person can read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

DISTANCE_GOAL_NS = 10_000_000
"""A source at this distance counts half."""

UNSIGNED = 0.9

_AGREES = {"selected": 1.0, "survivor": 1.0, "outlier": 1.0, "voter": 0.5}


@dataclass(frozen=True, slots=True, kw_only=True)
class Factors:
    """Why a source is trusted as much as it is; each from 0 to 1.

    Attributes:
        agreement: 1 where others agree with it, 0.5 where there is nobody to ask, else 0.

        nearness: Falls with its distance, and so with the age of what it said.

        steadiness: Falls with its jitter.

        reach: The share of its last eight polls that were answered.

        authentic: 1 where its answers are signed.
    """

    agreement: float
    nearness: float
    steadiness: float
    reach: float
    authentic: float

    @property
    def score(self) -> float:
        """Their product."""
        return (
            self.agreement * self.nearness * self.steadiness * self.reach * self.authentic
        )


def factors(
    vote: str,
    *,
    distance_ns: int,
    jitter_ns: int,
    reach: int,
    authenticated: bool = False,
    alone: bool = False,
    goal_ns: int = DISTANCE_GOAL_NS,
) -> Factors:
    """Judge one source.

    Args:
        vote: What became of it in the selection.

        distance_ns: How far true time can be from what it says.

        jitter_ns: How much it jumps about.

        reach: Its last eight polls, one bit each.

        authenticated: Whether its answers are signed.

        alone: Whether it is the only one that voted.

        goal_ns: At this distance, and at this jitter, it counts half.
    """
    return Factors(
        agreement=min(_AGREES.get(vote, 0.0), 0.5 if alone else 1.0),
        nearness=1 / (1 + distance_ns / goal_ns),
        steadiness=1 / (1 + jitter_ns / goal_ns),
        reach=bin(reach & 0xFF).count("1") / 8,
        authentic=1.0 if authenticated else UNSIGNED,
    )


def overall(scores: Iterable[float], *, voters: int, liars: int) -> float:
    """The confidence in the result: the best source's, less for each vote against it."""
    if not voters:
        return 0.0
    return max(scores, default=0.0) * (1 - liars / voters)
