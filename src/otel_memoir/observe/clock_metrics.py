"""The instruments of the clock: what it knows of itself, at the moment of collection.

Names follow the Collector's chronyreceiver where it has them. They are observable only, and
a snapshot is an attribute look-up: reading the clock costs nothing more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol
from weakref import WeakSet

from opentelemetry.metrics import (
    CallbackOptions,
    Meter,
    MeterProvider,
    Observation,
    get_meter_provider,
)

from otel_memoir.clock.snapshot import ClockSnapshot, SourceView
from otel_memoir.diagnostics import complaints
from otel_memoir.observe.metrics import SCOPE, guarded

Seen = Iterable[tuple[float, dict[str, str]]]

_observed: WeakSet[ObservedClock] = WeakSet()

_TAKEN = ("selected", "survivor", "outlier")


class ObservedClock(Protocol):
    """What can be observed."""

    def snapshot(self) -> ClockSnapshot:
        """Everything that is known."""
        ...


def observe_clock(clock: Any, provider: MeterProvider | None = None) -> None:
    """Register the instruments, once for each clock; costs nothing without an SDK.

    Never raises: the provider is the application's. A clock that cannot be asked, such as
    the system's, is not observed.
    """
    try:
        if not hasattr(clock, "snapshot") or clock in _observed:
            return
        _observed.add(clock)
        meter = (provider or get_meter_provider()).get_meter(SCOPE)
        for name, unit, about, look in _GAUGES:
            meter.create_observable_gauge(
                name, unit=unit, description=about, callbacks=[_guarded(clock, look)]
            )
        _register_counters(meter, clock)
    except Exception as error:  # noqa: BLE001 - promise 6
        complaints.say("clock metrics", f"cannot register the clock's metrics: {error!r}")


def _register_counters(meter: Meter, clock: ObservedClock) -> None:
    meter.create_observable_counter(
        "memoir.clock.steps", unit="{step}", description="Jumps, by what jumped and where to.",
        callbacks=[_guarded(clock, lambda s: [
            (count, {"memoir.clock.step": kind}) for kind, count in s.steps.items()
        ])],
    )
    meter.create_observable_counter(
        "memoir.clock.poll.failures", unit="{poll}",
        description="Polls without a usable answer, by reason.",
        callbacks=[_guarded(clock, _failures)],
    )


def _one(pick: Callable[[ClockSnapshot], float | None]) -> Callable[[ClockSnapshot], Seen]:
    def look(snapshot: ClockSnapshot) -> Seen:
        value = pick(snapshot)
        return [] if value is None else [(value, {})]

    return look


def _each(pick: Callable[[SourceView], float | None]) -> Callable[[ClockSnapshot], Seen]:
    def look(snapshot: ClockSnapshot) -> Seen:
        seen = ((source.name, pick(source)) for source in snapshot.sources)
        return [(value, {"memoir.clock.source": name}) for name, value in seen
                if value is not None]

    return look


def _s(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9


def _selected(pick: Callable[[SourceView], float | None]) -> Callable[[ClockSnapshot], Seen]:
    def value(snapshot: ClockSnapshot) -> float | None:
        found = next((s for s in snapshot.sources if s.name == snapshot.selected), None)
        return None if found is None else pick(found)

    return _one(value)


def _states(snapshot: ClockSnapshot) -> Seen:
    return [(1, {"memoir.clock.source": s.name, "memoir.clock.vote": s.vote})
            for s in snapshot.sources]


def _failures(snapshot: ClockSnapshot) -> Seen:
    return [(count, {"memoir.clock.source": source.name, "error.type": reason})
            for source in snapshot.sources for reason, count in source.failures.items()]


def _violation_s(source: SourceView) -> float | None:
    """By how much its offset is more than its delay allows (node_exporter's ntp collector)."""
    if source.offset_ns is None or source.delay_ns is None:
        return None
    return max(0, abs(source.offset_ns) - source.delay_ns // 2) / 1e9


_GAUGES: tuple[tuple[str, str, str, Callable[[ClockSnapshot], Seen]], ...] = (
    ("ntp.time.correction", "s", "What the system clock has to gain to be at the estimate.",
     _one(lambda s: None if s.offset_ns is None else -s.offset_ns / 1e9)),
    ("ntp.frequency.offset", "ppm", "What true time gains on the raw clock.",
     _one(lambda s: s.drift_ppm)),
    ("ntp.skew", "ppm", "How wrong the frequency offset can be.",
     _one(lambda s: s.drift_error_ppm)),
    ("ntp.stratum", "{count}", "Stratum of the selected source.",
     _selected(lambda s: s.stratum)),
    ("ntp.time.root_delay", "s", "Round trip to the selected source.",
     _selected(lambda s: _s(s.delay_ns))),
    ("memoir.clock.error_bound", "s", "How far true time can be from the estimate.",
     _one(lambda s: _s(s.bound_ns))),
    ("memoir.clock.confidence", "1", "Confidence in the estimate, from 0 to 1.",
     _one(lambda s: s.confidence)),
    ("memoir.clock.epoch", "1", "How often the served clock had to jump back.",
     _one(lambda s: s.epoch)),
    ("memoir.clock.slew_left", "s", "How far the served clock is from the estimate.",
     _one(lambda s: _s(s.slew_left_ns))),
    ("memoir.clock.holdover.age", "s", "Time since the last selection.",
     _one(lambda s: _s(s.holdover_ns))),
    ("memoir.clock.source.confidence", "1", "Confidence in a source, from 0 to 1.",
     _each(lambda s: s.confidence)),
    ("memoir.clock.source.selected", "1", "1 for a source that agrees with the result.",
     _each(lambda s: float(s.vote in _TAKEN))),
    ("memoir.clock.source.state", "1", "1 for the state that a source is in.", _states),
    ("memoir.clock.source.root_distance", "s", "How far true time can be from a source's.",
     _each(lambda s: _s(s.distance_ns))),
    ("memoir.clock.source.jitter", "s", "How much a source jumps about.",
     _each(lambda s: _s(s.jitter_ns))),
    ("memoir.clock.source.causality_violation", "s",
     "By how much a source's offset exceeds what its delay allows.", _each(_violation_s)),
)


def _guarded(
    clock: ObservedClock, look: Callable[[ClockSnapshot], Seen]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return guarded(
        "clock", lambda: [Observation(value, about) for value, about in look(clock.snapshot())]
    )
