"""The instruments of a lock manager, by lock class and never by key.

What is free costs integers that are read when somebody collects; only a lock that was
contended for is put into a histogram.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.locks.core import Core
from otel_memoir.locks.parts import Claim

SCOPE = "otel_memoir"
LOCK_CLASS: Final = "memoir.lock.class"
OUTCOME: Final = "memoir.lock.outcome"
RESOLUTION: Final = "memoir.deadlock.resolution"

_Seen = list[tuple[float, dict[str, str]]]


class LockMetrics:
    """Instruments of one manager.

    Args:
        provider: Of meters; the global one by default.
    """

    def __init__(self, core: Core, provider: MeterProvider | None = None) -> None:
        self._core = weakref.ref(core)
        self._deadlocks: Counter[str] = Counter()
        meter = (provider or get_meter_provider()).get_meter(SCOPE)
        self._wait_time = meter.create_histogram(
            "memoir.lock.wait_time", "s", "How long locks were waited for, where they were."
        )
        self._hold_time = meter.create_histogram(
            "memoir.lock.hold_time", "s", "How long locks were held that others waited for."
        )
        for name, unit, about, look in _GAUGES:
            meter.create_observable_gauge(name, [self._guarded(look)], unit, about)
        for name, unit, about, look in _COUNTERS:
            meter.create_observable_counter(name, [self._guarded(look)], unit, about)
        meter.create_observable_counter(
            "memoir.lock.deadlocks", [self._guarded(self._found)], "{deadlock}",
            "Deadlocks, by what was done about them.",
        )  # fmt: skip

    def deadlocks(self, resolution: str) -> None:
        """Count a deadlock."""
        self._deadlocks[resolution] += 1

    def waited(self, kind: str, waited_s: float, outcome: str) -> None:
        """Record a wait."""
        self._wait_time.record(waited_s, {LOCK_CLASS: kind, OUTCOME: outcome})

    def released(self, lease: Claim) -> None:
        """Record how long a lock was held that others waited for."""
        core = self._core()
        if core is not None:
            held_ns = core.monotonic_ns() - lease.acquired_ns
            self._hold_time.record(held_ns / 1e9, {LOCK_CLASS: lease.steps[-1][0].kind.name})

    def _found(self, _: Core) -> _Seen:
        return [(count, {RESOLUTION: how}) for how, count in list(self._deadlocks.items())]

    def _guarded(
        self, look: Callable[[Core], _Seen]
    ) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            core = self._core()
            try:
                seen = look(core) if core is not None else []
            except Exception as error:  # noqa: BLE001 - a metric must not harm the host (promise 6)
                complaints.say("lock metrics", f"cannot observe the locks: {error!r}")
                seen = []
            return [Observation(value, about) for value, about in seen]

        return callback


def _by_class(counts: dict[str, float]) -> _Seen:
    return [(count, {LOCK_CLASS: kind}) for kind, count in counts.items()]


def _held(core: Core) -> _Seen:
    with core.mutex:
        kinds = Counter[str](
            lease.steps[-1][0].kind.name for lease in core.table.leases()
        )
    return _by_class(dict(kinds))


def _waiting(core: Core) -> _Seen:
    with core.mutex:
        kinds = Counter[str](wait.steps[-1][0].kind.name for wait in core.table.waits())
    return _by_class(dict(kinds))


def _oldest(core: Core) -> _Seen:
    oldest: dict[str, float] = {}
    with core.mutex:
        now_ns = core.monotonic_ns()
        for wait in core.table.waits():
            kind = wait.steps[-1][0].kind.name
            oldest[kind] = max(oldest.get(kind, 0.0), (now_ns - wait.arrival_ns) / 1e9)
    return _by_class(oldest)


def _counter(name: str) -> Callable[[Core], _Seen]:
    def look(core: Core) -> _Seen:
        with core.mutex:
            kinds = list(core.table.classes.values())
        return _by_class({kind.name: getattr(kind, name) for kind in kinds})

    return look


_GAUGES: tuple[tuple[str, str, str, Callable[[Core], _Seen]], ...] = (
    ("memoir.lock.held", "{lease}", "Leases that are held.", _held),
    ("memoir.lock.waiting", "{unit}", "Units that wait for a lock.", _waiting),
    ("memoir.lock.oldest_wait", "s", "The longest that anybody waits now.", _oldest),
)
_COUNTERS: tuple[tuple[str, str, str, Callable[[Core], _Seen]], ...] = (
    ("memoir.lock.acquired", "{lease}", "Locks that were granted.", _counter("acquired")),
    ("memoir.lock.contended", "{request}", "Requests that had to wait.", _counter("contended")),
    ("memoir.lock.timeouts", "{request}", "Requests whose time was over.", _counter("timeouts")),
)
