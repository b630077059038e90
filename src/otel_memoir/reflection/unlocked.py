"""Release, think, take again: a block without the locks of a reflection.

Held across the call of a model, a lock stops everybody for minutes; let go without more, what
was thought is written over what came meanwhile. So the versions are compared when the locks
are held again, and what is stale is refused.
"""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from otel_memoir.reflection.reflection import Reflection


class Unlocked:
    """What ``Reflection.unlocked`` gives. See there."""

    def __init__(self, reflection: Reflection) -> None:
        self._reflection = reflection

    def __enter__(self) -> None:
        reflection = self._reflection
        reflection._hold()
        reflection.pause(reflection._basis.ask())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        reflection = self._reflection
        if not _comes_back(error):
            return
        reflection._take()
        reflection.resume(reflection._basis.ask())
        if error is None:
            reflection.check()

    async def __aenter__(self) -> None:
        reflection = self._reflection
        reflection._hold()
        reflection.pause(await reflection._basis.ask_async())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:  # fmt: skip
        reflection = self._reflection
        if not _comes_back(error):
            return
        await reflection._take_async()
        reflection.resume(await reflection._basis.ask_async())
        if error is None:
            reflection.check()


def _comes_back(error: BaseException | None) -> bool:
    """Whether the reflection goes on: not when it was called off or interrupted."""
    return error is None or isinstance(error, Exception)
