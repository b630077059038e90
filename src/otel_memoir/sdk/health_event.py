"""The event that tells of another state of health: ``memoir.health.changed``."""

from __future__ import annotations

from otel_memoir.events import MemoryEvent, names
from otel_memoir.events.log_record import to_log_record
from otel_memoir.observe.health import Health, HealthState
from otel_memoir.sdk.gap_event import OPS_SCOPE
from otel_memoir.sdk.own_events import own_draft
from otel_memoir.spool import Draft


def health_draft(health: Health, before: HealthState, envelope: bytes | None) -> Draft:
    """The record that tells of a verdict.

    Args:
        health: The verdict; the event names its worst cause.

        before: The state that was told before.

        envelope: An envelope of this process; the event then has its resource.
    """
    worst = health.causes[0] if health.causes else None
    found = {
        names.HEALTH_STATE: health.state,
        names.HEALTH_PREVIOUS_STATE: before,
        names.HEALTH_COMPONENT: worst and worst.component,
        names.HEALTH_MESSAGE: worst and worst.message,
        names.HEALTH_HINT: worst and worst.hint,
    }
    event = MemoryEvent(
        names.EVENT_HEALTH_CHANGED, time_unix_ns=health.signs.taken_unix_ns or None,
        attributes={name: value for name, value in found.items() if value is not None},
    )
    return own_draft(to_log_record(event), scope=OPS_SCOPE, envelope=envelope)
