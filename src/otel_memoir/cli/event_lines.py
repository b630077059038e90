"""How one event is shown: as a row of a table, and as JSON with stable fields."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict, MessageToJson
from opentelemetry.proto.common.v1.common_pb2 import AnyValue

from otel_memoir.retrieval.event import moment
from otel_memoir.stamping.event import StampedEvent

__all__ = ["EVENT_HEADS", "body_text", "bound_in_words", "event_json", "event_row", "moment"]

EVENT_HEADS = ("state", "stream", "epoch", "sequence", "time", "bound", "event", "body")

_BODY_LENGTH_MAX = 80


def bound_in_words(bound_ns: int | None) -> str:
    """An error bound in the unit in which a person would say it."""
    if bound_ns is None:
        return "-"
    for size, unit in ((10**9, "s"), (10**6, "ms"), (10**3, "µs")):
        if bound_ns >= size:
            return f"±{bound_ns / size:.1f} {unit}"
    return f"±{bound_ns} ns"


def event_row(event: StampedEvent) -> tuple[str, ...]:
    """An event under ``EVENT_HEADS``; its payload is its state and the record."""
    state, log = event.payload
    body = " ".join(body_text(log.body).split())
    return (
        state, event.stream[:8], str(event.epoch), str(event.sequence), moment(event.unix_ns),
        bound_in_words(event.error_bound_ns), log.event_name or "-",
        body if len(body) <= _BODY_LENGTH_MAX else f"{body[: _BODY_LENGTH_MAX - 1]}…",
    )


def body_text(value: AnyValue) -> str:
    """A body as text: what is none already in protobuf's JSON."""
    if value.WhichOneof("value") in ("string_value", None):
        return value.string_value
    return MessageToJson(value, indent=None)


def event_json(event: StampedEvent) -> dict[str, Any]:
    """An event for programs; its payload is its state and the record."""
    state, log = event.payload
    return {
        "state": state, "uid": event.uid, "stream": event.stream, "epoch": event.epoch,
        "sequence": event.sequence, "time": moment(event.unix_ns), "unix_ns": event.unix_ns,
        "error_bound_ns": event.error_bound_ns, "event": log.event_name,
        "body": body_text(log.body), "record": MessageToDict(log),
    }
