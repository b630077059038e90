"""Locks around a call: by a decorator, and done again after a deadlock."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from otel_memoir.errors import DeadlockError
from otel_memoir.locks import DeadlockReport, LockManager


@pytest.fixture
def locks() -> LockManager:
    """A manager."""
    return LockManager()


def held(locks: LockManager) -> list[tuple[str, str]]:
    """The keys that are held, without intents, and how."""
    return [
        (state.key, holder.mode) for state in locks.snapshot().keys for holder in state.holders
        if not holder.mode.startswith("intent")
    ]


@pytest.mark.parametrize("key", ["profile/{user}", lambda user, again=1: f"profile/{user}"])
@pytest.mark.parametrize("arguments", [(("u1",), {}), ((), {"user": "u1"})])
def test_a_decorated_function_holds_its_lock_during_each_call(
    locks: LockManager, key: Any, arguments: Any
) -> None:
    """The key is made of its arguments, by name or by place, those by default too."""

    @locks.locked(key, "shared")
    def look(user: str, again: int = 1) -> list[tuple[str, str]]:
        """Look."""
        return held(locks)

    args, kwargs = arguments
    assert look.__name__ == "look"
    assert [look(*args, **kwargs) for _ in range(2)] == [[("profile/u1", "shared")]] * 2
    assert held(locks) == []


def test_a_decorated_coroutine_function_holds_its_lock_until_it_is_over(
    locks: LockManager
) -> None:
    """Two calls for one key are made one after the other."""
    inside, most = [0], [0]

    @locks.locked("profile/{user}")
    async def change(user: str) -> list[tuple[str, str]]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        await asyncio.sleep(0)
        inside[0] -= 1
        return held(locks)

    async def main() -> Any:
        return await asyncio.gather(change("u1"), change("u1"))

    assert asyncio.run(main()) == [[("profile/u1", "exclusive")]] * 2
    assert most == [1]
    assert held(locks) == []


def test_what_a_decorated_function_raises_is_raised_and_its_lock_let_go(
    locks: LockManager
) -> None:
    """As by ``with``."""

    @locks.locked("k")
    def fail() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert held(locks) == []


@pytest.mark.parametrize("how", ["def", "async def"])
@pytest.mark.parametrize("attempts", [1, 3])
def test_a_block_is_done_as_often_as_allowed(locks: LockManager, how: str, attempts: int) -> None:
    """Then the deadlock is the caller's."""
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        raise refused()

    async def work_async() -> None:
        work()

    with pytest.raises(DeadlockError):
        if how == "def":
            locks.run(work, attempts=attempts)
        else:
            asyncio.run(locks.run(work_async, attempts=attempts))  # type: ignore[arg-type]
    assert len(tries) == attempts


def refused() -> DeadlockError:
    """The error of a unit that was refused."""
    return DeadlockError(
        DeadlockReport(id="d", resolution="refused", participants=()), target="k", cause="a test"
    )
