"""MemoryEvent: what it takes, what it refuses and says, and that it stays as it was."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from events.making import CANARY, PATIENT, VALUES, events, full_event
from otel_memoir.errors import EventError, MemoirError
from otel_memoir.events import SCHEMA_VERSION, MemoryEvent, TraceRef, names
from otel_memoir.events.model import FIELDS
from otel_memoir.events.sentence import BODY_LENGTH_MAX

READ = names.EVENT_RECORD_READ


def test_an_event_has_the_whole_envelope_of_the_design() -> None:
    """Every field can be said and comes out under its attribute's name."""
    event = full_event()
    assert [name for name in MemoryEvent.__dataclass_fields__ if getattr(event, name) is None] == []
    told = event.to_attributes()
    assert told.keys() >= set(FIELDS.values())
    assert told[names.SCHEMA_VERSION] == SCHEMA_VERSION
    assert told[names.PARENT_UID] == event.parent_uid


@pytest.mark.parametrize(("given", "complaint"), [
    ({"name": "memoir.record.reed"}, "no such event. Did you mean memoir.record.read?"),
    ({"name": "disk.full"}, "no such event. docs/vocabulary.md lists them."),
    ({"name": 3}, "no such event"),
    ({"record_id": 3}, "record_id (gen_ai.memory.record.id) is int, but has to be text"),
    ({"record_version": "3"}, "record_version (memoir.record.version) is str, but has to be an"),
    ({"sequence": True}, "sequence (memoir.sequence) is bool, but has to be an integer"),
    ({"cause_uids": "u1"}, "is str, but has to be a list (string[])"),
    ({"cause_uids": ["u1", 2]}, "holds int, but has to be text"),
    ({"attributes": {names.READ_HIT: 1}}, "memoir.read.hit is int, but has to be True or False"),
    ({"attributes": {"mine": {1, 2}}}, "mine is a set; OTLP has text, numbers"),
    ({"attributes": {"mine": object()}}, "mine is a object; OTLP has"),
    ({"attributes": {"mine": {1: 2}}}, "mine has a key that is int and no text"),
    ({"attributes": {"mine": 2**63}}, "is an integer of more than 64 bits; give it as text"),
    ({"attributes": {"": 1}}, "'' is no attribute name"),
    ({"attributes": {3: 1}}, "3 is no attribute name"),
    ({"attributes": [("mine", 1)]}, "attributes and content are list. Give dictionaries."),
    ({"attributes": {names.GEN_AI_MEMORY_RECORD_ID: "other"}}, "is given twice, with different"),
    ({"record_id": None}, "gen_ai.memory.record.id or gen_ai.memory.record.count is missing."),
    ({"record_id": None}, "Give record_id=... Or: Give attributes={'gen_ai.memory.record.count': "),
    ({"name": names.EVENT_RECORD_CREATED, "record_id": None}, "is missing. Give record_id=..."),
    ({"name": names.EVENT_RECALL_COMPLETED}, "Give attributes={'gen_ai.memory.record.count': ...}"),
    ({"name": names.EVENT_RECORD_ERASED, "content": {names.GEN_AI_MEMORY_RECORDS: []}},
     "is content, which this event never has"),
    ({"time_unix_ns": -1}, "time_unix_ns is -1. Give an integer from 0 to 18446744073709551615"),
    ({"observed_unix_ns": 2**64}, "observed_unix_ns is 18446744073709551616"),
    ({"time_unix_ns": 1.5}, "time_unix_ns is 1.5"),
    ({"severity": 25}, "severity is 25. Give an integer from 0 to 24"),
    ({"trace": "00-1"}, "trace is str. Give a TraceRef."),
    ({"schema_version": 2}, "memoir.schema.version is 2, not 1. Read what was written"),
])
def test_what_is_wrong_is_said_with_what_to_do(given: dict[str, Any], complaint: str) -> None:
    """At construction, before anything is emitted."""
    with pytest.raises(EventError, match=re.escape(complaint)) as raised:
        MemoryEvent(**{"name": READ, "record_id": "r", **given})
    assert isinstance(raised.value, (MemoirError, ValueError))


def test_a_value_that_contains_itself_is_refused() -> None:
    """Instead of a RecursionError."""
    loop: list[Any] = []
    loop.append(loop)
    with pytest.raises(EventError, match="nested deeper than 30 levels, or contains itself"):
        MemoryEvent(READ, record_id="r", attributes={"mine": loop})


@pytest.mark.parametrize("field", ["trace_id", "span_id", "flags"])
def test_a_trace_reference_has_ids_in_range(field: str) -> None:
    """The ids of another trace would be a lie."""
    with pytest.raises(EventError, match=f"{field}: -1 is not in range. Give an integer"):
        TraceRef(**{"trace_id": 1, field: -1})


@PATIENT
@given(events())
def test_an_event_is_a_value(event: MemoryEvent) -> None:
    """Equal to its copies, of whatever kind, and hashable."""
    for copied in (copy.deepcopy(event), pickle.loads(pickle.dumps(event)),
                   dataclasses.replace(event)):
        assert copied == event
        assert hash(copied) == hash(event)


def test_what_was_given_cannot_change_the_event_afterwards() -> None:
    """It is copied, deeply, and frozen."""
    deep = {"list": [1, {"in": "side"}]}
    event = MemoryEvent(READ, record_id="r", attributes={"mine": deep})
    before = hash(event)
    deep["list"].append(2)
    assert hash(event) == before
    assert event.attributes["mine"] == {"list": (1, {"in": "side"})}
    with pytest.raises(dataclasses.FrozenInstanceError):
        event.record_id = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        event.attributes["mine"] = 1  # type: ignore[index]


