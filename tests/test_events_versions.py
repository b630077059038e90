"""What was written in any version is read; what is newer is left alone."""

from __future__ import annotations

import json
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from events.making import EVERYTHING, full_event
from otel_memoir.errors import EventError
from otel_memoir.events import (
    SCHEMA_VERSION,
    MemoryEvent,
    Opaque,
    from_cloud_event,
    from_log_record,
    from_otlp,
    from_otlp_json,
    names,
    renamed,
    to_cloud_event,
    to_log_record,
    to_otlp,
    to_otlp_json,
)
from otel_memoir.events.record import Record
from otel_memoir.events.versions import UPCASTERS, Upcasters

FIXTURES = Path(__file__).resolve().parent / "events" / "fixtures"


def stored(name: str) -> bytes:
    """A payload that was stored once and is never written again."""
    return (FIXTURES / name).read_bytes()


def test_there_is_a_stored_payload_of_every_version() -> None:
    """A new version comes with one of its own."""
    versions = {int(path.name[1:].partition("-")[0]) for path in FIXTURES.glob("v*-*.otlp")}
    assert versions == set(range(SCHEMA_VERSION + 1))


def test_version_0_is_read() -> None:
    """A gap event, stamped by the spool, from before there was a vocabulary."""
    event = from_otlp(stored("v0-delivery-gap.otlp"))
    assert isinstance(event, MemoryEvent)
    assert names.SCHEMA_VERSION.encode() not in stored("v0-delivery-gap.otlp")
    assert event.schema_version == SCHEMA_VERSION
    assert (event.stream_epoch, event.sequence, event.severity) == (2, 112, 13)
    assert event.attributes == {
        names.GAP_CAUSE: "evicted", names.GAP_RECORDS: 12, names.GAP_AT_MOST: False,
        names.GAP_STREAM_ID: "9f86d081884c7d65", names.GAP_STREAM_EPOCH: 1,
        names.GAP_FIRST_SEQUENCE: 100, names.GAP_LAST_SEQUENCE: 111,
    }


def test_version_1_is_read_from_every_form_in_which_it_was_stored() -> None:
    """And is the event that was written."""
    event = from_otlp(stored("v1-record-updated.otlp"))
    assert event == full_event()
    assert event == from_otlp_json(json.loads(stored("v1-record-updated.otlp.json")))
    assert event == from_cloud_event(json.loads(stored("v1-record-updated.cloudevent.json")))


def test_what_version_1_looks_like_does_not_change() -> None:
    """Who changes the form of what is written needs a new version, and an upcaster."""
    assert SCHEMA_VERSION == 1
    event = full_event()
    written = to_otlp_json(event, capture=EVERYTHING)
    assert written == json.loads(stored("v1-record-updated.otlp.json"))
    written = to_cloud_event(event, capture=EVERYTHING)
    assert written == json.loads(stored("v1-record-updated.cloudevent.json"))


def newer() -> Record:
    """The record of a release that does not exist yet."""
    return Record(name=names.EVENT_RECORD_UPDATED, attributes={
        names.SCHEMA_VERSION: SCHEMA_VERSION + 1, "memoir.record.identity": {"id": "r"},
        names.LOG_RECORD_UID: "u", names.STREAM_ID: "s", names.STREAM_EPOCH: 1, names.SEQUENCE: 1})


def test_a_newer_payload_passes_through_untouched() -> None:
    """Byte for byte, with fields that this library has never heard of."""
    blank = Opaque(record=newer(), reason="", form="", original=None)
    unknown_field = b"\xa2\x06\x03abc"
    payload = to_otlp(blank) + unknown_field
    for form, write, read in (
        (payload, to_otlp, from_otlp),
        ({**to_otlp_json(blank), "ofTheFuture": 1}, to_otlp_json, from_otlp_json),
        ({**to_cloud_event(blank), "future": "1"}, to_cloud_event, from_cloud_event),
        (to_log_record(blank), to_log_record, from_log_record),
    ):
        found = read(form)  # type: ignore[operator]
        assert isinstance(found, Opaque)
        assert found.schema_version == SCHEMA_VERSION + 1
        assert "Update otel-memoir to read it." in found.reason
        assert write(found) == form  # type: ignore[operator]


