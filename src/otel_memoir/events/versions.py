"""Reading what was written in an older version.

Stored records are never rewritten: they are read through a chain of upcasters, each of
which takes a record of version n to n+1. Newer records are left as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from otel_memoir.errors import EventError
from otel_memoir.events import names
from otel_memoir.events.record import Record

Upcaster = Callable[[Record], Record]


class Upcasters:
    """A chain of upcasters.

    Args:
        steps: By the version that each takes; without holes.

    Raises:
        EventError: A version between the oldest and the newest has no upcaster.
    """

    def __init__(self, steps: Mapping[int, Upcaster]) -> None:
        missing = set(range(min(steps), max(steps))) - steps.keys()
        if missing:
            raise EventError("chain upcasters", cause=f"version {min(missing)} has none",
                             hint="Each older version needs one.")
        self._steps = dict(steps)
        self.newest = max(steps) + 1

    def upcast(self, record: Record) -> Record:
        """The record as the newest version would have it.

        Raises:
            EventError: It is of a newer version, or of none that is known.
        """
        version = version_of(record)
        if version is None or (version != self.newest and version not in self._steps):
            newer = version is not None and version > self.newest
            raise EventError(
                "read event", target=record.name,
                cause=f"its schema version is {version}, and this library reads {self.newest}",
                hint="Update otel-memoir to read it." if newer else "",
            )
        while version < self.newest:
            record = self._steps[version](record)
            version += 1
            attributes = {**record.attributes, names.SCHEMA_VERSION: version}
            record = replace(record, attributes=attributes)
        return record


def version_of(record: Record) -> int | None:
    """The schema version that a record says it has; 0 where it says none, ``None`` for nonsense."""
    version = record.attributes.get(names.SCHEMA_VERSION, 0)
    return version if type(version) is int and version >= 0 else None


def _from_0(record: Record) -> Record:
    """Gap events from before there was a vocabulary. Only the number is new."""
    return record


UPCASTERS = Upcasters({0: _from_0})
