"""A machine that does to a lock manager what threads and tasks could, one step at a time.

It drives the engine below the sleeping: a unit that would sleep is just one that waits. Beside it
runs a reference that knows the modes as a table of pairs, keeps sets instead of counts, and asks
networkx for circles: it has no line in common with what it judges.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import networkx
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from opentelemetry.context import get_current

from otel_memoir.errors import DeadlockError
from otel_memoir.locks import LockManager, states
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.foreign import _begin
from otel_memoir.locks.lease import lease_of_all
from otel_memoir.locks.modes import mode_of
from otel_memoir.locks.parking import abandon
from otel_memoir.locks.parts import Claim, ForeignWait, Unit, Wait

KEYS = ("a", "a/x", "a/y", "a/x/1", "b", "b/z", "c")
MODES = ("shared", "update", "exclusive")
UNITS = 5
WHERE = (compile("0", "model", "eval"), 0)

SHORT = {"shared": "S", "update": "U", "exclusive": "X"}
BESIDE = {
    ("IS", "IS"), ("IS", "IX"), ("IS", "S"), ("IS", "U"), ("IX", "IX"), ("S", "S"), ("S", "U"),
}  # fmt: skip


def fits(one: set[str], other: set[str]) -> bool:
    """Whether two units may hold a key in these modes."""
    return all((a, b) in BESIDE or (b, a) in BESIDE for a in one for b in other)


def path(key: str) -> list[str]:
    """A key and what is above it."""
    parts = key.split("/")
    return ["/".join(parts[:n]) for n in range(1, len(parts) + 1)]


def needs(wanted: dict[str, str]) -> list[tuple[str, set[str]]]:
    """What a request takes, in order."""
    found: dict[str, set[str]] = {}
    for key, mode in wanted.items():
        for above in path(key)[:-1]:
            found.setdefault(above, set()).add("IS" if mode == "shared" else "IX")
        found.setdefault(key, set()).add(SHORT[mode])
    return sorted(found.items(), key=lambda one: one[0].split("/"))


class NoParker:
    """Nobody sleeps here."""

    def wake(self) -> bool:
        """As a parker."""
        return True


class Asked:
    """A request and what became of it."""

    def __init__(self, unit: Unit, wanted: dict[str, str], lease: Claim, wait: Wait | None) -> None:
        self.unit, self.lease, self.wait = unit, lease, wait
        self.needs = needs(wanted)

    @property
    def waits(self) -> bool:
        """Whether it still waits."""
        return self.wait is not None and self.wait.state is states.WAITING

    @property
    def taken(self) -> list[tuple[str, set[str]]]:
        """What it has."""
        if self.lease.state is states.HELD:
            return self.needs
        return self.needs[: self.wait.index] if self.wait and self.waits else []


class Reference:
    """What should be, from the requests and the order of the queues."""

    def __init__(self, machine: LockMachine) -> None:
        self._machine = machine

    def held(self, key: str) -> dict[Unit, set[str]]:
        """Who holds a key, in which modes."""
        found: dict[Unit, set[str]] = {}
        for asked in self._machine.asked:
            for taken, modes in asked.taken:
                if taken == key:
                    found.setdefault(asked.unit, set()).update(modes)
        return found

    def blockers(self, asked: Asked) -> set[Unit]:
        """Whom a waiting request waits for; nobody: it should have been granted."""
        assert asked.wait is not None
        key, modes = asked.needs[asked.wait.index]
        held = self.held(key)
        hard = {
            unit for unit, has in held.items() if unit is not asked.unit and not fits(has, modes)
        }
        if asked.unit in held:
            return hard
        return hard | set(self._ahead(asked, key, modes))

    def _ahead(self, asked: Asked, key: str, modes: set[str]) -> Iterator[Unit]:
        by_wait = {one.wait: one for one in self._machine.asked if one.waits}
        for wait in self._machine.engine.table.entries[key].queue:
            if wait is asked.wait:
                return
            other = by_wait.get(wait)
            # One that has not come back from ``enter`` yet is being asked now.
            other = other or self._machine.asking
            assert other is not None and other.wait is not None
            if other.unit is not asked.unit and not fits(other.needs[other.wait.index][1], modes):
                yield other.unit

    def graph(self) -> networkx.DiGraph[Unit]:
        """Who waits for whom."""
        graph: networkx.DiGraph[Unit] = networkx.DiGraph()
        for asked in self._machine.asked:
            if asked.waits and asked.wait is not None and asked.wait.entry is not None:
                graph.add_edges_from((asked.unit, other) for other in self.blockers(asked))
        for unit, target in self._machine.joins():
            graph.add_edge(unit, target)
        return graph


class LockMachine(RuleBasedStateMachine):
    """Asks, lets go, gives up, dies, waits for others."""

    keys = KEYS

    def __init__(self) -> None:
        super().__init__()
        self.now_ns = 0
        self.locks = LockManager(monotonic_ns=self.tick)
        self.engine = self.locks._engine
        self.units = [Unit("unit", str(number)) for number in range(UNITS)]
        self.foreign: dict[Unit, tuple[Unit, ForeignWait]] = {}
        self.asked: list[Asked] = []
        self.asking: Asked | None = None
        self.verdicts: list[str] = []
        self.reference = Reference(self)
        self.engine.on_verdict = lambda verdict: self.verdicts.append(verdict.resolution)
        self._real_cycle = self.engine.graph.cycle
        self.engine.graph.cycle = self.judged_cycle  # type: ignore[method-assign]

    def tick(self) -> int:
        """A clock on which every look is a millisecond later."""
        self.now_ns += 10**6
        return self.now_ns

    def joins(self) -> list[tuple[Unit, Unit]]:
        """Declared waits that are in force."""
        return [(u, f.targets()[0]) for u in self.units for f in u.foreign if f.targets()[0].crew]

    def judged_cycle(self, start: Unit) -> Any:
        """Ask both, whenever the engine asks; they have to agree."""
        found = self._real_cycle(start)
        graph = self.reference.graph()
        true = start in graph and any(
            networkx.has_path(graph, after, start) for after in graph.successors(start)
        )
        assert (found is not None) == true, (found, list(graph.edges))
        for edge in found or ():
            assert graph.has_edge(edge.unit, edge.target), edge
        if found:
            self.verdicts.append("circle")
        return found

    def idle(self) -> list[Unit]:
        """Units that can do something."""
        busy = {asked.unit for asked in self.asked if asked.waits} | set(self.foreign)
        return [unit for unit in self.units if unit not in busy]

    def _ask(self, unit: Unit, wanted: dict[str, str], lease: Claim) -> None:
        asked = self.asking = Asked(unit, wanted, lease, None)
        self.asked.append(asked)
        if unit.foreign or not self.engine.take(lease, unit):
            lease.context = get_current()
            asked.wait = Wait(lease, (), unit, unit, NoParker(), False)
            self.engine.enter(asked.wait)
        self.asking = None
        self._forget()

    def _forget(self) -> None:
        self.asked = [one for one in self.asked if one.waits or one.lease.state is states.HELD]

    # -- what units do --------------------------------------------------------

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), mode=st.sampled_from(MODES), priority=st.integers(0, 2))
    def ask(self, data: st.DataObject, mode: str, priority: int) -> None:
        """For one key."""
        key = data.draw(st.sampled_from(self.keys))
        unit = data.draw(st.sampled_from(self.idle()))
        lease = Claim(key, mode_of(mode), None, priority, WHERE)
        self._ask(unit, {key: mode}, lease)

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), wanted=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(MODES),
          min_size=2, max_size=4))  # fmt: skip
    def ask_for_several(self, data: st.DataObject, wanted: dict[str, str]) -> None:
        """All or nothing."""
        unit = data.draw(st.sampled_from(self.idle()))
        self._ask(unit, wanted, lease_of_all(self.engine, wanted, None, 0, WHERE))

    def _releasable(self) -> list[Asked]:
        idle = self.idle()
        return [
            one for one in self.asked if one.unit in idle and one.lease.state is states.HELD
        ]

    @precondition(lambda self: self._releasable())
    @rule(data=st.data())
    def let_go(self, data: st.DataObject) -> None:
        """Of one lease."""
        asked = data.draw(st.sampled_from(self._releasable()))
        self.engine.release(asked.lease, asked.unit)
        self._forget()

    @precondition(lambda self: any(one.waits for one in self.asked))
    @rule(data=st.data(), how=st.sampled_from(("cancel", "timeout")))
    def give_up(self, data: st.DataObject, how: str) -> None:
        """A wait ends from outside."""
        asked = data.draw(st.sampled_from([one for one in self.asked if one.waits]))
        assert asked.wait is not None
        if how == "cancel":
            abandon(self.engine, asked.wait)
        else:
            effects = Effects()
            with self.engine.mutex:
                self.engine.time_out(asked.wait, effects)
                self.engine.settle(effects)
            self.engine.pay(effects)
        self._forget()

    @rule(data=st.data())
    def die(self, data: st.DataObject) -> None:
        """A unit ends with whatever it holds; another takes its place."""
        unit = data.draw(st.sampled_from(self.units))
        self.foreign.pop(unit, None)
        unit.foreign.clear()
        self.units[self.units.index(unit)] = Unit("unit", unit.name)
        self.engine.roll.died(unit)
        self._forget()

    @precondition(lambda self: self.idle())
    @rule(data=st.data())
    def join(self, data: st.DataObject) -> None:
        """One waits for another to end, and says so."""
        unit = data.draw(st.sampled_from(self.idle()))
        target = data.draw(st.sampled_from([one for one in self.units if one is not unit]))
        foreign = ForeignWait(lambda: [target], "join", None)
        try:
            _begin(self.engine, unit, foreign)
            self.foreign[unit] = (target, foreign)
        except DeadlockError:
            self.verdicts.append("join refused")
        self._forget()

    def _joining(self) -> list[Unit]:
        waiting = {asked.unit for asked in self.asked if asked.waits}
        return [unit for unit in self.units if unit in self.foreign and unit not in waiting]

    @precondition(lambda self: self._joining())
    @rule(data=st.data(), mode=st.sampled_from(MODES))
    def ask_before_joining(self, data: st.DataObject, mode: str) -> None:
        """One that has said whom it will wait for takes a lock before it does."""
        key = data.draw(st.sampled_from(self.keys))
        unit = data.draw(st.sampled_from(self._joining()))
        self._ask(unit, {key: mode}, Claim(key, mode_of(mode), None, 0, WHERE))

    @precondition(lambda self: self.foreign)
    @rule(data=st.data())
    def joined(self, data: st.DataObject) -> None:
        """It does not wait any more."""
        unit = data.draw(st.sampled_from(sorted(self.foreign, key=lambda one: one.serial)))
        unit.foreign.remove(self.foreign.pop(unit)[1])

    # -- what is always true --------------------------------------------------

    @invariant()
    def nobody_conflicts(self) -> None:
        """Two units never hold a key in modes that do not fit."""
        for key in KEYS:
            held = list(self.reference.held(key).values())
            for at, one in enumerate(held):
                assert all(fits(one, other) for other in held[at + 1 :]), key

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """A lost wake-up is a request that nothing stands in the way of."""
        for asked in self.asked:
            if asked.waits:
                assert self.reference.blockers(asked), asked.needs

    @invariant()
    def nobody_waits_for_ever(self) -> None:
        """No circle is left."""
        assert networkx.is_directed_acyclic_graph(self.reference.graph())

    @invariant()
    def the_table_is_what_was_granted(self) -> None:
        """Nothing half taken stays, and each wait is in one queue."""
        for entry in self.engine.table.entries.values():
            assert entry.total == sum(entry.holders.values())
            assert set(entry.holders) == set(self.reference.held(entry.key))
        queued = [wait for entry in self.engine.table.entries.values() for wait in entry.queue]
        assert len(queued) == len(set(queued))
        assert set(queued) == {one.wait for one in self.asked if one.waits}
        assert {one.unit for one in self.asked if one.waits} == {
            wait.unit for wait in queued if wait.unit.wait is wait
        }


class CrowdedMachine(LockMachine):
    """Few keys, no ends but by letting go: long queues, and circles with soft edges."""

    keys = ("a", "b")

    @precondition(lambda self: self.idle())
    @rule(data=st.data(), key=st.sampled_from(("a", "b")))
    def read(self, data: st.DataObject, key: str) -> None:
        """Readers stand behind writers, and that is what soft edges are made of."""
        unit = data.draw(st.sampled_from(self.idle()))
        lease = Claim(key, mode_of("shared"), None, 0, WHERE)
        self._ask(unit, {key: "shared"}, lease)

    @precondition(lambda self: False)
    @rule()
    def die(self) -> None:  # type: ignore[override]
        """Not here."""

    @precondition(lambda self: False)
    @rule()
    def give_up(self) -> None:  # type: ignore[override]
        """Not here."""

    @precondition(lambda self: False)
    @rule()
    def ask_before_joining(self) -> None:  # type: ignore[override]
        """Not here."""

    @precondition(lambda self: False)
    @rule()
    def join(self) -> None:  # type: ignore[override]
        """Not here."""
