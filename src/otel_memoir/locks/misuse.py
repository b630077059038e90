"""The errors for those who handle a lock as they must not."""

from __future__ import annotations

from otel_memoir.errors import LockError
from otel_memoir.locks.parts import Claim, Unit


def not_yours(lease: Claim, by: Unit) -> LockError:
    """The error for one who handles the lease of another."""
    return LockError(
        "release", target=lease.key,
        cause=f"{by.id} does not own it: {lease.unit} does",
        hint="LockManager.bind(fn) lets a thread or task act for the owner.",
    )  # fmt: skip


def held_already(lease: Claim) -> LockError:
    """The error for one who enters a block twice."""
    return LockError(
        "acquire", target=lease.key, cause="this lease is held already",
        hint="Call hold() again for another one.",
    )  # fmt: skip


def reentered(lease: Claim) -> LockError:
    """The error for a call that interrupted the manager itself."""
    return LockError(
        "acquire", target=lease.key,
        cause="a signal handler or finaliser interrupted the lock manager on this thread",
        hint="Take locks outside signal handlers and finalisers.",
    )  # fmt: skip