@pytest.mark.parametrize("version", ["1", -1, 1.0, True, None])
def test_a_version_that_is_none_makes_no_event(version: Any) -> None:
    """But no exception either: somebody else may use the name."""
    record = replace(newer(), attributes={
        names.GEN_AI_MEMORY_RECORD_ID: "r", names.SCHEMA_VERSION: version})
    found = from_otlp(to_otlp(Opaque(record=record, reason="", form="", original=None)))
    assert isinstance(found, Opaque)
    assert found.schema_version is None


def test_an_event_that_lacks_what_it_needs_is_passed_on() -> None:
    """Its writer was not this library; the reason says what is missing."""
    record = replace(newer(), attributes={names.SCHEMA_VERSION: 1})
    found = from_otlp(to_otlp(Opaque(record=record, reason="", form="", original=None)))
    assert isinstance(found, Opaque)
    assert "gen_ai.memory.record.id is missing" in found.reason


def test_upcasters_make_a_chain() -> None:
    """Each takes a record one version on, and only records that are older."""
    chain = Upcasters({
        1: lambda record: replace(record, name=record.name + ".2"),
        2: lambda record: replace(record, attributes={**record.attributes, "new": True}),
    })
    assert chain.newest == 3
    old = Record(name="e", attributes={names.SCHEMA_VERSION: 1, "kept": 1})
    assert chain.upcast(old) == Record(
        name="e.2", attributes={names.SCHEMA_VERSION: 3, "kept": 1, "new": True})
    middle = replace(old, attributes={names.SCHEMA_VERSION: 2})
    assert chain.upcast(middle).name == "e"
    newest = replace(old, attributes={names.SCHEMA_VERSION: 3})
    assert chain.upcast(newest) is newest
    assert old.attributes == {names.SCHEMA_VERSION: 1, "kept": 1}


@pytest.mark.parametrize("version", [0, 4])
def test_a_version_without_an_upcaster_is_refused(version: int) -> None:
    """Older than the chain, or newer."""
    chain = Upcasters({1: lambda record: record, 2: lambda record: record})
    with pytest.raises(EventError, match=f"its schema version is {version}, and this library"):
        chain.upcast(Record(attributes={names.SCHEMA_VERSION: version}))


def test_a_chain_has_no_holes_and_ends_at_the_version_that_is_written() -> None:
    """Seen when the module is imported, not when the first old record comes."""
    assert UPCASTERS.newest == SCHEMA_VERSION
    with pytest.raises(EventError, match="version 1 has none"):
        Upcasters({0: lambda record: record, 2: lambda record: record})


@renamed("size", "size_bytes", removed_in="0.3")
def measure(*, size_bytes: int = 0) -> int:
    """A function one of whose parameters had another name."""
    return size_bytes


def test_the_old_name_of_a_parameter_works_and_warns_whoever_uses_it() -> None:
    """The warning points at the caller."""
    with pytest.warns(DeprecationWarning, match="measure\\(\\): 'size' is now called 'size_bytes' "
                      "and stops working in 0.3") as caught:
        assert measure(size=3) == 3  # type: ignore[call-arg]
    assert caught[0].filename == __file__


def test_the_new_name_of_a_parameter_does_not_warn() -> None:
    """Negative control; and the function is still itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert measure(size_bytes=3) == 3
    assert (measure.__name__, measure.__doc__) == (
        "measure", "A function one of whose parameters had another name.")


def test_both_names_at_once_are_a_mistake() -> None:
    """Which one counts would be a guess."""
    with pytest.raises(TypeError, match="got 'size' and 'size_bytes', which are the same"):
        measure(size=1, size_bytes=2)  # type: ignore[call-arg]
