"""Which version of each memory record this process told of last.

Good for refusing a stale change where the store cannot be asked; other processes are not
seen. Bounded: what was told of long ago is forgotten, and then nothing is refused.
"""

from __future__ import annotations

from collections import OrderedDict

from otel_memoir.events import MemoryEvent, names

_KEPT_MAX = 10_000

_CHANGES = frozenset({names.EVENT_RECORD_CREATED, names.EVENT_RECORD_UPDATED})
_MADE = (None, "success", "partial")


class Versions:
    """Versions by store and memory record."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str | None, str], int] = OrderedDict()

    def note(self, event: MemoryEvent) -> None:
        """Take note of what an event says that was made."""
        if event.name not in _CHANGES or event.outcome not in _MADE:
            return
        if event.record_id is None or event.record_version is None:
            return
        key = (event.store_id, event.record_id)
        self._known[key] = event.record_version
        self._known.move_to_end(key)
        while len(self._known) > _KEPT_MAX:
            self._known.popitem(last=False)

    def of(self, store_id: str | None, record_id: str) -> int | None:
        """The version of a memory record, if it is known."""
        return self._known.get((store_id, record_id))
