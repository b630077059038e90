"""The scenarios of chrony's simulation suite that apply, by its numbers, and some of our own."""

from __future__ import annotations

from dataclasses import replace

from otel_memoir.clock.calibration import CalibrationOptions
from otel_memoir.clock.drift import Drift
from otel_memoir.clock.options import SourceOptions
from otel_memoir.clock.selection import SelectionOptions
from virtual_time.run import Scenario, between, step
from virtual_time.world import MS, S, Server


def servers(count: int, **given: object) -> list[Server]:
    """So many servers of one kind."""
    return [Server(name=f"s{number}", **given) for number in range(count)]  # type: ignore[arg-type]


def far(count: int) -> list[Server]:
    """Servers on the Internet: 40 ms away, jitter of 2 ms."""
    return servers(count, base_ns=20 * MS, there_ns=2 * MS, back_ns=2 * MS, root_ns=2 * MS)


def liar(name: str, by_ns: int, **given: object) -> Server:
    """A server that is off by much more than it says."""
    return Server(name=name, error=step(0, by_ns), lies=True, **given)  # type: ignore[arg-type]


def options(selection: SelectionOptions) -> CalibrationOptions:
    """Options with another selection."""
    return CalibrationOptions(selection=selection)


PREFERRED, TRUSTED = SourceOptions(prefer=True), SourceOptions(trust=True)
IGNORED, REQUIRED = SourceOptions(noselect=True), SourceOptions(require=True)

SCENARIOS = [
    Scenario(name="003 large frequency offset, +400 ppm", servers=far(3), rate=400e-6),
    Scenario(name="003 large frequency offset, -400 ppm", servers=far(3), rate=-400e-6),
    Scenario(name="004 large time offset, 27 h ahead", servers=far(3), wall=step(0, 10**5 * S)),
    Scenario(name="004 large time offset, 27 h behind", servers=far(3), wall=step(0, -(10**5) * S)),
    Scenario(name="005 external step of the wall clock", servers=far(4),
             wall=step(1500, -10 * S, 2 * MS)),
    Scenario(name="005 external step of one server of three",
             servers=[*far(2), Server(name="stepper", error=step(1500, 2 * S), lies=True)]),
    Scenario(name="006 large jitter, 100 ms",
             servers=servers(4, there_ns=100 * MS, back_ns=100 * MS)),
    Scenario(name="007 large wander, 0.1 ppm each second", servers=far(4), wander=1e-7,
             seconds=20_000),
    Scenario(name="009 source selection, 2 liars of 5",
             servers=[*far(3), liar("l1", 50 * MS), liar("l2", 400 * MS)]),
    Scenario(name="009 source selection, 2 agreeing liars of 5",
             servers=[*far(3), liar("l1", 90 * MS), liar("l2", 91 * MS)]),
    Scenario(name="009 source selection, 1 subtle liar of 3",
             servers=[*servers(2, root_ns=3 * MS), liar("l1", 9 * MS)]),
    Scenario(name="011 asymmetric jitter, 50 ms one way",
             servers=servers(4, there_ns=50 * MS, back_ns=0)),
    Scenario(name="014 intermittent, 300 s on and 300 s off",
             servers=servers(3, silent=lambda at_ns: at_ns // (300 * S) % 2 == 1)),
    Scenario(name="102 first 20 s of a quick start", servers=far(4), seconds=20, rate=120e-6),
    Scenario(name="104 drift file, right", servers=far(3), rate=200e-6, seconds=600,
             known=Drift(rate=-200e-6, error=20e-6)),
    Scenario(name="116 minimum of 2 sources, one away for a while",
             servers=[Server(name="s0"), Server(name="s1", silent=between(1000, 3000))],
             options=options(SelectionOptions(sources_min=2))),
    Scenario(name="118 maximum distance, one source 3 s away",
             servers=[*far(2), Server(name="slow", base_ns=3 * S)]),
    Scenario(name="120 options: trust outvotes two liars",
             servers=[Server(name="t", options=TRUSTED), liar("l1", 5 * S), liar("l2", 5 * S)]),
    Scenario(name="120 options: noselect never counts, prefer and require do",
             servers=[Server(name="p", options=PREFERRED), Server(name="r", options=REQUIRED),
                      Server(name="s"), liar("l1", 5 * S, options=IGNORED),
                      liar("l2", 5 * S, options=IGNORED)]),
    Scenario(name="125 packet loss, 80 %", servers=[replace(s, loss=0.8) for s in far(4)]),
    Scenario(name="131 largest change: the wall clock steps 2000 s",
             servers=servers(3), wall=step(1500, 2000 * S)),
    Scenario(name="135 rate limit, half of the polls refused",
             servers=servers(4, loss=0.5, refusal="kod_rate")),
    Scenario(name="150 all unreachable after 1000 s: holdover", servers=servers(3,
             silent=between(1000, 9**9)), seconds=20_000),
    Scenario(name="suspended for an hour", servers=far(3), suspends=[(1000 * S, 3600 * S)],
             seconds=8000),
    Scenario(name="one server, asymmetric by 8 ms",
             servers=[Server(name="s0", base_ns=4 * MS, there_ns=8 * MS, back_ns=0)]),
    Scenario(name="two servers, one coarse", servers=[Server(name="s0"),
             Server(name="s1", error=step(0, 80 * MS), root_ns=90 * MS)]),
    Scenario(name="five on a local network", servers=servers(5, base_ns=100_000, there_ns=20_000,
             back_ns=20_000, root_ns=30_000)),
    Scenario(name="half a day", servers=far(4), seconds=43_200, wander=2e-9),
]
