"""What to do with a batch after an answer: the rules of the outcome table.

Pure: from a batch, a judged outcome and what was delivered meanwhile to a
decision. The courier carries it out.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from otel_memoir.delivery.outcome import Outcome, Verdict
from otel_memoir.spool import Batch

SIDE_LANE_AFTER = 8
"""Failures of a batch, with others delivered meanwhile, until it leaves the main lane."""

LONE_FAILURES = 3
"""Failures of a single record, each with another's delivery since the last, until it is
poison where the answer could also mean throttling."""

LONE_TRIES = 2
"""Failures of a single record, with nothing delivered, until delivery is on hold: by then
another batch has had its turn."""


class Action(enum.Enum):
    """What becomes of a batch."""

    DELIVER = "deliver"
    RETRY = "retry"
    HOLD = "hold"
    HALVE = "halve"
    PROBE = "probe"
    """Send an empty request: delivered, the record is poison; else it is not its fault."""
    QUARANTINE = "quarantine"
    SIDE_LANE = "side lane"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What becomes of a batch, and whether the whole destination must wait."""

    action: Action
    suspect: int = 0
    pause: bool = False


def decide(batch: Batch, outcome: Outcome, *, others_delivered: bool) -> Decision:
    """Decide what becomes of a batch.

    Args:
        batch: As it was before this attempt.

        outcome: The judged answer.

        others_delivered: Another batch was delivered since this batch failed last, or
            since it was cut from one that failed.
    """
    suspect = batch.suspect + int(others_delivered)
    if outcome.verdict is Verdict.DELIVERED:
        return Decision(action=Action.DELIVER)
    if outcome.verdict is Verdict.HOLD:
        return Decision(action=Action.HOLD, suspect=suspect, pause=True)
    if outcome.verdict is Verdict.HALVE and batch.failures + 1 >= outcome.tries:
        return _at_fault(batch, outcome, suspect)
    # A batch that fails while others are delivered must not hold the others up.
    pause = suspect == 0 or outcome.retry_after_s is not None
    if batch.failures + 1 >= SIDE_LANE_AFTER and suspect > 0:
        return Decision(action=Action.SIDE_LANE, suspect=suspect, pause=pause)
    return Decision(action=Action.RETRY, suspect=suspect, pause=pause)


def _at_fault(batch: Batch, outcome: Outcome, suspect: int) -> Decision:
    if batch.records > 1:
        # Where the answer could mean throttling, the halves wait their turn.
        return Decision(action=Action.HALVE, pause=outcome.needs_sibling)
    if not outcome.needs_sibling and suspect > 0:
        return Decision(action=Action.PROBE, suspect=suspect)
    if not outcome.needs_sibling:
        # A Collector answers an empty request by itself, whatever the hop behind it says of
        # records. Nothing was delivered, so the destination is as suspect as the record.
        action = Action.RETRY if batch.failures < LONE_TRIES else Action.HOLD
        return Decision(action=action, suspect=suspect, pause=True)
    if suspect >= LONE_FAILURES:
        return Decision(action=Action.QUARANTINE, suspect=suspect)
    return Decision(action=Action.RETRY, suspect=suspect, pause=suspect == 0)
