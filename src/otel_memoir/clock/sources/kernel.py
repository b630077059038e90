"""The system clock itself as a source, with the bound that its daemon maintains, if one does."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from otel_memoir.clock.options import DEFAULT_OPTIONS, SourceOptions
from otel_memoir.clock.sample import Sample
from otel_memoir.clock.sources.exchange import Clocks
from otel_memoir.clock.sources.packet import Refusal
from otel_memoir.clock.sources.timex import TIME_OOP, Timex, read_timex
from otel_memoir.errors import ClockError, SettingsError

NOBODY_US = 16_000_000
"""The kernel's NTP_PHASE_LIMIT: ``maxerror`` at boot, after the clock was set, and 9 hours
after a daemon died."""
_LEAP_NS = 10**9


class SystemClockSource:
    """The system's clock: offset 0, and how wrong it can be, where somebody says so.

    ``failures`` counts polls that failed, by reason. Used by one thread.

    Args:
        unknown_ns: The distance to give where nobody maintains one, in nanoseconds. By
            default there is no sample then: containers are mostly synchronised by their
            host, but nothing in them tells.

        options: What it may say in the vote, and how often it is asked.

        timex: What asks the kernel; a test hands in its own.

        clocks: What is read; a test hands in its own.
    """

    name = "system"

    def __init__(
        self,
        *,
        unknown_ns: int | None = None,
        options: SourceOptions = DEFAULT_OPTIONS,
        timex: Callable[[], Timex] = read_timex,
        clocks: Clocks | None = None,
    ) -> None:
        if unknown_ns is not None and unknown_ns <= 0:
            raise SettingsError("set unknown_ns", target=unknown_ns, cause="it is not above 0")
        self.options = options
        self.failures: Counter[str] = Counter()
        self.last: Timex | None = None
        self._unknown_ns = unknown_ns
        self._timex = timex
        self._clocks = clocks or Clocks()

    def poll(self, timeout: float) -> Sample:
        """Ask the kernel; it answers at once.

        Raises:
            ClockError: Nobody maintains a bound (``unsynchronised``, ``no_bound``) and
                there is no ``unknown_ns``; or the kernel does not tell.
        """
        try:
            return self._sample()
        except ClockError as error:
            self.failures[error.reason] += 1
            raise

    def _sample(self) -> Sample:
        try:
            self.last = self._timex()
            distance_ns = _distance_ns(self.last)
        except ClockError:
            if self._unknown_ns is None:
                raise
            distance_ns = self._unknown_ns
        bracket = self._clocks.bracket()
        return Sample(
            source=self.name, ruler_ns=bracket.ruler_ns, unix_ns=bracket.wall_ns,
            distance_ns=distance_ns + (bracket.width_ns + 1) // 2,
        )


def _distance_ns(timex: Timex) -> int:
    wrong = unmaintained(timex)
    if wrong is not None:
        raise ClockError(
            wrong.reason, source="system", cause=wrong.cause,
            hint="Run chronyd with `rtcsync`, configure a source, or say how far to trust it.",
        )
    leap_ns = _LEAP_NS if timex.state == TIME_OOP else 0
    return (timex.maxerror_us + 1) * 1000 + abs(timex.offset_ns) + leap_ns


def unmaintained(timex: Timex) -> Refusal | None:
    """Why ``maxerror`` is not a bound, or ``None`` where a daemon demonstrably maintains it.

    STA_UNSYNC alone says nothing: chronyd leaves it set without ``rtcsync`` while it keeps
    ``maxerror`` right. Nor does its absence: systemd-timesyncd and phc2sys clear it and write
    ``maxerror`` 0, from where the kernel counts up by 500 ppm. They are told by ``esterror``,
    which timesyncd writes as 0 and phc2sys leaves alone, so that it is 0 or above
    ``maxerror``; whoever knows its error writes both (chrony sys_timex.c, ntpd ntp_loopfilter.c).
    """
    if timex.maxerror_us >= NOBODY_US:
        return Refusal("unsynchronised", "nobody has told the kernel how wrong its clock is")
    if not 0 < timex.esterror_us <= timex.maxerror_us:
        return Refusal("no_bound", "what synchronises the clock does not say how wrong it is")
    return None
