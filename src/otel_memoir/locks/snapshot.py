"""Who holds and who waits, at one moment: values, JSON, and pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from otel_memoir.locks.core import Core
from otel_memoir.locks.graph import Edge
from otel_memoir.locks.modes import NAMES, held_mode
from otel_memoir.locks.parts import Claim, Entry, Unit, Wait
from otel_memoir.locks.report import DeadlockReport, built, place, span_ids


@dataclass(frozen=True, kw_only=True)
class Holder:
    """A unit that holds a key; times in seconds, span ids in hex and empty without a span."""

    unit: str
    mode: str
    held_s: float
    fencing_token: int
    acquired_at: str
    trace_id: str = ""
    span_id: str = ""


@dataclass(frozen=True, kw_only=True)
class Waiter:
    """A unit that waits for a key."""

    unit: str
    mode: str
    waited_s: float
    priority: int
    waiting_at: str
    trace_id: str = ""
    span_id: str = ""


@dataclass(frozen=True, kw_only=True)
class KeyState:
    """One key: who holds it, and who waits, in the order in which they are served."""

    key: str
    holders: tuple[Holder, ...]
    waiters: tuple[Waiter, ...]


@dataclass(frozen=True, kw_only=True)
class Arrow:
    """``unit`` waits for ``target``; ``kind`` is ``lock``, ``queue``, ``event loop``, …"""

    unit: str
    target: str
    kind: str
    key: str


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The table and the wait-for graph, consistent, and what happened so far.

    Attributes:
        keys: All keys that are held or waited for.

        graph: The wait-for graph.

        classes: By lock class, how many locks were acquired, contended for, timed out.

        deadlocks: The last ones, oldest first.
    """

    keys: tuple[KeyState, ...]
    graph: tuple[Arrow, ...]
    classes: dict[str, dict[str, int]]
    deadlocks: tuple[DeadlockReport, ...]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Snapshot:
        """What ``to_dict`` gave; what a newer version added is left out.

        Raises:
            ValueError: It is no snapshot.
        """
        return built(cls, fields, {
            "keys": _key_state, "graph": lambda one: built(Arrow, one),
            "deadlocks": DeadlockReport.from_dict,
        })  # fmt: skip

    def to_dot(self) -> str:
        """The wait-for graph for Graphviz."""
        return arrows_to_dot(self.graph)

    def to_mermaid(self) -> str:
        """The wait-for graph as a Mermaid flowchart."""
        return arrows_to_mermaid(self.graph)


def _key_state(fields: Mapping[str, Any]) -> KeyState:
    return built(KeyState, fields, {
        "holders": lambda one: built(Holder, one), "waiters": lambda one: built(Waiter, one),
    })  # fmt: skip


def take(core: Core, deadlocks: tuple[DeadlockReport, ...]) -> Snapshot:
    """Look at everything at once."""
    with core.mutex:
        now_ns = core.monotonic_ns()
        busy = [entry for entry in core.table.entries.values() if not entry.idle]
        leases = _leases({owner for entry in busy for owner in entry.holders})
        holders = [(entry, _holders(entry, leases)) for entry in busy]
        waiters = [list(entry.queue) for entry in busy]
        modes = [[wait.mode for wait in queue] for queue in waiters]
        edges = [
            (edge, _key(edge)) for unit in _units(core) for edge in core.graph.edges(unit)
        ]
        classes = {
            kind.name: {
                "acquired": kind.acquired, "contended": kind.contended, "timeouts": kind.timeouts
            }
            for kind in core.table.classes.values()
        }
    keys = tuple(
        KeyState(
            key=entry.key, holders=tuple(_holder(now_ns, *one) for one in held),
            waiters=tuple(_waiter(wait, mode, now_ns) for wait, mode in zip(queue, wanted)),
        )
        for (entry, held), queue, wanted in zip(holders, waiters, modes)
    )  # fmt: skip
    arrows = tuple(
        Arrow(unit=edge.unit.id, target=edge.target.id, kind=edge.kind, key=key)
        for edge, key in edges
    )
    return Snapshot(keys=keys, graph=arrows, classes=classes, deadlocks=deadlocks)


