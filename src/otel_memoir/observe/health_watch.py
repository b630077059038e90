"""Watching health: looks from time to time, remembers the verdict, tells of changes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from otel_memoir.diagnostics import complaints
from otel_memoir.observe.health import Health, HealthState, Signs
from otel_memoir.observe.health_causes import changed, judge
from otel_memoir.settings import Settings

OnHealthChange = Callable[[Health], object]
Tell = Callable[[Health, HealthState], bool]

_PATIENCE_S = 1.0


class HealthWatch:
    """One pipeline's health.

    ``turn`` is for the courier's thread, which tells of changes with no lock held; ``now`` is
    for everybody. An idle process looks every ``health_interval_s``, and writes nothing.

    Args:
        read: Observes the pipeline.

        settings: The settings.

        tell: Emits the event of a change (the verdict, the state that was told before);
            returns whether it found room.

        on_change: Told of each verdict with another state or other causes than before.

        monotonic_s: The clock for durations.
    """

    def __init__(
        self,
        read: Callable[[], Signs],
        settings: Settings,
        *,
        tell: Tell,
        on_change: OnHealthChange | None = None,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._tell = tell
        self._on_change = on_change
        self._monotonic_s = monotonic_s
        self.forget(read)

    def forget(self, read: Callable[[], Signs]) -> None:
        """In a fork child: begin anew, also with the lock that a thread of the parent had.

        Args:
            read: Observes the pipeline of the child, from its beginning.
        """
        self._read = read
        self._lock = threading.Lock()
        self._health = Health()
        self._looked_s = float("-inf")
        self._next_s = self._monotonic_s() + self._settings.health_interval_s
        self._known = Health()
        self._told: HealthState = "ok"
        self._next_event_s = float("-inf")

    def use(self, settings: Settings, read: Callable[[], Signs] | None = None) -> None:
        """Judge by other settings from now on; what was told of stays told.

        Args:
            settings: The settings.

            read: Observes the pipeline by them; as before if not given.
        """
        self._settings, self._read = settings, read or self._read
        self._next_s = min(self._next_s, self._monotonic_s() + settings.health_interval_s)

    def now(self, *, at_most_s: float = 0.0) -> Health:
        """The verdict just now.

        Args:
            at_most_s: One that is no older, in seconds, will do.

        Returns:
            The last one, where somebody else looks and does not come back in a second, or
            where looking fails. Never raises an ``Exception``.
        """
        if not self._lock.acquire(timeout=_PATIENCE_S):
            return self._health
        try:
            if self._monotonic_s() - self._looked_s > at_most_s:
                self._health = judge(self._read(), self._settings, self._health)
                self._looked_s = self._monotonic_s()
        except Exception as error:  # noqa: BLE001 - whoever asks is the host (promise 6)
            complaints.say("health", f"health cannot be looked at: {error!r}")
        finally:
            self._lock.release()
        return self._health

    def turn(self) -> None:
        """Look if it is time to, and tell of what changed. Never raises an ``Exception``."""
        if self._monotonic_s() < self._next_s:
            return
        self._next_s = self._monotonic_s() + self._settings.health_interval_s
        try:
            health = self.now()
            self._call(health)
            self._emit(health)
        except Exception as error:  # noqa: BLE001 - the courier goes on (promise 6)
            complaints.say("health told", f"a change of health cannot be told: {error!r}")

    def _call(self, health: Health) -> None:
        if self._on_change is None or not changed(self._known, health):
            return
        self._known = health
        try:
            self._on_change(health)
        except Exception as error:  # noqa: BLE001 - it is the application's own
            complaints.say("on_health_change", f"on_health_change raised {error!r}")

    def _emit(self, health: Health) -> None:
        """Emit the event of another state; at most so often, and later if there is no room."""
        now_s = self._monotonic_s()
        if health.state == self._told or now_s < self._next_event_s:
            return
        if self._tell(health, self._told):
            self._told = health.state
            self._next_event_s = now_s + self._settings.health_event_interval_s
