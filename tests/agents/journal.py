"""Events of a memory, as one who stands between an agent and a library can write them."""

from __future__ import annotations

import threading
from typing import Any

from otel_memoir.events import ContentHasher, LostUpdate, MemoryEvent, lost_updates, names
from otel_memoir.stamping import new_uid

HASHER = ContentHasher("not a secret: 0123456789abcdef")


class Journal:
    """What was read before each write, and what was written: as hashes."""

    def __init__(self, store: str) -> None:
        self._store, self._lock = store, threading.Lock()
        self.events: list[MemoryEvent] = []

    def changed(self, record: str, before: Any, after: Any) -> None:
        """One change; ``before`` is None for a creation."""
        name = names.EVENT_RECORD_UPDATED if before is not None else names.EVENT_RECORD_CREATED
        event = MemoryEvent(
            name, uid=new_uid(), store_id=self._store, record_id=record,
            before_hash=None if before is None else HASHER.hash(before),
            after_hash=HASHER.hash(after),
        )
        with self._lock:
            self.events.append(event)

    def proven(self) -> tuple[LostUpdate, ...]:
        """The lost updates that the events prove."""
        return lost_updates(self.events)
