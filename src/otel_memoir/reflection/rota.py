"""Who is under way, and who is asked to run again.

One lock decides: a request is made of a reflection that has not ended, which then finds it in
``rerun_requests`` and calls its ``on_rerun``; or nobody is under way, and nobody is asked. So
no request is lost in the moment in which a reflection ends.

Under way is also who waits for locks, since it will read what is there now, and who thinks
without them: a second one beside it would write, and the thoughts of the first be refused.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary, WeakSet

from otel_memoir.locks.modes import CONFLICTS, INTENT, mode_of
from otel_memoir.reflection.account import Account, RerunRequest

if TYPE_CHECKING:
    from otel_memoir.locks import LockManager


class Rota:
    """The reflections of one lock manager that are under way, whoever began them."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """In a fork child: they are the parent's."""
        # Re-entrant: a signal handler may begin a reflection in the middle of this one.
        self._mutex = threading.RLock()
        self._under_way: WeakSet[Account] = WeakSet()

    def join(self, me: Account, *, skip: bool) -> list[Account]:
        """Be under way; or ask all who are on the same memories, and be not.

        Args:
            skip: Whether to ask.

        Returns:
            Who was asked; if empty, ``me`` is under way.
        """
        with self._mutex:
            busy = [other for other in self._under_way if skip and _in_the_way(me, other)]
            request = RerunRequest(me.id, me.name, tuple(me.keys))
            for other in busy:
                other.rerun_requests = (*other.rerun_requests, request)
            if not busy:
                self._under_way.add(me)
            return busy

    def leave(self, me: Account) -> None:
        """End: nothing is asked of it from here on."""
        with self._mutex:
            self._under_way.discard(me)


_rotas: WeakKeyDictionary[LockManager, Rota] = WeakKeyDictionary()
_rotas_mutex = threading.RLock()


def rota_of(locks: LockManager) -> Rota:
    """The one rota of a lock manager."""
    with _rotas_mutex:
        return _rotas.setdefault(locks, Rota())


def _after_fork() -> None:
    global _rotas_mutex
    _rotas_mutex = threading.RLock()
    for rota in list(_rotas.values()):
        rota.forget()


os.register_at_fork(after_in_child=_after_fork)


def _in_the_way(me: Account, other: Account) -> bool:
    # What an owner holds is in nobody's way but that of others.
    return me.owner != other.owner and overlap(me.keys, other.keys)


def overlap(mine: Mapping[str, str], theirs: Mapping[str, str]) -> bool:
    """Whether locks on some keys, in the modes of these names, would conflict."""
    return any(
        _conflict(key, mode_of(mode), other, mode_of(other_mode))
        for key, mode in mine.items() for other, other_mode in theirs.items()
    )  # fmt: skip


def _conflict(key: str, mode: int, other: str, other_mode: int) -> bool:
    if key == other:
        return other_mode in CONFLICTS[mode]
    if other.startswith(f"{key}/"):
        return INTENT[other_mode] in CONFLICTS[mode]
    return key.startswith(f"{other}/") and INTENT[mode] in CONFLICTS[other_mode]
