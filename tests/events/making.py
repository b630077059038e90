"""Events for tests: one with all there is, and any that hypothesis can think of."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from otel_memoir.events import Capture, MemoryEvent, TraceRef, names
from otel_memoir.events.model import FIELDS
from otel_memoir.events.tables import EVENTS
from otel_memoir.events.values import TYPES

# How long an example takes says nothing on a loaded machine.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

CANARY = "canary-7f3a"
EVERYTHING = Capture.SPAN_AND_EVENT
NOTHING = Capture.NO_CONTENT

_STAMPS = ("uid", "stream_id", "stream_epoch", "sequence", "schema_version",
           "clock_error_bound_ns", "clock_status")

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
INTEGERS = st.integers(-(2**63), 2**63 - 1)
FLOATS = st.floats(allow_nan=False)
SCALARS = st.none() | st.booleans() | TEXT | INTEGERS | FLOATS | st.binary(max_size=6)
ANY_VALUE_NAMES = st.sampled_from(["stringValue", "intValue", "bytesValue", "kvlistValue"])
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(TEXT | ANY_VALUE_NAMES, inner, max_size=3),
    max_leaves=6,
)
BY_TYPE: dict[str, Any] = {
    "string": TEXT, "int": INTEGERS, "double": FLOATS, "boolean": st.booleans(), "any": VALUES,
    "string[]": st.lists(TEXT, max_size=3), "double[]": st.lists(FLOATS, max_size=3),
}
TIMES = st.none() | st.integers(1, 2**64 - 1)
TRACES = st.builds(
    TraceRef, st.integers(1, 2**128 - 1), st.integers(0, 2**64 - 1), st.integers(0, 255)
)


def values_of(name: str) -> Any:
    """Values of the type with which an attribute is declared."""
    return BY_TYPE[TYPES[name]]


@st.composite
def events(draw: st.DrawFn, *, stamped: bool = False) -> MemoryEvent:
    """Any event of any kind, with attributes that nobody declared, and content."""
    name = draw(st.sampled_from(sorted(EVENTS)))
    kind = EVENTS[name]
    attributes = {key: draw(values_of(key)) for key in (*kind.required, *kind.either)}
    some = st.lists(st.sampled_from(sorted(kind.attributes or {names.RECORD_IDS})), max_size=3)
    for key in draw(some):
        attributes.setdefault(key, draw(values_of(key)))
    own = st.dictionaries(TEXT.map("their.{}".format), VALUES, max_size=3)
    some_fields = draw(st.lists(st.sampled_from(sorted(FIELDS.keys() - set(_STAMPS))), max_size=6))
    fields = {key: draw(values_of(FIELDS[key])) for key in some_fields
              if FIELDS[key] not in attributes}
    content = draw(st.dictionaries(st.sampled_from(sorted(names.CONTENT)), st.just(0), max_size=2))
    return MemoryEvent(
        name, attributes={**attributes, **draw(own)}, trace=draw(st.none() | TRACES),
        time_unix_ns=draw(TIMES), observed_unix_ns=draw(TIMES), severity=draw(st.integers(1, 24)),
        content={key: draw(values_of(key)) for key in content} if kind.content else {},
        **fields, **(draw(stamps()) if stamped or draw(st.booleans()) else {}),
    )


def stamps() -> Any:
    """What emission adds."""
    return st.fixed_dictionaries({
        "uid": TEXT.filter(bool), "stream_id": TEXT, "stream_epoch": st.integers(0, 2**63 - 1),
        "sequence": st.integers(1, 2**63 - 1),
        "clock_error_bound_ns": st.none() | st.integers(0, 2**63 - 1),
        "clock_status": st.none() | TEXT,
    })


def full_event(**other: Any) -> MemoryEvent:
    """An update with everything that an event can say, and a canary in its content."""
    said: dict[str, Any] = {
        "uid": "01890a5d-ac96-774b-bcce-b302099a8057", "stream_id": "9f86d081884c7d65",
        "stream_epoch": 1, "sequence": 4711, "time_unix_ns": 1_700_000_000_123_456_789,
        "observed_unix_ns": 1_700_000_000_123_450_000, "clock_error_bound_ns": 250_000,
        "clock_status": "holdover", "trace": TraceRef(2**127 + 1, 2**63 + 1, 1),
        "store_id": "prefs", "record_id": "mem_42", "scope": "user", "tenant_id": "acme",
        "system": "mem0", "provider_name": "aws.bedrock", "record_version": 4,
        "parent_uid": "01890a5d-ac96-774b-bcce-000000000000",
        "before_hash": "hmac-sha256:1f40fc92:00", "after_hash": "hmac-sha256:1f40fc92:01",
        "actor_type": "agent", "agent_id": "agent-7", "agent_name": "planner",
        "user_hash": "hmac-sha256:1f40fc92:02", "conversation_id": "conv_5", "turn_id": "12",
        "outcome": "partial", "reason": "user_request", "error_type": "TimeoutError",
        "change_id": "c1", "cause_uids": ["u1", "u2"], "source_refs": ["message:17"],
        "model": "gpt-4", "prompt_name": "consolidate", "prompt_version": "3",
        "attributes": {names.RECORD_IMPORTANCE: 0.5, names.RECORD_CHANGED_FIELDS: ["text"],
                       names.CONTENT_SIZE: 120, "their.attribute": [1, {"nested": b"\x00"}]},
        "content": {names.GEN_AI_MEMORY_RECORDS: [{"content": f"likes {CANARY}", "id": "mem_42"}],
                    names.BEFORE_RECORDS: [{"content": {"was": [CANARY]}}],
                    names.GEN_AI_MEMORY_QUERY_TEXT: CANARY},
    }
    return MemoryEvent(names.EVENT_RECORD_UPDATED, **{**said, **other})
