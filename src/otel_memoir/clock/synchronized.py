"""A clock that knows how wrong it can be.

``read`` is a few integer operations on one immutable value, which a thread of its own
("memoir-clock") swaps. The thread starts at the first reading; constructing opens and starts
nothing. Nothing raises out of it, and it never sends to a server that nobody configured.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from otel_memoir.clock.calibration import CalibrationOptions
from otel_memoir.clock.calibrator import Calibrator
from otel_memoir.clock.configured import ClockMode, Given, Plan, plan
from otel_memoir.clock.leader import Found
from otel_memoir.clock.line import (
    JUMP_NS,
    OBSERVED_NOTHING,
    SERVED_NOTHING,
    SHIFT,
    TOLERANCE_NS,
    Line,
    observed,
    observed_segment,
    served,
    served_segment,
    truth,
)
from otel_memoir.clock.sample import RULER
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.clock.system import Reading
from otel_memoir.clock.views import at
from otel_memoir.clock.watch import read_clocks
from otel_memoir.diagnostics import complaints, unobserved
from otel_memoir.settings import Settings

_TROUBLE_S = 1.0
_JOIN_S = 2.0
_NEAR_NS, _FAR_NS = 2 * TOLERANCE_NS, 2 * JUMP_NS
_LOOK_AFTER_NS = 10**10

_clocks: weakref.WeakSet[SynchronizedClock] = weakref.WeakSet()


def _forget_after_fork() -> None:
    for clock in list(_clocks):
        clock.forget()


os.register_at_fork(after_in_child=_forget_after_fork)


class SynchronizedClock:
    """The time, with a bound that contains true time while fewer than half of the sources lie.

    Args:
        sources: Whom to ask: sources, sources with options, or texts as in
            ``MEMOIR_CLOCK_SOURCES``. The default is that setting, else what this host knows
            of its own clock.

        mode: ``observe`` reads the system's clock and adds its offset to the bound;
            ``correct`` reads the estimate, never back within an epoch.

        settings: The settings; those of the environment by default.

        directory: Where the processes of this host share one calibration; the setting
            ``clock_dir`` by default. ``None`` with sources that are objects: not shared.

        options: How to judge; from the settings by default.

        ruler: What intervals are measured with, in nanoseconds.

        wall: The system's clock, in nanoseconds since 1970.
    """

    def __init__(
        self,
        *,
        sources: Sequence[Given] | None = None,
        mode: ClockMode | None = None,
        settings: Settings | None = None,
        directory: str | Path | None = None,
        options: CalibrationOptions | None = None,
        ruler: Callable[[], int] | None = None,
        wall: Callable[[], int] = time.time_ns,
    ) -> None:
        told = plan(sources, settings=settings, mode=mode, directory=directory, options=options)
        self.mode = told.mode
        # The C function itself: a Python one around it costs a third of a reading.
        self._ruler = ruler or partial(time.clock_gettime_ns, RULER)
        self._wall = wall
        self._line: Line | None = None
        self._segment = self._nothing = OBSERVED_NOTHING
        self._look_after_ns = 0
        self._found: Found | None = None
        self.status = "uncalibrated"
        self.epoch = 0
        self._cut = observed_segment
        if self.mode == "correct":
            self._cut, self._nothing = served_segment, SERVED_NOTHING
            self._segment = self._nothing
            self.read = self._read_corrected  # type: ignore[method-assign]
        self._plans: deque[Plan] = deque(maxlen=1)
        self._calibrator = Calibrator(told, partial(read_clocks, self._ruler, self._wall))
        self._start_anew()
        _clocks.add(self)

    def _start_anew(self) -> None:
        self._pid = os.getpid()
        self._stopping = threading.Event()
        self._changed = threading.Condition()
        self._swapping = threading.Lock()
        self._start_lock = threading.Lock()
        self._thread: threading.Thread | None = None

    # -- reading --------------------------------------------------------------

    def read(self) -> Reading:
        """The system's clock, and how far true time can be from it, in nanoseconds.

        There is a moment during the call at which true time was that near.
        """
        until, least, bound = self._segment
        wall_ns = self._wall()
        ruler_ns = self._ruler()
        # In this form, because each chained comparison of long integers takes 30 ns more.
        off = wall_ns - least
        if ruler_ns < until and ruler_ns < off and off - ruler_ns < _NEAR_NS:
            return wall_ns, bound
        return self._read_line()

    def _read_corrected(self) -> Reading:
        """The estimate of true time, and how far true time can be from it.

        The wall clock is read to see what the ruler does not: a machine that was suspended.
        """
        until, least, bound, begin, unix, rate = self._segment
        wall_ns = self._wall()
        ruler_ns = self._ruler()
        passed = ruler_ns - begin
        unix += passed + (passed * rate >> SHIFT)
        off = wall_ns - least
        if ruler_ns < until and unix < off and off - unix < _FAR_NS:
            return unix, bound
        return self._read_line()

    def _read_line(self) -> Reading:
        """Read by the line itself, and take a new segment of it for the next readings."""
        if self._ruler() > self._look_after_ns:
            self._look_after()
        line = self._line
        if line is None and self.mode == "correct":
            return self._wall(), None
        wall_ns, ruler_ns = self._wall(), self._ruler()
        self._renew(line, ruler_ns, wall_ns)
        if line is None:
            return wall_ns, None
        if self.mode == "observe":
            return observed(line, ruler_ns, wall_ns)
        reading_ns, bound_ns = served(line, ruler_ns)
        jumped_ns = abs(wall_ns - truth(line, ruler_ns)[0] - line.wall_ahead_ns)
        return reading_ns, bound_ns + (jumped_ns if jumped_ns > JUMP_NS else 0)

    def _renew(self, line: Line | None, ruler_ns: int, wall_ns: int) -> None:
        if not self._swapping.acquire(blocking=False):
            return
        try:
            # A segment of a line that was replaced meanwhile would undo that.
            if self._line is line:
                self._segment = self._cut(line, ruler_ns, wall_ns)
        finally:
            self._swapping.release()

    def _look_after(self) -> None:
        """See now and then that the thread lives, also after a fork that nobody noticed."""
        self._look_after_ns = self._ruler() + _LOOK_AFTER_NS
        if self._pid != os.getpid():
            self.forget()
        if self._thread is not None and not self._thread.is_alive():
            self._thread = None
        self.start()

    def use(self, settings: Settings) -> None:
        """Ask the sources of other settings, and judge by them, within about a second.

        What is known stays; so do mode and directory. Never blocks.
        """
        self._plans.append(plan(settings=settings))

    # -- waiting and asking ---------------------------------------------------

    def wait_synced(self, timeout: float, bound_ns: int | None = None) -> bool:
        """Wait until the time is known.

        Args:
            timeout: Longest wait, in seconds.

            bound_ns: How well: the estimate's bound; not asked for by default.

        Returns:
            Whether it is known, that well, and nothing is abnormal.
        """
        self.start()
        deadline_s = time.monotonic() + timeout
        with self._changed:
            while not self._is_synced(bound_ns):
                left_s = deadline_s - time.monotonic()
                if left_s <= 0 or self._stopping.is_set():
                    return False
                self._changed.wait(left_s)
        return True

    def _is_synced(self, bound_ns: int | None) -> bool:
        line = self._line
        if line is None or self.status:
            return False
        return bound_ns is None or truth(line, self._ruler())[1] <= bound_ns

    def snapshot(self) -> ClockSnapshot:
        """Everything that is known of this clock and its sources."""
        found = self._found
        if found is None:
            return ClockSnapshot(taken_unix_ns=self._wall(), mode=self.mode)
        return at(found.snapshot, self._line, ruler_ns=self._ruler(), wall_ns=self._wall())

    # -- the thread -----------------------------------------------------------

    def start(self) -> None:
        """Start calibrating, unless that was done. Never blocks."""
        if self._stopping.is_set() or not self._start_lock.acquire(blocking=False):
            return
        try:
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="memoir-clock", daemon=True)
                thread.start()
                self._thread = thread
        except RuntimeError:
            complaints.say("clock thread", "no clock thread can be started any more")
        finally:
            self._start_lock.release()

    def _run(self) -> None:
        stopping = self._stopping
        with unobserved():
            while not stopping.is_set():
                stopping.wait(self._turn())

    def _turn(self) -> float:
        """Do one turn; return how long to wait for the next, in seconds."""
        try:
            with contextlib.suppress(IndexError):
                self._calibrator.use(self._plans.pop())
            self._take(self._calibrator.turn(self._stopping.is_set))
            return self._calibrator.wait_s()
        except Exception as error:  # noqa: BLE001 - a clock that stops is never right again
            complaints.say("clock", f"cannot calibrate just now: {error!r}")
            return _TROUBLE_S

    def _take(self, found: Found) -> None:
        with self._swapping:
            self._found = found
            self.status, self.epoch = found.status, found.epoch
            if found.line is not None and found.line is not self._line:
                self._line = found.line
                self._segment = self._cut(found.line, self._ruler(), self._wall())
        with self._changed:
            self._changed.notify_all()

    def close(self, timeout: float = _JOIN_S) -> None:
        """Stop calibrating, within ``timeout`` seconds. It can still be read."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._calibrator.interrupt()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            if thread.is_alive():
                return
        try:
            self._calibrator.close()
        except Exception as error:  # noqa: BLE001 - nothing raises into the host
            complaints.say("clock", f"cannot close the clock: {error!r}")

    def forget(self) -> None:
        """In a fork child: the parent's thread is not here; its last line still holds."""
        closed = self._stopping.is_set()
        self._start_anew()
        if closed:
            self._stopping.set()
        try:
            self._calibrator.forget()
        except Exception as error:  # noqa: BLE001 - a fork must not fail for a clock
            complaints.say("clock", f"cannot let go of the parent's clock: {error!r}")
        self._segment, self._look_after_ns = self._nothing, 0
