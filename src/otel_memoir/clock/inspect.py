"""Looks at the clock of this host from outside of the processes that use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from otel_memoir.clock.configured import Plan
from otel_memoir.clock.host_state import HostState, is_led, read_state, ruler_identity
from otel_memoir.clock.leader import Leader, usable_line
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.clock.views import at
from otel_memoir.clock.watch import Readings, read_clocks


@dataclass(frozen=True, slots=True)
class Seen:
    """What was found.

    Attributes:
        snapshot: The clock.

        polled: Whether the sources were asked just now, because no process does so.
    """

    snapshot: ClockSnapshot
    polled: bool


def look(plan: Plan, read: Callable[[], Readings] = read_clocks) -> Seen:
    """What the host's calibration says; without one, each source is asked once.

    Writes nothing. Takes as long as the slowest source, and each silent one a second.
    """
    state = read_state(plan.directory) if plan.directory else None
    if state is not None and plan.directory is not None and is_led(plan.directory):
        return Seen(_told_by_leader(state, plan, read()), polled=False)
    leader = Leader(
        plan.make_sources(), options=plan.options, state=_without_line(state),
        ruler=ruler_identity(), directory=None, told=plan.told, mode=plan.mode,
        read_clocks=read,
    )
    return Seen(leader.turn(lambda: False, {}).snapshot, polled=True)


def _told_by_leader(state: HostState, plan: Plan, now: Readings) -> ClockSnapshot:
    snapshot = ClockSnapshot.from_dict({
        "taken_unix_ns": now.wall_ns, **state.snapshot, "mode": plan.mode,
    })
    line = usable_line(state, ruler_identity(), now)
    return at(snapshot, line, ruler_ns=now.ruler_ns, wall_ns=now.wall_ns)


def _without_line(state: HostState | None) -> HostState | None:
    """What is known of the drift; nobody has looked after the line since."""
    if state is None:
        return None
    return HostState(ruler=state.ruler, drift=state.drift, epoch=state.epoch)
