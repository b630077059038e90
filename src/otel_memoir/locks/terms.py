"""Another mode or another term for a lease that is held, and what it is told when it is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from otel_memoir.errors import LockError
from otel_memoir.locks.states import HELD, LOST

if TYPE_CHECKING:
    from otel_memoir.locks.engine import Engine
    from otel_memoir.locks.lease import Lease
    from otel_memoir.locks.unit import Unit


def convert(engine: Engine, lease: Lease, mode: int, timeout: float | None) -> None:
    """Change the mode of a lease: take the new one beside the old, then let the old go."""
    unit = engine.roll.here()
    fresh = _beside(engine, lease, mode, timeout, unit.owner)
    if not engine.take(fresh, unit.owner):
        engine.parking.acquire(fresh, unit)
    _swap(engine, lease, fresh)


async def convert_async(engine: Engine, lease: Lease, mode: int, timeout: float | None) -> None:
    """As ``convert``, for tasks."""
    unit = engine.roll.here()
    fresh = _beside(engine, lease, mode, timeout, unit.owner)
    if not engine.take(fresh, unit.owner):
        await engine.parking.acquire_async(fresh, unit, unit.owner)
    _swap(engine, lease, fresh)


def _beside(engine: Engine, lease: Lease, mode: int, timeout: float | None, by: Unit) -> Lease:
    lease.check()
    if lease.state is not HELD or lease.keys:
        raise LockError(
            "change mode of lease", target=lease.key,
            cause="it is of several keys" if lease.keys else f"it is {lease.state}",
        )  # fmt: skip
    if by is not lease.owner:
        raise not_yours(lease, by)
    return type(lease)(engine, lease.key, mode, timeout, lease.priority, lease.where)


def _swap(engine: Engine, lease: Lease, fresh: Lease) -> None:
    with engine.mutex:
        if lease.state is HELD:
            lease.steps, fresh.steps = fresh.steps, lease.steps
            lease.mode, lease.token = fresh.mode, fresh.token
    engine.release(fresh, None)
    lease.check()


def renew(engine: Engine, lease: Lease) -> None:
    """Let a lease with a term last longer; an error if it was taken away."""
    with engine.mutex:
        if lease.state is HELD and lease.ttl_s is not None:
            end_ns = engine.monotonic_ns() + int(lease.ttl_s * 1e9)
            if lease.max_hold_s is not None:
                end_ns = min(end_ns, lease.acquired_ns + int(lease.max_hold_s * 1e9))
            lease.expires_ns = end_ns
    lease.check()


def on_lost(engine: Engine, lease: Lease, call: Callable[[Lease], object]) -> None:
    """Have ``call`` called when a lease is lost; at once if it is already."""
    with engine.mutex:
        lost = lease.state is LOST
        if not lost:
            lease.on_lost_calls = (*lease.on_lost_calls, call)
    if lost:
        call(lease)


def not_yours(lease: Lease, by: Unit) -> LockError:
    """The error for one who handles the lease of another."""
    return LockError(
        "release", target=lease.key,
        cause=f"{by.id} does not own it: {lease.unit} does",
        hint="LockManager.bind(fn) lets a thread or task act for the owner.",
    )  # fmt: skip


def held_already(lease: Lease) -> LockError:
    """The error for one who enters a block twice."""
    return LockError(
        "acquire", target=lease.key, cause="this lease is held already",
        hint="Call hold() again for another one.",
    )  # fmt: skip


def reentered(lease: Lease) -> LockError:
    """The error for a call that interrupted the manager itself."""
    return LockError(
        "acquire", target=lease.key,
        cause="a signal handler or finaliser interrupted the lock manager on this thread",
        hint="Take locks outside signal handlers and finalisers.",
    )  # fmt: skip