def _key(edge: Edge) -> str:
    wait = edge.unit.wait
    return wait.entry.key if wait and wait.entry and edge.kind in ("lock", "queue") else ""


def _units(core: Core) -> list[Unit]:
    return [unit for unit in core.roll.living() if unit.wait or unit.foreign]


def _leases(owners: set[Unit]) -> dict[tuple[Unit, Entry], Claim]:
    """By owner and key: looked for one by one, many leases would keep the mutex for long."""
    return {
        (owner, entry): lease
        for owner in owners for lease in owner.leases for entry, _ in lease.steps
    }  # fmt: skip


def _holders(
    entry: Entry, leases: Mapping[tuple[Unit, Entry], Claim]
) -> list[tuple[Unit, int, Claim | None]]:
    return [
        (owner, held_mode(counts) or 0, leases.get((owner, entry)))
        for owner, counts in entry.holders.items()
    ]


def _holder(now_ns: int, owner: Unit, mode: int, lease: Claim | None) -> Holder:
    trace_id, span_id = span_ids(lease.context) if lease else ("", "")
    return Holder(
        unit=owner.id, mode=NAMES[mode],
        held_s=(now_ns - lease.acquired_ns) / 1e9 if lease else 0.0,
        fencing_token=lease.token if lease else 0,
        acquired_at=place(lease.where) if lease else "", trace_id=trace_id, span_id=span_id,
    )  # fmt: skip


def _waiter(wait: Wait, mode: int, now_ns: int) -> Waiter:
    trace_id, span_id = span_ids(wait.context)
    return Waiter(
        unit=wait.unit.id, mode=NAMES[mode], waited_s=(now_ns - wait.arrival_ns) / 1e9,
        priority=wait.priority, waiting_at=place(wait.where), trace_id=trace_id, span_id=span_id,
    )  # fmt: skip


# -- pictures ------------------------------------------------------------------


def arrows_of(report: DeadlockReport) -> tuple[Arrow, ...]:
    """The circle of a deadlock as arrows."""
    units = report.units
    return tuple(
        Arrow(unit=one.unit, target=units[(at + 1) % len(units)], kind=one.waits_for, key=one.key)
        for at, one in enumerate(report.participants)
    )


def arrows_to_dot(arrows: tuple[Arrow, ...]) -> str:
    """Arrows for Graphviz."""
    lines = [
        f'  "{_dot(one.unit)}" -> "{_dot(one.target)}" [label="{_dot(_label(one))}"];'
        for one in arrows
    ]
    return "\n".join(["digraph waits {", *lines, "}", ""])


def arrows_to_mermaid(arrows: tuple[Arrow, ...]) -> str:
    """Arrows as a Mermaid flowchart."""
    units = tuple(dict.fromkeys(unit for one in arrows for unit in (one.unit, one.target)))
    number = {unit: f"u{at}" for at, unit in enumerate(units)}
    nodes = [f'  {number[unit]}["{_mermaid(unit)}"]' for unit in units]
    lines = [
        f'  {number[one.unit]} -->|"{_mermaid(_label(one))}"| {number[one.target]}'
        for one in arrows
    ]
    return "\n".join(["flowchart LR", *nodes, *lines, ""])


def _label(arrow: Arrow) -> str:
    return f"{arrow.kind} {arrow.key}".strip()


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _mermaid(text: str) -> str:
    # What a name of a thread or key can hold and Mermaid would read as its own syntax.
    codes = {'"': "#quot;", "#": "#35;", "<": "#lt;", ">": "#gt;", "\n": " ", "`": "#96;"}
    return "".join(codes.get(letter, letter) for letter in text)
