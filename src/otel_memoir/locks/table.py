"""The table: which keys are held, by whom, how, and who queues for them.

All of it is read and written under the manager's mutex. The wait-for graph is implicit in it:
there is no graph to maintain, and nothing of one to leak.
"""

from __future__ import annotations

from collections.abc import Callable

from otel_memoir.locks.keys import canonical, paths
from otel_memoir.locks.modes import join
from otel_memoir.locks.parts import Claim, Entry, LockClass, Step, Steps, Wait

IDLE_MAX = 4096
CLASSES_MAX = 1000
OTHER = "other"


class Table:
    """Entries by key. Idle ones are kept for a while, because a name comes back."""

    def __init__(self, class_of: Callable[[str], str]) -> None:
        self._class_of = class_of
        self.entries: dict[str, Entry] = {}
        self.classes: dict[str, LockClass] = {}
        self._limit = IDLE_MAX

    def prepare(self, key: str) -> list[tuple[str, str]]:
        """A key and its ancestors with their classes, root first. Not under the mutex."""
        return [(path, self._class_of(path)) for path in paths(key)]

    def add(self, prepared: list[tuple[str, str]]) -> Entry:
        """The entry of a key, made if there is none."""
        if len(self.entries) >= self._limit:
            self._sweep()
        ancestors: tuple[Entry, ...] = ()
        for path, kind in prepared:
            entry = self.entries.get(path)
            if entry is None:
                entry = self.entries[path] = Entry(path, self._class(kind), ancestors)
            ancestors = (*ancestors, entry)
        return ancestors[-1]

    def leases(self) -> set[Claim]:
        """All leases that are held."""
        owners = {owner for entry in self.entries.values() for owner in entry.holders}
        return {lease for owner in owners for lease in owner.leases}

    def waits(self) -> list[Wait]:
        """All waits."""
        return [wait for entry in self.entries.values() for wait in entry.queue]

    def forget(self) -> None:
        """In a fork child: all of it is the parent's, also what was counted."""
        self.entries.clear()
        self.classes.clear()

    def _class(self, name: str) -> LockClass:
        if name not in self.classes and len(self.classes) >= CLASSES_MAX:
            name = OTHER
        return self.classes.setdefault(name, LockClass(name))

    def _sweep(self) -> None:
        """Forget what is idle, but nothing that a wait has still to take: that is its step."""
        busy = [entry for entry in self.entries.values() if not entry.idle]
        steps = [step for entry in busy for step in entry.steps[0]]
        steps += [step for entry in busy for wait in entry.queue for step in wait.steps]
        self.entries = {entry.key: entry for entry, _ in steps}
        self._limit = max(IDLE_MAX, 2 * len(self.entries))


def merged(paths_by_steps: list[Steps]) -> Steps:
    """The steps to several keys as one: each entry once, in canonical order."""
    modes: dict[str, Step] = {}
    for steps in paths_by_steps:
        for entry, mode in steps:
            known = modes.get(entry.key)
            modes[entry.key] = (entry, mode if known is None else join(known[1], mode))
    return tuple(modes[key] for key in sorted(modes, key=canonical))
