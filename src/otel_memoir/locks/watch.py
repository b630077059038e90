"""Who may have written while one did not look: for those who let go of a lock and come back.

Only those who hold a key exclusively may write it. A watch notes, under the mutex, each such
lease that ends while it is open; while none is, that costs one look at an empty tuple.
"""

from __future__ import annotations

from collections.abc import Iterable

from otel_memoir.locks.keys import related
from otel_memoir.locks.modes import X
from otel_memoir.locks.parts import Claim


class Watch:
    """Notes who held some keys exclusively. ``LockManager.watch`` opens one.

    Open it before letting go, and look at it when the lock is held again: then every lease in
    between, of whichever unit, has ended, and none is missing.

    Attributes:
        written: By key, the greatest fencing token of an exclusive lease on it, on an
            ancestor, or on something below it. Absent: nobody had one.
    """

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(keys)
        self.written: dict[str, int] = {}

    def note(self, lease: Claim) -> None:
        """A lease ends. Called under the mutex."""
        for entry, mode in lease.steps:
            for key in self._keys if mode == X else ():
                if related(key, entry.key):
                    self.written[key] = max(lease.token, self.written.get(key, 0))
