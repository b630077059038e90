"""What becomes of the locks of a unit that ended with them in hand.

Who read has left nothing half done, and its locks are let go. Who wrote may have: those who
wait for it are told with ``OwnerDiedError``, each once, and then the key is free. If nobody
waits, whoever asks next is told.
"""

from __future__ import annotations

from otel_memoir.errors import OwnerDiedError
from otel_memoir.locks import states
from otel_memoir.locks.core import Core
from otel_memoir.locks.effects import Effects
from otel_memoir.locks.modes import BIT, CONFLICT_BITS
from otel_memoir.locks.parts import Claim, Unit, Wait

LOST_WHY = "its owner ended without letting go of it"


def bury(core: Core, unit: Unit, effects: Effects) -> None:
    """Take a dead unit out of its crews; an owner without a crew has died."""
    core.roll.strike_off(unit)
    if unit.wait is not None:
        core.fail(unit.wait, states.CANCELLED, None, effects)
    for owner in {unit, unit.owner}:
        leave(core, unit, owner, effects)


def leave(core: Core, unit: Unit, owner: Unit, effects: Effects) -> None:
    """A unit does not act for an owner any more. An owner without a crew has died."""
    owner.crew = tuple(member for member in owner.crew if member is not unit)
    if owner.crew:
        effects.unsure += owner.crew  # the one that is gone could have let go
    else:
        _settle_estate(core, owner, effects)


def bereaved(core: Core, wait: Wait, effects: Effects) -> bool:
    """Whether a wait is for a dead owner; it is told so, and the owner's lock is let go."""
    assert wait.entry is not None
    dead = [owner for owner in wait.entry.holders if not owner.crew]
    for owner in dead:
        for lease in list(owner.leases):
            if _in_the_way(lease, wait):
                _tell(core, lease, effects)
    return wait.state is not states.WAITING


def _settle_estate(core: Core, owner: Unit, effects: Effects) -> None:
    for lease in list(owner.leases):
        if not lease.exclusive:
            core.take_away(lease, LOST_WHY, effects)
        elif any(entry.queue for entry, _ in lease.steps):
            _tell(core, lease, effects)


def _tell(core: Core, lease: Claim, effects: Effects) -> None:
    queued = [wait for entry, _ in lease.steps for wait in entry.queue]
    told = [wait for wait in queued if _in_the_way(lease, wait)]
    for wait in told:
        core.fail(wait, states.DIED, _error(lease), effects)
    if told:
        core.take_away(lease, LOST_WHY, effects)


def _in_the_way(lease: Claim, wait: Wait) -> bool:
    return any(
        entry is wait.entry and BIT[mode] & CONFLICT_BITS[wait.mode] for entry, mode in lease.steps
    )


def _error(lease: Claim) -> OwnerDiedError:
    return OwnerDiedError(
        "wait for lock", target=lease.key, cause=f"{lease.unit} ended while it held it",
        hint="What it protects may be half written: check it, then ask for the lock again.",
    )  # fmt: skip
