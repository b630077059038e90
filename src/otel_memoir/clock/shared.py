"""The clock of a process: one for all that stamp with the same settings."""

from __future__ import annotations

from otel_memoir.clock.synchronized import SynchronizedClock
from otel_memoir.clock.system import Clock, SystemClock
from otel_memoir.settings import Settings

_CLOCKS: dict[tuple[object, ...], SynchronizedClock] = {}


def shared_clock(settings: Settings) -> Clock:
    """The clock that the settings ask for. Opens and starts nothing.

    Made once for each set of clock settings: a second one would be a second thread, and in
    mode ``correct`` could serve another time. It lives as long as the process.
    """
    if settings.clock_mode == "system":
        return SystemClock()
    key = _key(settings)
    # Of two threads that make one, one keeps it; the other's is dropped unused.
    return _CLOCKS.get(key) or _CLOCKS.setdefault(key, SynchronizedClock(settings=settings))


def change_shared_clock(clock: Clock, settings: Settings) -> None:
    """Have a clock go by other settings, for all who stamp with it."""
    if not isinstance(clock, SynchronizedClock):
        return
    clock.use(settings)
    for key in [key for key, known in _CLOCKS.items() if known is clock]:
        del _CLOCKS[key]
    _CLOCKS.setdefault(_key(settings), clock)


def _key(settings: Settings) -> tuple[object, ...]:
    names = sorted(name for name in settings.__dataclass_fields__ if name.startswith("clock_"))
    return tuple(getattr(settings, name) for name in names)
