"""An emission whose emitter wants to know what becomes of its record.

It travels in the record's context, so that the record finds it however many processors
stand between, and a record that an SDK warning emits meanwhile does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from opentelemetry.context import Context, create_key, get_value, set_value

from otel_memoir.sdk.bell import Bell
from otel_memoir.spool import Refused, Ticket
from otel_memoir.spool.model import Intent, Stream
from otel_memoir.spool.whereabouts import Whereabouts

_KEY = create_key("memoir-emission")


class Taker(Protocol):
    """What took a record: a pipeline."""

    @property
    def bell(self) -> Bell:
        """Is rung when there may be news of a record."""
        ...

    @property
    def directory(self) -> Path | None:
        """Where its spool files are."""
        ...

    def in_memory(self, stream: Stream, sequence: int) -> Whereabouts:
        """What became of a record that has no file."""
        ...


class Emission:
    """What is known of a record from the side of its emitter.

    Args:
        intent: An intent that the record declares or ends.

        uid: The ``log.record.uid`` that the record shall have; else it gets a fresh one.

    Attributes:
        uid: The record's, once a pipeline has taken it.

        pipeline: The pipeline that took it.

        ticket: Its place in the spool; on an event loop it can come later.

        refusal: Why it has none.
    """

    def __init__(self, intent: Intent | None = None, *, uid: str = "") -> None:
        self.intent = intent
        self.wanted_uid, self.uid = uid, ""
        self.pipeline: Taker | None = None
        self.ticket: Ticket | None = None
        self._refusal: Refused | None = None

    def within(self, context: Context) -> Context:
        """A context in which a record of this emission is made."""
        return set_value(_KEY, self, context)

    def begin(self, uid: str, pipeline: Taker) -> None:
        """Take note that a pipeline is storing the record."""
        self.uid, self.pipeline = uid, pipeline

    def taken(self, found: Ticket | Refused) -> None:
        """Take note of what the spool said."""
        if isinstance(found, Refused):
            self._refusal = found
        else:
            self.ticket = found
        if self.pipeline is not None:
            self.pipeline.bell.ring()

    @property
    def refusal(self) -> Refused | None:
        """Why the record was not accepted, if that is known."""
        return self._refusal or (self.ticket.refusal if self.ticket is not None else None)

    @property
    def is_stored(self) -> bool:
        """Whether the record is on disk, as durable as the settings say."""
        return self.ticket is not None and self.ticket.stored

    def wait_stored(self, timeout: float) -> bool:
        """Wait in this thread until it is stored; return whether it is, in ``timeout`` seconds."""
        if self.pipeline is None:
            return False
        return self.pipeline.bell.wait(self.is_decided, timeout) and self.is_stored

    def is_decided(self) -> bool:
        """Whether the record is stored or refused, or in memory for good: there is no disk."""
        return self.refusal is not None or (self.ticket is not None and self.ticket.group.done)


def emission_of(log: Any) -> Emission | None:
    """The emission of a log record, if its emitter made one."""
    context = getattr(log, "context", None)
    found = get_value(_KEY, context) if context else None
    return found if isinstance(found, Emission) else None
