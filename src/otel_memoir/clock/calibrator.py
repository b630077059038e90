"""Calibrates for a process: leads its host if nobody else does, else follows who does.

No thread of its own: one calls ``turn`` again and again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from otel_memoir.clock.configured import Plan
from otel_memoir.clock.host_state import HostState, Leadership, read_state, ruler_identity
from otel_memoir.clock.leader import Found, Leader, usable_line
from otel_memoir.clock.line import Line, served
from otel_memoir.clock.snapshot import ClockSnapshot
from otel_memoir.clock.views import at
from otel_memoir.clock.watch import Jumps, Readings, jumps
from otel_memoir.diagnostics import complaints

TICK_S = 1.0


class Calibrator:
    """One for each clock of a process. Used by one thread.

    Args:
        plan: What to calibrate with.

        read_clocks: Reads the host's clocks.
    """

    def __init__(self, plan: Plan, read_clocks: Callable[[], Readings]) -> None:
        self._plan = plan
        self._read_clocks = read_clocks
        self._directory = plan.directory
        self._leadership: Leadership | None = None
        self._ruler = ""
        self._has_begun = False
        self._before: Readings | None = None
        self._steps = {"wall_forward": 0, "wall_back": 0, "suspended": 0}
        self._leader: Leader | None = None
        self._followed: HostState | None = None
        self._line: Line | None = None

    def use(self, plan: Plan) -> None:
        """Go by another plan from the next turn on, from where the one before came to.

        Its mode and directory are not looked at: they stay.
        """
        leader, self._leader = self._leader, None
        if leader is not None:
            leader.close()
            self._followed = leader.state()
            self._line = self._followed.line
        self._plan = replace(plan, mode=self._plan.mode, directory=self._plan.directory)

    def turn(self, stopping: Callable[[], bool] = lambda: False) -> Found:
        """Look at the host's clocks, then ask and judge, or read what the leader found.

        Args:
            stopping: Whether to end early.
        """
        if not self._has_begun:
            self._begin()
        now, jumped = self._look()
        if self._leader is None and self._leads():
            self._leader = self._take_over(now)
        if self._leader is None:
            return self._follow(now)
        self._leader.jumped(jumped)
        return self._leader.turn(stopping, self._steps)

    def wait_s(self) -> float:
        """How long to wait for the next turn, in seconds."""
        due_s = self._leader.wait_s() if self._leader else TICK_S
        return min(TICK_S, max(0.0, due_s))

    def interrupt(self) -> None:
        """From another thread: end a poll that is under way."""
        leader = self._leader
        if leader is not None:
            leader.interrupt()

    def close(self) -> None:
        """Write down what the next life can use, and let another process lead."""
        leader, self._leader = self._leader, None
        if leader is not None:
            leader.close()
        if self._leadership is not None:
            self._leadership.give_up()

    def forget(self) -> None:
        """In a fork child: the parent goes on leading, and this process follows it."""
        if self._leadership is not None:
            self._leadership.give_up()
        leader, self._leader = self._leader, None
        if leader is not None:
            self._followed = leader.state()
            self._line = self._followed.line

    def _begin(self) -> None:
        """Open what a constructor must not."""
        self._ruler, self._has_begun = ruler_identity(), True
        # Where nobody tells boots apart (macOS), a reading means nothing to another process.
        if not self._ruler:
            self._directory = None
        if self._directory is not None:
            self._leadership = Leadership(self._directory)

    def _look(self) -> tuple[Readings, Jumps]:
        now = self._read_clocks()
        jumped = jumps(self._before, now) if self._before else Jumps(0, 0)
        self._before = now
        if jumped.wall_ns:
            self._steps["wall_forward" if jumped.wall_ns > 0 else "wall_back"] += 1
        if jumped.slept_ns:
            self._steps["suspended"] += 1
        return now, jumped

    def _leads(self) -> bool:
        if self._leadership is None:
            return True
        try:
            return self._leadership.take()
        except OSError as error:
            complaints.say("clock directory", f"the clock's state is not shared: {error}")
            self._leadership = self._directory = None
            return True

    def _take_over(self, now: Readings) -> Leader:
        state = self._state()
        line = usable_line(state, self._ruler, now)
        if state is not None and line is not None:
            state = replace(state, line=self._at_least_served(line, state.epoch, now))
        return Leader(
            self._plan.make_sources(), options=self._plan.options, state=state,
            ruler=self._ruler, directory=self._directory, told=self._plan.told,
            mode=self._plan.mode, read_clocks=self._read_clocks,
        )

    def _state(self) -> HostState | None:
        """What the leader wrote last; what was read before where that is damaged."""
        found = read_state(self._directory) if self._directory else None
        return found or self._followed

    def _follow(self, now: Readings) -> Found:
        state = self._state() or HostState(ruler=self._ruler)
        self._compare_sources(state)
        line = usable_line(state, self._ruler, now)
        if line is not None and (self._line is None or state != self._followed):
            self._line = self._at_least_served(line, state.epoch, now)
        self._followed = state
        status = self._status(state, now)
        snapshot = ClockSnapshot.from_dict({
            "taken_unix_ns": now.wall_ns, **state.snapshot, "mode": self._plan.mode,
            "role": "follower", "status": status,
        })
        snapshot = snapshot.but(steps={**snapshot.steps, **self._steps})
        return Found(self._line, state.epoch, status, at(
            snapshot, self._line, ruler_ns=now.ruler_ns, wall_ns=now.wall_ns
        ))

    def _status(self, state: HostState, now: Readings) -> str:
        """The leader's, unless that cannot be or has not written for long."""
        line, options = self._line, self._plan.options
        if line is None:
            return "uncalibrated"
        is_old = now.ruler_ns - line.ruler_ns > options.holdover_ns
        return state.status or ("holdover" if is_old else "")

    def _at_least_served(self, line: Line, epoch: int, now: Readings) -> Line:
        """Another's line, but never below what this process served in the same epoch."""
        if self._line is None or self._followed is None or self._followed.epoch != epoch:
            return line
        return line._replace(
            floor_ns=max(line.floor_ns, served(self._line, now.ruler_ns)[0])
        )

    def _compare_sources(self, state: HostState) -> None:
        if state.sources and state.sources != self._plan.told:
            complaints.say(
                "clock sources", f"the process that calibrates for this host asks "
                f"{state.sources}, and this one would ask {self._plan.told}: give them the same",
            )
