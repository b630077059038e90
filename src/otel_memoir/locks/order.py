"""The lock-order graph: deadlocks that never happened, but could.

Whoever takes a lock while it holds another draws an edge from the class of the one to that of
the other. A circle of edges means that units which do at the same time what was done one after
the other can deadlock. Within a class the canonical order of keys is the rule, since an edge
from a class to itself says nothing.

Classes, not keys: ten thousand records that are locked alike are one node.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Literal

from otel_memoir.errors import LockOrderError
from otel_memoir.locks.keys import canonical
from otel_memoir.locks.parts import Claim, Unit
from otel_memoir.locks.report import Where, place
from otel_memoir.locks.table import Table

OrderMode = Literal["off", "warn", "raise"]

FINDINGS_MAX = 100


@dataclass(frozen=True)
class OrderFinding:
    """Locks taken in an order that can deadlock with one that was seen before.

    Attributes:
        held, wanted: Keys of the unit that was found.

        classes: The circle of lock classes, from that of ``wanted`` to that of ``held``.

        held_at, wanted_at: The lines of code that took and ask for them.

        earlier: For each step of the circle, the lines that took the one and the other.
    """

    held: str
    wanted: str
    classes: tuple[str, ...]
    held_at: str
    wanted_at: str
    earlier: tuple[str, ...] = ()

    def __str__(self) -> str:
        seen = f"; before, the other way round: {'; '.join(self.earlier)}" if self.earlier else ""
        return (
            f"{self.wanted} ({self.wanted_at}) was asked for with {self.held} in hand "
            f"({self.held_at}); the order of {' -> '.join(self.classes)} can deadlock{seen}"
        )

    def error(self) -> LockOrderError:
        """As an exception."""
        return LockOrderError(
            "acquire", target=self.wanted, cause=str(self),
            hint="Take locks in one order everywhere, or all at once with hold_all.",
        )


class LockOrder:
    """All edges that were seen. Used under the mutex of its engine."""

    def __init__(self, table: Table) -> None:
        self._table = table
        self._after: dict[str, dict[str, tuple[Where, Where]]] = {}
        self._said: set[tuple[str, str]] = set()
        self.findings: list[OrderFinding] = []

    def check(self, owner: Unit, lease: Claim) -> OrderFinding | None:
        """Draw the edges of a request; return what is wrong with it, each thing once."""
        found: OrderFinding | None = None
        for held in list(owner.leases):
            for old, _ in held.wants:
                for new, _ in lease.wants:
                    found = self._edge(old, new, held.where, lease.where) or found
        if found is not None and len(self.findings) < FINDINGS_MAX:
            self.findings.append(found)
        return found

    def _edge(self, old: str, new: str, old_at: Where, new_at: Where) -> OrderFinding | None:
        one, other = self._kind(old), self._kind(new)
        if one == other:
            if canonical(old) <= canonical(new):
                return None
            return self._finding((one, other), old, new, old_at, new_at, (one, one))
        if other in self._after.get(one, ()):
            return None
        path = self._path(other, one)
        if path is not None:
            return self._finding((one, other), old, new, old_at, new_at, path)
        self._after.setdefault(one, {})[other] = (old_at, new_at)
        return None

    def _kind(self, key: str) -> str:
        return self._table.entries[key].kind.name

    def _path(self, start: str, end: str) -> tuple[str, ...] | None:
        came: dict[str, str] = {start: ""}
        todo = [start]
        while todo:
            here = todo.pop()
            if here == end:
                path = [end]
                while came[path[-1]]:
                    path.append(came[path[-1]])
                return tuple(reversed(path))
            for after in self._after.get(here, ()):
                if after not in came:
                    came[after] = here
                    todo.append(after)
        return None

    def _finding(
        self, pair: tuple[str, str], old: str, new: str, old_at: Where, new_at: Where,
        path: tuple[str, ...],
    ) -> OrderFinding | None:  # fmt: skip
        if pair in self._said:
            return None
        self._said.add(pair)
        steps = [self._after.get(a, {}).get(b) for a, b in itertools.pairwise(path)]
        earlier = tuple(f"{place(s[0])} then {place(s[1])}" for s in steps if s is not None)
        return OrderFinding(old, new, path, place(old_at), place(new_at), earlier)
