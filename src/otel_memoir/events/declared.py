"""Whether all that is emitted is declared: a live check for tests."""

from __future__ import annotations

from opentelemetry._logs import LogRecord

from otel_memoir.events import names
from otel_memoir.events.log_record import from_log_record
from otel_memoir.events.model import MemoryEvent
from otel_memoir.events.reading import Opaque
from otel_memoir.events.tables import EVENTS


def undeclared(record: MemoryEvent | Opaque | LogRecord) -> tuple[str, ...]:
    """What a record says that the vocabulary does not know.

    Args:
        record: An event, or a record of any kind that is one by its name.

    Returns:
        Names of attributes that are not declared for its event, sorted; or only its event
        name, if that is not declared. Empty means: all is declared.
    """
    if isinstance(record, LogRecord):
        record = from_log_record(record)
    if record.name not in EVENTS:
        return (record.name,)
    kind = EVENTS[record.name]
    known = names.STAMP | names.ENVELOPE | kind.attributes
    if kind.content:
        known |= names.CONTENT
    found = (record.to_attributes(content=True) if isinstance(record, MemoryEvent)
             else record.record.attributes)
    return tuple(sorted(found.keys() - known))
