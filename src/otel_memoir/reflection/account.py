"""What is known of a reflection: who it is, what it did, and who asked it to run again."""

from __future__ import annotations

from typing import NamedTuple

from otel_memoir.reflection.plan import Plan
from otel_memoir.stamping.uid import new_uid


class RerunRequest(NamedTuple):
    """A reflection that was skipped: its id, its name, and the keys that it was for."""

    id: str
    name: str
    keys: tuple[str, ...]


class Account:
    """The account of one reflection.

    Attributes:
        id, name, keys: Its id, what kind it is, and what it locks, with modes.

        owner: The id of the unit that it locks for, from its beginning.

        rerun_requests: Who asked it to run again, because they were skipped. After its
            end nobody is added any more.
    """

    def __init__(self, plan: Plan) -> None:
        self.id, self.name, self.keys = new_uid(), plan.name, plan.keys
        self.owner = ""
        self.rerun_requests: tuple[RerunRequest, ...] = ()
        # Lists, since children that are bound to it may add to them from other threads.
        self._reads: list[str] = []
        self._writes: list[str] = []

    @property
    def rerun_requested(self) -> bool:
        """Whether it was asked to run again. True after its end: run it again."""
        return bool(self.rerun_requests)

    @property
    def was_read(self) -> tuple[str, ...]:
        """What it said it read, each once."""
        return tuple(dict.fromkeys(self._reads))

    @property
    def written(self) -> tuple[str, ...]:
        """What it said it wrote, each once."""
        return tuple(dict.fromkeys(self._writes))

    @property
    def writes(self) -> int:
        """How many writes it said it did."""
        return len(self._writes)