def test_attributes_of_the_envelope_become_fields_and_content_becomes_content() -> None:
    """Wherever they are given."""
    event = MemoryEvent(READ, attributes={
        names.GEN_AI_MEMORY_RECORD_ID: "r", names.GEN_AI_MEMORY_QUERY_TEXT: "tea", "mine": 1})
    assert event.record_id == "r"
    assert event.content == {names.GEN_AI_MEMORY_QUERY_TEXT: "tea"}
    assert event.attributes == {"mine": 1}
    assert event == MemoryEvent(READ, record_id="r", attributes={"mine": 1},
                                content={names.GEN_AI_MEMORY_QUERY_TEXT: "tea"})


def test_a_kind_says_its_severity_and_its_operation() -> None:
    """Unless the event says its own."""
    read = MemoryEvent(READ, record_id="r")
    assert (read.severity, read.operation) == (5, names.OPERATION_SEARCH_MEMORY)
    other = MemoryEvent(READ, record_id="r", severity=9, operation="mine")
    assert (other.severity, other.operation) == (9, "mine")


@pytest.mark.parametrize(("state", "severity"), [
    ("ok", 9), ("degraded", 13), ("failing", 17), ("of a newer release", 9)])
def test_a_change_of_health_is_as_severe_as_the_new_state(state: str, severity: int) -> None:
    """An alert asks for the severity only."""
    event = MemoryEvent(names.EVENT_HEALTH_CHANGED, attributes={names.HEALTH_STATE: state})
    assert event.severity == severity


def test_integers_are_taken_where_a_number_is_declared() -> None:
    """A score of 1 is a score."""
    event = MemoryEvent(names.EVENT_RECALL_COMPLETED, attributes={
        names.GEN_AI_MEMORY_RECORD_COUNT: 2, names.RECALL_SCORES: [1, 0.5],
        names.RECALL_THRESHOLD: 0})
    assert repr(event.attributes[names.RECALL_SCORES]) == "(1.0, 0.5)"
    assert repr(event.attributes[names.RECALL_THRESHOLD]) == "0.0"


def test_a_lone_surrogate_becomes_its_escape() -> None:
    """File names have them, and UTF-8 does not."""
    assert MemoryEvent(READ, record_id="a\udc80").record_id == "a\\udc80"


def test_bodies_read_like_a_sentence() -> None:
    """For Loki, and for people."""
    assert full_event().body == (
        "memory record mem_42 was updated in store prefs, version 4, by agent planner, "
        "outcome partial: user_request"
    )
    deadlock = MemoryEvent(names.EVENT_LOCK_DEADLOCK, attributes={
        names.LOCK_KEY: "a", names.DEADLOCK_ID: "d1", names.DEADLOCK_UNITS: ["t1", "t2"],
        names.DEADLOCK_KEYS: ["a", "b"], names.LOCK_UNIT: "t1", names.DEADLOCK_ROLE: "victim"})
    assert deadlock.body == "deadlock d1 of t1, t2 over a, b; t1 is the victim"
    skipped = MemoryEvent(names.EVENT_REFLECTION_SKIPPED, reason="superseded", attributes={
        names.REFLECTION_ID: "r1", names.REFLECTION_WRITES_APPLIED: True})
    assert skipped.body == "reflection r1 was skipped; some of it was written: superseded"
    cleared = MemoryEvent(names.EVENT_STORE_CLEARED, store_id="prefs", actor_type="user")
    assert cleared.body == "memory store prefs was cleared, by user"
    assert MemoryEvent(names.EVENT_RECORD_DELETED, attributes={
        names.GEN_AI_MEMORY_RECORD_COUNT: 3}).body == "3 memory record(s) were deleted"


@PATIENT
@given(st.text(max_size=200), st.lists(st.text(max_size=100), max_size=5))
def test_a_body_is_one_printable_line_of_bounded_length(text: str, more: list[str]) -> None:
    """Whatever the ids are made of: line breaks, escape sequences, bidirectional marks."""
    event = MemoryEvent(names.EVENT_LOCK_TIMEOUT, reason=text, store_id=text, agent_name=text,
                        attributes={names.LOCK_KEY: text, names.LOCK_HOLDERS: more})
    assert event.body.isprintable()
    assert len(event.body) <= BODY_LENGTH_MAX


def test_a_body_escapes_what_would_forge_a_line() -> None:
    """A newline, an ANSI escape, and a mark that turns the text around."""
    event = MemoryEvent(READ, record_id="a\nb\x1b[31mc\u202ed\u2028e\x00")
    assert event.body == r"memory record a\nb\x1b[31mc\u202ed\u2028e\x00 was read"


@PATIENT
@given(VALUES)
def test_content_is_in_no_body_no_repr_and_no_error(value: Any) -> None:
    """These are what ends up in other people's logs."""
    content = {names.GEN_AI_MEMORY_RECORDS: [{"content": [CANARY, value]}],
               names.GEN_AI_MEMORY_QUERY_TEXT: CANARY}
    event = MemoryEvent(READ, record_id="r", content=content)
    assert CANARY not in event.body + repr(event) + str(event)
    with pytest.raises(EventError) as raised:
        MemoryEvent(READ, record_id="r", content={names.GEN_AI_MEMORY_QUERY_TEXT: [CANARY]})
    assert CANARY not in f"{raised.value}{raised.value!r}"
    assert raised.value.__cause__ is None
