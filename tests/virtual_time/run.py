"""One calibration in a world, read at random times, each reading held against true time."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from otel_memoir.clock.calibration import Calibration, CalibrationOptions
from otel_memoir.clock.drift import Drift
from otel_memoir.clock.line import Line, observed, served, truth
from virtual_time.world import EPOCH_NS, MS, Oscillator, S, Server


@dataclass(kw_only=True)
class Scenario:
    """What is simulated.

    Attributes:
        name: As chrony's simulation suite calls it, where it has it.

        servers: Who is asked.

        seconds: How much true time passes.

        rate: What the oscillator gains per second.

        wander: By how much that changes each second.

        wall: What the wall clock is ahead, in ns, at a true time.

        suspends: When the machine sleeps and for how long, noticed ``notice_ns`` later.

        known: A drift from an earlier life.

        options: How to judge.
    """

    name: str
    servers: list[Server]
    seconds: int = 4000
    rate: float = 40e-6
    wander: float = 1e-9
    wall: Callable[[int], int] = lambda _: 3 * MS
    suspends: list[tuple[int, int]] = field(default_factory=list)
    noticed: bool = True
    known: Drift | None = None
    options: CalibrationOptions = field(default_factory=CalibrationOptions)
    reads: int = 10_000


@dataclass
class Outcome:
    """What a run showed: how many readings, and how many of them were not in their bound."""

    samples: int = 0
    violations: int = 0
    backwards: int = 0
    bounds_ns: list[int] = field(default_factory=list)
    errors_ns: list[int] = field(default_factory=list)
    worst_by_ns: int = 0
    statuses: set[str] = field(default_factory=set)
    lines: int = 0

    @property
    def median_bound_ms(self) -> float:
        """Of the estimate's bounds."""
        return statistics.median(self.bounds_ns) / MS if self.bounds_ns else float("nan")

    @property
    def median_error_ms(self) -> float:
        """How far the estimate was off."""
        return statistics.median(self.errors_ns) / MS if self.errors_ns else float("nan")


class Run:
    """Runs a scenario."""

    def __init__(self, scenario: Scenario, seed: int = 0) -> None:
        self.scenario = scenario
        self.noise = random.Random(seed)
        self.oscillator = Oscillator(scenario.rate, scenario.wander, self.noise)
        for at_ns, for_ns in scenario.suspends:
            self.oscillator.stop(at_ns, for_ns)
        self.servers = {server.name: server for server in scenario.servers}
        self.calibration = Calibration(
            {s.name: s.options for s in scenario.servers}, scenario.options,
            drift=scenario.known, uniform=self.noise.uniform,
        )
        self.outcome = Outcome()
        self.last_served: tuple[int, int] = (0, 0)

    def all(self) -> Outcome:
        """From the first poll to the end."""
        now_ns, end_ns = 0, self.scenario.seconds * S
        while now_ns < end_ns:
            if not self._asleep(now_ns):
                self._poll(now_ns)
            later_ns = min(end_ns, self._next_ns(now_ns))
            for at_ns in self._reading_times(now_ns + 200 * MS, later_ns):
                self._read(at_ns)
            now_ns = later_ns
        return self.outcome

    def _next_ns(self, now_ns: int) -> int:
        due_ns = self.calibration.next_due_ns()
        wait_ns = S if due_ns is None else due_ns - self.oscillator.read(now_ns)
        later_ns = now_ns + max(wait_ns, 300 * MS)
        for at_ns, for_ns in self.scenario.suspends if self.scenario.noticed else ():
            if now_ns < at_ns + for_ns <= later_ns:
                self.calibration.suspended(for_ns)
                return at_ns + for_ns
        return later_ns

    def _poll(self, now_ns: int) -> None:
        ruler_ns = self.oscillator.read(now_ns)
        for name in self.calibration.due(ruler_ns):
            sample = self.servers[name].poll(now_ns, self.oscillator.read, self.noise)
            if sample is None:
                self.calibration.missed(name, self.servers[name].refusal, ruler_ns)
            else:
                self.calibration.heard(name, sample)
        at_ns = now_ns + 200 * MS
        self.calibration.judge(
            ruler_ns=self.oscillator.read(at_ns), wall_ns=self._wall_ns(at_ns)
        )
        self.outcome.lines += 1

    def _wall_ns(self, at_ns: int) -> int:
        return EPOCH_NS + at_ns + self.scenario.wall(at_ns)

    def _reading_times(self, begin_ns: int, end_ns: int) -> Iterator[int]:
        share = (end_ns - begin_ns) / (self.scenario.seconds * S)
        count = max(1, round(share * self.scenario.reads))
        times = sorted(self.noise.randrange(begin_ns, max(begin_ns + 1, end_ns))
                       for _ in range(count))
        yield from (at_ns for at_ns in times if not self._asleep(at_ns))

    def _asleep(self, at_ns: int) -> bool:
        return any(begin < at_ns < begin + long for begin, long in self.scenario.suspends)

    def _read(self, at_ns: int) -> None:
        line = self.calibration.discipline.line
        if line is None:
            return
        ruler_ns, true_ns = self.oscillator.read(at_ns), EPOCH_NS + at_ns
        self.outcome.statuses.add(self.calibration.status(ruler_ns))
        self._note(truth(line, ruler_ns), true_ns, is_estimate=True)
        self._note(observed(line, ruler_ns, self._wall_ns(at_ns)), true_ns)
        self._note(self._served(line, ruler_ns), true_ns)

    def _served(self, line: Line, ruler_ns: int) -> tuple[int, int]:
        reading, epoch = served(line, ruler_ns), self.calibration.discipline.epoch
        if (epoch, reading[0]) < self.last_served:
            self.outcome.backwards += 1
        self.last_served = (epoch, reading[0])
        return reading

    def _note(self, reading: tuple[int, int], true_ns: int, *, is_estimate: bool = False) -> None:
        error_ns = abs(reading[0] - true_ns)
        self.outcome.samples += 1
        self.outcome.violations += error_ns > reading[1]
        self.outcome.worst_by_ns = max(self.outcome.worst_by_ns, error_ns - reading[1])
        if is_estimate:
            self.outcome.bounds_ns.append(reading[1])
            self.outcome.errors_ns.append(error_ns)


def between(begin_s: float, end_s: float) -> Callable[[int], bool]:
    """True from one second to another."""
    return partial(_between, round(begin_s * S), round(end_s * S))


def _between(begin_ns: int, end_ns: int, at_ns: int) -> bool:
    return begin_ns <= at_ns < end_ns


def step(at_s: float, by_ns: int, before_ns: int = 0) -> Callable[[int], int]:
    """An error that changes at a second."""
    return partial(_step, round(at_s * S), by_ns, before_ns)


def _step(at_ns: int, by_ns: int, before_ns: int, now_ns: int) -> int:
    return before_ns + (by_ns if now_ns >= at_ns else 0)
