"""Release, think, take again: a block without the locks of a reflection.

Held across the call of a model, a lock stops everybody for minutes; let go without more, what
was thought is written over what came meanwhile. So the versions are compared when the locks
are held again, and what is stale is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from otel_memoir.reflection.hold import Hold


class Unlocked:
    """What ``Reflection.unlocked`` gives. See there.

    Args:
        check: Raises when what was thought may not be written.
    """

    def __init__(self, hold: Hold, check: Callable[[], None]) -> None:
        self._hold, self._check = hold, check

    def __enter__(self) -> None:
        self._hold.check()
        self._hold.pause(self._hold.basis.ask())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if not _comes_back(error):
            return
        self._hold.take()
        self._hold.resume(self._hold.basis.ask())
        if error is None:
            self._check()

    async def __aenter__(self) -> None:
        self._hold.check()
        self._hold.pause(await self._hold.basis.ask_async())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        if not _comes_back(error):
            return
        await self._hold.take_async()
        self._hold.resume(await self._hold.basis.ask_async())
        if error is None:
            self._check()


def _comes_back(error: BaseException | None) -> bool:
    """Whether the reflection goes on: not when it was called off or interrupted."""
    return error is None or isinstance(error, Exception)
