"""The instruments of health: the verdict by component, and the numbers it is drawn from.

All are observable and share one look for each collection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Protocol

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.observe.health import RANK, Health, Signs
from otel_memoir.observe.health_causes import COMPONENTS
from otel_memoir.observe.metrics import COMPONENT, SCOPE, guarded

_Seen = Iterable[tuple[float, dict[str, str]]]
_SHARED_S = 0.5


class HasHealth(Protocol):
    """What has a verdict."""

    def health(self, *, at_most_s: float = 0.0) -> Health:
        """The verdict; one that is no older than so many seconds will do."""
        ...


def observe_health(observed: HasHealth, provider: MeterProvider | None = None) -> None:
    """Register the instruments, once for each pipeline. Never raises."""
    try:
        meter = (provider or get_meter_provider()).get_meter(SCOPE)
        for name, unit, about, look in GAUGES:
            meter.create_observable_gauge(
                name, unit=unit, description=about, callbacks=[_callback(observed, look)]
            )
    except Exception as error:  # noqa: BLE001 - promise 6
        complaints.say("health metrics", f"cannot register the metrics of health: {error!r}")


def _callback(
    observed: HasHealth, look: Callable[[Health], _Seen]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return guarded("health", lambda: [
        Observation(value, {**COMPONENT, **about})
        for value, about in look(observed.health(at_most_s=_SHARED_S))
    ])


def _one(pick: Callable[[Signs], float | None]) -> Callable[[Health], _Seen]:
    def look(health: Health) -> _Seen:
        value = pick(health.signs)
        return [] if value is None else [(value, {})]

    return look


def _states(health: Health) -> _Seen:
    return [(RANK[health.of(component)], {"memoir.health.component": component})
            for component in COMPONENTS]


GAUGES: tuple[tuple[str, str, str, Callable[[Health], _Seen]], ...] = (
    ("memoir.health.state", "{state}", "0 for ok, 1 for degraded, 2 for failing.", _states),
    ("memoir.spool.waiting", "By", "Payload bytes that wait.",
     _one(lambda s: s.waiting_bytes)),
    ("memoir.spool.waiting.limit", "By", "How many payload bytes may wait.",
     _one(lambda s: s.waiting_bytes_max)),
    ("memoir.spool.on_disk", "{spool}", "1 where records go to a file, 0 where into memory.",
     _one(lambda s: int(s.is_on_disk))),
    ("memoir.spool.disk_free", "By", "Free bytes of the disk under the spool.",
     _one(lambda s: s.disk_free_bytes)),
    ("memoir.spool.commit_time", "s", "Three of four fsynced commits take less.",
     _one(lambda s: s.commit_s)),
    ("memoir.spool.accept_rate", "{log_record}/s", "Records accepted a second, over a minute.",
     _one(lambda s: s.accepted_per_s)),
    ("memoir.delivery.rate", "{log_record}/s", "Records delivered a second, over a minute.",
     _one(lambda s: s.delivered_per_s)),
    ("memoir.delivery.eta", "s", "When nothing will wait any more; absent where it grows.",
     _one(lambda s: s.drain_eta_s)),
    ("memoir.delivery.failing_time", "s", "How long no attempt has succeeded.",
     _one(lambda s: s.failing_for_s)),
    ("memoir.delivery.hold", "{hold}", "1 while delivery is on hold.",
     _one(lambda s: int(s.hold is not None))),
    ("memoir.quarantine.size", "{log_record}", "Records in quarantine.",
     _one(lambda s: s.quarantined)),
    ("memoir.gap.new_records", "{log_record}", "Records lost lately (health_window_s).",
     _one(lambda s: sum(s.new_gaps.values()))),
)
