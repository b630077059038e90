"""Events that the courier emits by itself: they have no logger, so they are encoded here."""

from __future__ import annotations

from types import SimpleNamespace

from opentelemetry._logs import LogRecord
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from otel_memoir.delivery.encoding import encode_record, join_envelope
from otel_memoir.delivery.request import split_envelope
from otel_memoir.spool import Draft
from otel_memoir.stamping import new_uid


def own_draft(record: LogRecord, *, scope: str, envelope: bytes | None) -> Draft:
    """A record of our own, on its way into the spool.

    Args:
        record: The record; it says itself when its event happened.

        scope: Its instrumentation scope.

        envelope: An envelope of the process that it is about; the event then has that
            process's resource.
    """
    encoded = encode_record(
        SimpleNamespace(
            log_record=record, resource=Resource.get_empty(), dropped_attributes=0,
            instrumentation_scope=InstrumentationScope(scope),
        )
    )
    own_resource, own_scope = split_envelope(encoded.envelope)
    resource = split_envelope(envelope)[0] if envelope else own_resource
    return Draft(
        join_envelope(resource, own_scope), encoded.payload, encoded.severity, new_uid(),
        timed=True,
    )
