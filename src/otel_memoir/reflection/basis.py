"""What a reflection is based on: the versions of what it read, and whether they still hold."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from otel_memoir.errors import Conflict, LockError

if TYPE_CHECKING:
    from collections.abc import Callable

    from otel_memoir.locks import LockManager
    from otel_memoir.locks.watch import Watch

Versions = dict[str, Any]


class Basis:
    """Versions before and after a time without locks.

    Args:
        keys: What is locked, and so what can have changed.

        version_of: Tells the version of a memory, in whatever can be compared; may be
            an ``async def``. None: the lock manager tells who may have written.
    """

    def __init__(
        self, locks: LockManager, keys: Iterable[str], version_of: Callable[[str], Any] | None
    ) -> None:
        self._locks, self._keys, self._version_of = locks, tuple(keys), version_of
        self._told: Versions = {}
        self._expected: Versions = {}
        self._watch: Watch | None = None

    def tell(self, key: str, version: Any) -> None:
        """A memory was read, in this version; None: in that which ``version_of`` tells."""
        self._told[key] = version

    def wrote(self, keys: Iterable[str]) -> None:
        """Memories were written by the reflection itself: their versions are not those read."""
        self._told.update(dict.fromkeys(self._told.keys() & set(keys)))

    def forget(self) -> None:
        """What was read does not count any more."""
        self._told.clear()

    def open(self, versions: Versions, token: int) -> None:
        """Locks are about to be let go; ``token``: what a writer's token is greater than."""
        if self._version_of is None:
            self._expected = dict.fromkeys(self._asked(), token)
            self._watch = self._locks.watch(self._expected)
        else:
            told = {key: version for key, version in self._told.items() if version is not None}
            self._expected = {**versions, **told}

    def settle(self, versions: Versions) -> tuple[Conflict, ...]:
        """Locks are held again: what changed meanwhile."""
        if self._watch is not None:
            # Our own lease ended too: a writer after us has a greater token.
            return tuple(
                Conflict(key, self._expected[key], token)
                for key, token in self._close(self._watch).items() if token > self._expected[key]
            )  # fmt: skip
        return tuple(
            Conflict(key, expected, versions[key])
            for key, expected in self._expected.items() if versions[key] != expected
        )  # fmt: skip

    def give_up(self) -> None:
        """Locks are not taken again."""
        if self._watch is not None:
            self._close(self._watch)

    def _close(self, watch: Watch) -> dict[str, int]:
        self._locks.unwatch(watch)
        self._watch = None
        return watch.written

    # -- asking ---------------------------------------------------------------

    def ask(self) -> Versions:
        """The versions as they are now; empty without a version function."""
        return {key: _plain(version) for key, version in self._answers()}

    async def ask_async(self) -> Versions:
        """As ``ask``; the version function may be an ``async def``."""
        return {
            key: await version if inspect.isawaitable(version) else version
            for key, version in self._answers()
        }

    def _answers(self) -> Iterator[tuple[str, Any]]:
        if self._version_of is not None:
            for key in self._asked():
                yield key, self._version_of(key)

    def _asked(self) -> tuple[str, ...]:
        return tuple(self._told) or self._keys


def _plain(version: Any) -> Any:
    if inspect.isawaitable(version):
        with suppress(AttributeError):
            version.close()  # type: ignore[attr-defined]  # a coroutine that nobody awaits warns
        raise LockError(
            "ask for a version", cause="the version function is asynchronous",
            hint="Use `async with reflection.unlocked()`.",
        )
    return version
