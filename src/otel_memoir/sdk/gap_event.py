"""The event that tells of a loss: ``memoir.delivery.gap``."""

from __future__ import annotations

from opentelemetry._logs import LogRecord, SeverityNumber

from otel_memoir.events import SCHEMA_VERSION, names
from otel_memoir.sdk.own_events import own_draft
from otel_memoir.spool import Draft
from otel_memoir.spool.ledger import Gap

OPS_SCOPE = "otel_memoir.ops"
"""The instrumentation scope of events about otel-memoir itself."""

GAP_EVENT = names.EVENT_DELIVERY_GAP


def gap_draft(gap: Gap, envelope: bytes | None) -> Draft:
    """The record that tells of a gap.

    Args:
        gap: The loss.

        envelope: An envelope of the process that lost the records; the event then
            has that process's resource.
    """
    record = LogRecord(
        timestamp=gap.noticed_unix_ns,
        severity_number=SeverityNumber.WARN,
        severity_text="WARN",
        body=_sentence(gap),
        event_name=GAP_EVENT,
        attributes=_attributes(gap),
    )
    return own_draft(record, scope=OPS_SCOPE, envelope=envelope)


def _sentence(gap: Gap) -> str:
    amount = f"{'at most ' if gap.at_most else ''}{gap.records} record(s)"
    where = (
        f" between sequence {gap.first_sequence} and {gap.last_sequence}"
        if gap.first_sequence is not None else ""
    )
    stream = f"stream {gap.stream.stream_id} epoch {gap.stream.epoch}"
    return f"{amount} of {stream}{where} were not delivered: {gap.cause}"


def _attributes(gap: Gap) -> dict[str, str | int | bool]:
    found: dict[str, str | int | bool | None] = {
        names.SCHEMA_VERSION: SCHEMA_VERSION,
        names.GAP_CAUSE: gap.cause,
        names.GAP_RECORDS: gap.records,
        names.GAP_AT_MOST: gap.at_most,
        names.GAP_STREAM_ID: gap.stream.stream_id,
        names.GAP_STREAM_EPOCH: gap.stream.epoch,
        names.GAP_FIRST_SEQUENCE: gap.first_sequence,
        names.GAP_LAST_SEQUENCE: gap.last_sequence,
        names.GAP_MESSAGE: gap.message or None,
    }
    return {name: value for name, value in found.items() if value is not None}
