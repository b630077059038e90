"""The instruments of the hybrid clock: what peers did to the stamps of this process."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol
from weakref import WeakSet

from opentelemetry.metrics import MeterProvider, Observation, get_meter_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.observe.metrics import SCOPE, guarded


class HybridStatus(Protocol):
    """What a hybrid clock says of itself."""

    @property
    def lead_ns(self) -> int:
        """How far its next time is ahead of the clock."""
        ...

    @property
    def merged(self) -> int:
        """Times of peers that were taken."""
        ...

    @property
    def refused(self) -> Mapping[str, int]:
        """Times of peers that were not, by reason."""
        ...


class ObservedHybrid(Protocol):
    """What can be observed."""

    def status(self) -> HybridStatus:
        """How it is."""
        ...


_observed: WeakSet[ObservedHybrid] = WeakSet()


def observe_hybrid(hybrid: ObservedHybrid, provider: MeterProvider | None = None) -> None:
    """Register the instruments, once for each. Never raises."""
    try:
        if hybrid in _observed:
            return
        _observed.add(hybrid)
        meter = (provider or get_meter_provider()).get_meter(SCOPE)
        meter.create_observable_gauge(
            "memoir.stamp.lead", unit="s",
            description="How far the next stamp is ahead of the clock.",
            callbacks=[guarded("stamps", lambda: [Observation(hybrid.status().lead_ns / 1e9)])],
        )
        meter.create_observable_counter(
            "memoir.peer.merged", unit="{time}", description="Times of callers that were taken.",
            callbacks=[guarded("stamps", lambda: [Observation(hybrid.status().merged)])],
        )
        meter.create_observable_counter(
            "memoir.peer.refused", unit="{time}",
            description="Times of callers that were not taken.",
            callbacks=[guarded("stamps", lambda: [
                Observation(count, {"error.type": reason})
                for reason, count in hybrid.status().refused.items()
            ])],
        )
    except Exception as error:  # noqa: BLE001 - promise 6
        complaints.say("metrics", f"cannot register the metrics of stamps: {error!r}")
