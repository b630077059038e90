"""Work that rides in somebody's commit, and the file that comes after one that failed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NamedTuple

from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.model import Life


class Chore:
    """Work that runs inside somebody's commit, and what came of it."""

    __slots__ = ("done", "error", "gate", "result", "work")

    def __init__(self, work: Callable[[SpoolFile], Any]) -> None:
        self.work = work
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None
        self.gate = threading.Lock()
        self.gate.acquire()

    def finish(self, error: Exception | None = None) -> None:
        """Wake the one who waits for it."""
        self.error = error
        self.done = True
        self.gate.release()


class Successor(NamedTuple):
    """What comes after a file that cannot be trusted.

    Attributes:
        file: The new file.

        ended: The life that ended with the old one, if there was one.

        let_go: Called once the new file has what the old one may have lost. Only then may
            somebody else open the old one: what is listed as moved does not count there.
    """

    file: SpoolFile
    ended: Life | None
    let_go: Callable[[], None]
