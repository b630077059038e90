"""The instruments of lock managers, by lock class and never by key.

What is free costs integers that are read when somebody collects; only a lock that was
contended for is put into a histogram.

All managers that tell one provider share one set of instruments: of two that have one name the
SDK asks the first, and of every other manager nothing would be told.
"""

from __future__ import annotations

import operator
import os
import threading
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation, get_meter_provider

from otel_memoir.diagnostics import complaints
from otel_memoir.events import names
from otel_memoir.locks.core import Core
from otel_memoir.locks.parts import Claim, LockClass

SCOPE = "otel_memoir"

# From a hand-over between two threads to a model that thinks. The SDK's own are for milliseconds.
BOUNDARIES_S: Final = (
    0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300,
)  # fmt: skip

_Values = dict[str, float]
_Classes = dict[str, LockClass]


class LockMetrics:
    """What is told of one manager.

    Args:
        provider: Of meters; the global one by default.
    """

    def __init__(self, core: Core, provider: MeterProvider | None = None) -> None:
        self._core = weakref.ref(core)
        self._instruments = _instruments_of(provider)
        self._instruments.add(core)

    def deadlocks(self, resolution: str) -> None:
        """Count a deadlock."""
        self._instruments.found(resolution)

    def waited(self, kind: str, waited_s: float, outcome: str) -> None:
        """Record a wait."""
        about = {names.LOCK_CLASS: kind, names.LOCK_OUTCOME: outcome}
        self._instruments.wait_time.record(waited_s, about)

    def released(self, lease: Claim) -> None:
        """Record how long a lock was held that others waited for."""
        core = self._core()
        if core is not None:
            held_s = (core.monotonic_ns() - lease.acquired_ns) / 1e9
            kind = lease.steps[-1][0].kind.name
            self._instruments.hold_time.record(held_s, {names.LOCK_CLASS: kind})


class Instruments:
    """The instruments of one provider."""

    def __init__(self, provider: MeterProvider) -> None:
        self._cores: weakref.WeakSet[Core] = weakref.WeakSet()
        self._gone: deque[_Classes] = deque()
        self._past: dict[str, Counter[str]] = {}
        self._deadlocks: Counter[str] = Counter()
        self.forget()
        meter = provider.get_meter(SCOPE)
        self.wait_time = meter.create_histogram(
            "memoir.lock.wait_time", "s", "How long locks were waited for, where they were.",
            explicit_bucket_boundaries_advisory=BOUNDARIES_S,
        )
        self.hold_time = meter.create_histogram(
            "memoir.lock.hold_time", "s", "How long locks were held that others waited for.",
            explicit_bucket_boundaries_advisory=BOUNDARIES_S,
        )
        for name, unit, about, look, joined in _GAUGES:
            meter.create_observable_gauge(
                name, [_guarded(names.LOCK_CLASS, self._now(look, joined))], unit, about
            )
        for name, unit, about in _COUNTERS:
            meter.create_observable_counter(
                name, [_guarded(names.LOCK_CLASS, self._total(name))], unit, about
            )
        meter.create_observable_counter(
            "memoir.lock.deadlocks",
            [_guarded(names.DEADLOCK_RESOLUTION, lambda: dict(self._deadlocks))], "{deadlock}",
            "Deadlocks, by what was done about them.",
        )  # fmt: skip

    def add(self, core: Core) -> None:
        """Observe one more manager; what it counted stays when it is gone."""
        with self._lock:
            self._cores.add(core)
        weakref.finalize(core, self._gone.append, core.table.classes).atexit = False

    def forget(self) -> None:
        """In a fork child: what was counted is told of by the parent."""
        self._lock = threading.RLock()  # a finaliser may come back in the same thread
        self._gone.clear()
        self._past = {name: Counter() for name, *_ in _COUNTERS}
        self._deadlocks.clear()

    def found(self, resolution: str) -> None:
        """Count a deadlock."""
        with self._lock:
            self._deadlocks[resolution] += 1

    def _living(self) -> list[Core]:
        with self._lock:
            return list(self._cores)

    def _now(
        self, look: Callable[[Core], _Values], joined: Callable[[float, float], float]
    ) -> Callable[[], _Values]:
        def values() -> _Values:
            found: _Values = {}
            for core in self._living():
                for kind, value in look(core).items():
                    found[kind] = joined(found[kind], value) if kind in found else value
            return found

        return values

    def _total(self, name: str) -> Callable[[], _Values]:
        def values() -> _Values:
            with self._lock:
                while self._gone:
                    self._remember(self._gone.popleft())
                total = Counter(self._past[name])
            for core in self._living():
                total.update(_counts(name, core.table.classes))
            return dict(total)

        return values

    def _remember(self, classes: _Classes) -> None:
        for name, past in self._past.items():
            past.update(_counts(name, classes))


_shared: weakref.WeakKeyDictionary[MeterProvider, Instruments] = weakref.WeakKeyDictionary()
_global: list[Instruments] = []
_sharing = threading.RLock()


def _instruments_of(provider: MeterProvider | None) -> Instruments:
    """The set of a provider. The global one has one set, before and after an SDK is installed."""
    with _sharing:
        current = get_meter_provider()
        known = _shared.get(provider or current)
        if known is not None:
            return known
        if provider is None or provider is current:
            if not _global:
                _global.append(Instruments(current))
            return _global[0]
        made = _shared[provider] = Instruments(provider)
        return made


def _after_fork() -> None:
    global _sharing
    _sharing = threading.RLock()
    for one in (*_shared.values(), *_global):
        one.forget()


os.register_at_fork(after_in_child=_after_fork)


def _guarded(
    label: str, look: Callable[[], _Values]
) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def callback(_: CallbackOptions) -> Iterable[Observation]:
        try:
            seen = look()
        except Exception as error:  # noqa: BLE001 - a metric must not harm the host (promise 6)
            complaints.say("lock metrics", f"cannot observe the locks: {error!r}")
            seen = {}
        return [Observation(value, {label: name}) for name, value in seen.items()]

    return callback


def _held(core: Core) -> _Values:
    with core.mutex:
        return dict(Counter(lease.steps[-1][0].kind.name for lease in core.table.leases()))


def _waiting(core: Core) -> _Values:
    with core.mutex:
        return dict(Counter(wait.steps[-1][0].kind.name for wait in core.table.waits()))


def _oldest(core: Core) -> _Values:
    oldest: _Values = {}
    with core.mutex:
        now_ns = core.monotonic_ns()
        for wait in core.table.waits():
            kind = wait.steps[-1][0].kind.name
            oldest[kind] = max(oldest.get(kind, 0.0), (now_ns - wait.arrival_ns) / 1e9)
    return oldest


def _counts(name: str, classes: _Classes) -> dict[str, int]:
    field = name.rpartition(".")[2]
    return {kind.name: getattr(kind, field) for kind in list(classes.values())}


_GAUGES: tuple[
    tuple[str, str, str, Callable[[Core], _Values], Callable[[float, float], float]], ...
] = (
    ("memoir.lock.held", "{lease}", "Leases that are held.", _held, operator.add),
    ("memoir.lock.waiting", "{unit}", "Units that wait for a lock.", _waiting, operator.add),
    ("memoir.lock.oldest_wait", "s", "The longest that anybody waits now.", _oldest, max),
)
_COUNTERS = (
    ("memoir.lock.acquired", "{lease}", "Locks that were granted."),
    ("memoir.lock.contended", "{request}", "Requests that had to wait."),
    ("memoir.lock.timeouts", "{request}", "Requests whose time was over."),
)
