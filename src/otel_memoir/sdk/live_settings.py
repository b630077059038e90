"""The settings of a pipeline, which can be changed while it runs: by code, and by a file."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from otel_memoir.clock.configured import check_sources
from otel_memoir.delivery.destination import DESTINATION_SETTINGS, check_destination
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import SettingsError
from otel_memoir.setting_layers import Layers
from otel_memoir.settings import Settings, settings_in
from otel_memoir.settings_file import FileWatch

_LOOK_S = 0.9
_PATIENCE_S = 5.0
_NONE: frozenset[str] = frozenset()

Change = Callable[[Settings, "frozenset[str]"], None]


class LiveSettings:
    """What counts now, and who said it. A change is done as a whole, or nothing of it.

    Args:
        settings: What counts at first.

        check: Raises a ``SettingsError`` if settings cannot be used, of which these names have
            another value than before.

        use: Hands such settings on to whoever goes by them. It must not raise.

        monotonic_s: The clock for durations.

    Attributes:
        settings: What counts; another value after each change.

        problem: Why what the settings file says does not count; empty, if it does.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        check: Change,
        use: Change,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.settings = settings
        self.problem = ""
        self._layers = settings.all_layers()
        self._check = check
        self._use = use
        self._monotonic_s = monotonic_s
        self._watch = FileWatch(settings.settings_file) if settings.settings_file else None
        self._next_look_s = float("-inf")
        self.forget()

    def forget(self) -> None:
        """In a fork child: whoever was changing something is not here."""
        self._changing = threading.Lock()

    def change(self, given: Mapping[str, Any]) -> None:
        """Change settings.

        Args:
            given: Settings by name; ``None`` takes back what the code had said.

        Raises:
            SettingsError: A name or value cannot be used, or is not live. Nothing changed.
        """
        with self._alone():
            self._settle(self._layers.with_code(given))

    def look_at_file(self) -> None:
        """Read the settings file if it is another one, at most once a second. Never raises."""
        now_s = self._monotonic_s()
        if self._watch is None or now_s < self._next_look_s:
            return
        self._next_look_s = now_s + _LOOK_S
        try:
            if self._watch.look():
                self._read(self._watch)
        except Exception as error:  # whoever looks has other things to do
            complaints.say("settings file", f"the settings file cannot be looked at: {error!r}")

    def _read(self, watch: FileWatch) -> None:
        try:
            said = settings_in(watch.path)
            if not watch.is_unchanged():
                return  # half of it may be of the next one
            with self._alone():
                self._settle(self._layers.with_file(said))
        except SettingsError as error:
            self._say(str(error))
            if isinstance(error.__cause__, OSError):
                return  # that may pass without a trace on the file
        else:
            self.problem = ""
        watch.take()

    def _say(self, problem: str) -> None:
        if problem != self.problem:
            self.problem = problem
            complaints.say(f"settings file {problem}", problem)

    def _settle(self, layers: Layers) -> None:
        after = Settings.of(layers)
        changed = after.changed(self.settings)
        _refuse_what_is_not_live(changed)
        self._check(after, changed)
        self._layers, self.settings = layers, after
        self._use(after, changed)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        # At first without waiting: the caller may be the thread of an event loop.
        lock = self._changing
        if not (lock.acquire(blocking=False) or lock.acquire(timeout=_PATIENCE_S)):
            raise SettingsError(
                "change settings", cause="another change does not come to an end",
                hint="Try again.",
            ) from TimeoutError()
        try:
            yield
        finally:
            lock.release()


def check_change(
    settings: Settings,
    changed: frozenset[str],
    *,
    environ: Mapping[str, str],
    has_own_clock: bool,
    has_own_sender: bool,
) -> None:
    """Check what settings alone cannot know.

    Args:
        settings: What shall count.

        changed: The names of which the values are others than before.

        environ: The environment, for the ``OTEL_EXPORTER_OTLP_*`` variables.

        has_own_clock: Whether the clock came as an object, which goes by no settings.

        has_own_sender: The same of the sender.

    Raises:
        SettingsError: They cannot be used.
    """
    where, clock = changed & DESTINATION_SETTINGS, clock_settings(changed)
    if where and not has_own_sender:
        check_destination(settings, environ)
    if clock and not has_own_clock:
        check_sources(settings)
    unheard = (where if has_own_sender else _NONE) | (clock if has_own_clock else _NONE)
    if unheard:
        raise SettingsError(
            "change setting", target=", ".join(sorted(unheard)),
            cause="the code gave a sender or a clock of its own, which does not go by it",
            hint="Give none, and the settings are gone by.",
        )


def clock_settings(names: frozenset[str]) -> frozenset[str]:
    """Those of the names that the clock goes by."""
    return frozenset(name for name in names if name.startswith("clock_"))


def _refuse_what_is_not_live(names: frozenset[str]) -> None:
    fields = Settings.__dataclass_fields__
    fixed = sorted(name for name in names if not fields[name].metadata["live"])
    if fixed:
        raise SettingsError(
            "change setting", target=", ".join(fixed),
            cause="it cannot be changed in a running process",
            hint="Restart the process for it; docs/settings.md tells which settings are live.",
        )
