"""What a fork does to open spools: before it nobody is inside SQLite, after it each has its own.

The hooks are Python's; where a host forks without calling them (uWSGI's default), every
entry compares the pid.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forked(Protocol):
    """What must know of a fork."""

    def quiesce(self) -> None:
        """Before it, in the thread that forks."""

    def resume(self) -> None:
        """After it, in the parent."""

    def forget(self) -> None:
        """After it, in the child."""


_watched: weakref.WeakSet[Forked] = weakref.WeakSet()


def watch(one: Forked) -> None:
    """Tell it of forks, for as long as it lives."""
    _watched.add(one)


def _quiesce() -> None:
    for one in list(_watched):
        one.quiesce()


def _resume() -> None:
    for one in list(_watched):
        one.resume()


def _forget() -> None:
    for one in list(_watched):
        one.forget()


os.register_at_fork(before=_quiesce, after_in_parent=_resume, after_in_child=_forget)
