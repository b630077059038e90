"""Another mode or another term for a lease that is held."""

from __future__ import annotations

from otel_memoir.errors import LockError
from otel_memoir.locks.engine import Engine
from otel_memoir.locks.misuse import not_yours
from otel_memoir.locks.parking import acquire, acquire_async
from otel_memoir.locks.parts import Claim, Unit
from otel_memoir.locks.states import HELD


def convert(engine: Engine, lease: Claim, mode: int, timeout: float | None) -> None:
    """Change the mode of a lease: take the new one beside the old, then let the old go."""
    unit = engine.roll.here()
    fresh = _beside(engine, lease, mode, timeout, unit.owner)
    if unit.foreign or not engine.take(fresh, unit.owner):
        acquire(engine, fresh, unit)
    _swap(engine, lease, fresh)


async def convert_async(engine: Engine, lease: Claim, mode: int, timeout: float | None) -> None:
    """As ``convert``, for tasks."""
    unit = engine.roll.here()
    fresh = _beside(engine, lease, mode, timeout, unit.owner)
    if unit.foreign or not engine.take(fresh, unit.owner):
        await acquire_async(engine, fresh, unit, unit.owner)
    _swap(engine, lease, fresh)


def _beside(engine: Engine, lease: Claim, mode: int, timeout: float | None, by: Unit) -> Claim:
    lease.check()
    if lease.state is not HELD or lease.keys:
        raise LockError(
            "change mode of lease", target=lease.key,
            cause="it is of several keys" if lease.keys else f"it is {lease.state}",
        )  # fmt: skip
    if by is not lease.owner:
        raise not_yours(lease, by)
    return Claim(lease.key, mode, timeout, lease.priority, lease.where)


def _swap(engine: Engine, lease: Claim, fresh: Claim) -> None:
    with engine.mutex:
        if lease.state is HELD:
            lease.steps, fresh.steps = fresh.steps, lease.steps
            fresh.acquired_ns = lease.acquired_ns  # so long was held what is let go now
            lease.mode, lease.token = fresh.mode, fresh.token
    engine.release(fresh, None)
    lease.check()


def renew(engine: Engine, lease: Claim) -> None:
    """Let a lease with a term last longer; an error if it was taken away."""
    with engine.mutex:
        if lease.state is HELD and lease.ttl_s is not None:
            end_ns = engine.monotonic_ns() + int(lease.ttl_s * 1e9)
            if lease.max_hold_s is not None:
                end_ns = min(end_ns, lease.acquired_ns + int(lease.max_hold_s * 1e9))
            lease.expires_ns = end_ns
    lease.check()
