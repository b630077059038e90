"""How long anybody waits for a lock: told by whoever has a lock manager, to whoever asks."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Protocol
from weakref import WeakSet


class _KeyState(Protocol):
    @property
    def waiters(self) -> Sequence[Any]: ...


class _Snapshot(Protocol):
    @property
    def keys(self) -> Sequence[_KeyState]: ...


class Locks(Protocol):
    """A lock manager, as far as health looks at it."""

    def snapshot(self) -> Any:
        """Who holds and who waits."""
        ...


_watched: WeakSet[Any] = WeakSet()


def watch_locks(locks: Locks) -> None:
    """Have the waits of a lock manager count for the health of this process.

    It is let go of when nobody else has it any more.
    """
    _watched.add(locks)


def oldest_wait_s() -> float:
    """The longest that anybody waits for a lock of a watched manager, in seconds."""
    managers = [ref() for ref in [weakref.ref(one) for one in _watched]]
    return max((_oldest_s(one.snapshot()) for one in managers if one is not None), default=0.0)


def _oldest_s(snapshot: _Snapshot) -> float:
    return max((w.waited_s for key in snapshot.keys for w in key.waiters), default=0.0)
