"""The one process of a host that asks the sources, and writes down what it found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from otel_memoir.clock.calibration import Calibration, CalibrationOptions
from otel_memoir.clock.discipline import Discipline
from otel_memoir.clock.drift import RATE_MAX, Drift
from otel_memoir.clock.host_state import HostState, write_state
from otel_memoir.clock.line import Line, served
from otel_memoir.clock.options import ConfiguredSource
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.clock.views import take_snapshot
from otel_memoir.clock.watch import SLEPT_NS, Jumps, Readings, sleep_doubt_ns
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import ClockError

_S = 10**9
UPPER_AHEAD_NS = 120 * _S
_UPPER_RENEW_NS = 60 * _S
_POLL_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class Found:
    """What a turn found out: everything that a reader of the clock needs."""

    line: Line | None
    epoch: int
    status: str
    snapshot: ClockSnapshot


class Leader:
    """Asks, judges and publishes. Used by one thread.

    Args:
        sources: Whom to ask.

        options: How to judge.

        state: What an earlier leader, or an earlier life, left.

        ruler: Which ruler the readings are of.

        directory: Where to publish; ``None``: nowhere.

        told: How the sources were given, in words.

        mode: For the snapshot.

        read_clocks: Reads the host's clocks.
    """

    def __init__(
        self,
        sources: Sequence[ConfiguredSource],
        *,
        options: CalibrationOptions,
        state: HostState | None,
        ruler: str,
        directory: Path | None,
        told: str,
        mode: str,
        read_clocks: Callable[[], Readings],
    ) -> None:
        self._sources = {one.source.name: one.source for one in sources}
        self._ruler, self._directory, self._told, self._mode = ruler, directory, told, mode
        self._read_clocks = read_clocks
        self._upper_ns = state.upper_ns if state else 0
        self._written: tuple[Line | None, str] | None = None
        self.calibration = Calibration(
            {one.source.name: one.options for one in sources}, options,
            drift=usable_drift(state, ruler),
            discipline=_discipline(options, state, usable_line(state, ruler, read_clocks())),
        )

    def turn(self, stopping: Callable[[], bool], steps: Mapping[str, int]) -> Found:
        """Ask whoever is due, judge, and publish before anybody reads the result.

        Args:
            stopping: Whether to end early.

            steps: What the watch has counted, for the snapshot.
        """
        epoch = self.calibration.discipline.epoch
        due = self.calibration.due(self._read_clocks().ruler_ns)
        for name in due:
            if not stopping():
                self._ask(name)
        if due and not stopping():
            now = self._read_clocks()
            self.calibration.judge(ruler_ns=now.ruler_ns, wall_ns=now.wall_ns)
        found, now = self._found(steps)
        self._publish(found, now, durable=found.epoch != epoch)
        return found

    def wait_s(self) -> float:
        """Seconds until somebody is due."""
        due_ns = self.calibration.next_due_ns()
        if due_ns is None:
            return float("inf")
        return (due_ns - self._read_clocks().ruler_ns) / 1e9

    def jumped(self, jumps: Jumps) -> None:
        """The machine slept, or the wall clock was set: what was heard may not hold."""
        if jumps.slept_ns:
            self.calibration.suspended(jumps.slept_ns)
        elif jumps.wall_ns:
            self.calibration.ask_all()

    def interrupt(self) -> None:
        """From another thread: end a poll that is under way, if its source can."""
        for source in self._sources.values():
            close = getattr(source, "close", None)
            if close is not None:
                close()

    def close(self) -> None:
        """Write down exactly how far it got, for the next life."""
        found, now = self._found({})
        if found.line is not None:
            self._upper_ns = served(found.line, now.ruler_ns)[0]
            self._write(found, now, durable=True)

    def state(self) -> HostState:
        """What another leader could go on with."""
        found, now = self._found({})
        return self._state(found, now)

    def _ask(self, name: str) -> None:
        source = self._sources[name]
        try:
            sample = source.poll(_POLL_TIMEOUT_S)
        except ClockError as error:
            reason = error.reason
        except Exception as error:  # noqa: BLE001 - a source may be anybody's
            complaints.say(f"clock {name}", f"cannot ask {name} for the time: {error!r}")
            reason = "error"
        else:
            self.calibration.heard(name, sample, hint_s=_hint_s(source))
            return
        ruler_ns = self._read_clocks().ruler_ns
        self.calibration.missed(name, reason, ruler_ns, hint_s=_hint_s(source))

    def _found(self, steps: Mapping[str, int]) -> tuple[Found, Readings]:
        now, calibration = self._read_clocks(), self.calibration
        snapshot = take_snapshot(
            calibration, mode=self._mode, ruler_ns=now.ruler_ns, wall_ns=now.wall_ns
        )
        snapshot = snapshot.but(
            role="leader" if self._directory else "alone", leader_pid=os.getpid(),
            steps={**steps, **snapshot.steps},
        )
        discipline = calibration.discipline
        return Found(discipline.line, discipline.epoch, snapshot.status, snapshot), now

    def _publish(self, found: Found, now: Readings, *, durable: bool) -> None:
        """Write what changed. No time is served above what is on disk."""
        if found.line is not None:
            served_ns = served(found.line, now.ruler_ns)[0]
            if durable or served_ns + _UPPER_RENEW_NS > self._upper_ns:
                self._upper_ns, durable = served_ns + UPPER_AHEAD_NS, True
        if durable or self._written != (found.line, found.status):
            self._write(found, now, durable=durable)

    def _write(self, found: Found, now: Readings, *, durable: bool) -> None:
        if self._directory is None:
            return
        try:
            write_state(self._directory, self._state(found, now), durable=durable)
            self._written = (found.line, found.status)
        except OSError as error:
            complaints.say("clock state", f"cannot write the clock's state: {error}")

    def _state(self, found: Found, now: Readings) -> HostState:
        return HostState(
            ruler=self._ruler, line=found.line, asleep_ns=now.asleep_ns,
            drift=self.calibration.meter.drift, epoch=found.epoch, upper_ns=self._upper_ns,
            status=found.status, sources=self._told, snapshot=found.snapshot.as_dict(),
        )


def usable_line(state: HostState | None, ruler: str, now: Readings) -> Line | None:
    """The line of a state, if it is of this ruler; wider if the machine slept since."""
    if state is None or state.line is None or state.ruler != ruler:
        return None
    if now.ruler_ns < state.line.ruler_ns:
        return None
    slept_ns = abs(now.asleep_ns - state.asleep_ns)
    more_ns = sleep_doubt_ns(slept_ns) if slept_ns > SLEPT_NS else 0
    return state.line._replace(bound_ns=state.line.bound_ns + more_ns)


def usable_drift(state: HostState | None, ruler: str) -> Drift | None:
    """The drift of a state; of another boot it is a hint, because the ruler is set anew."""
    if state is None:
        return None
    return state.drift if state.ruler == ruler else replace(state.drift, error=RATE_MAX)


def _discipline(
    options: CalibrationOptions, state: HostState | None, line: Line | None
) -> Discipline:
    """Goes on with the line, else above what an earlier life may have served."""
    if state is None:
        return Discipline(options.discipline)
    made = Discipline(
        options.discipline, epoch=state.epoch, floor_ns=0 if line else state.upper_ns
    )
    if line is not None:
        made.adopt(line, state.epoch)
    return made


def _hint_s(source: object) -> float | None:
    hint = getattr(source, "poll_hint_s", None)
    return None if hint is None else float(hint)
