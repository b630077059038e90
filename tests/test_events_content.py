"""Content leaves only where the user opted in; hashes of it only with a key."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common._log_encoder import encode_logs
from opentelemetry.sdk._logs import ReadableLogRecord, ReadWriteLogRecord
from opentelemetry.sdk.resources import Resource

from events.making import CANARY, EVERYTHING, NOTHING, PATIENT, full_event
from otel_memoir.delivery.encoding import encode_record
from otel_memoir.errors import EventError
from otel_memoir.events import (
    Capture,
    ContentHasher,
    MemoryEvent,
    Opaque,
    capture_mode,
    content_size,
    from_otlp,
    names,
    to_cloud_event,
    to_log_record,
    to_otlp,
    to_otlp_json,
)
from otel_memoir.events import content as content_module
from otel_memoir.events.content import CAPTURE_VARIABLE, KEY_VARIABLE

KEY = "0123456789abcdef"
# `printf 'content\\0"tea"' | openssl dgst -sha256 -hmac 0123456789abcdef`, 32 digits of it.
GOLDEN = "hmac-sha256:58bbb65a:c4b7ccc36f07a799cea89e744f9dc762"


def renderings(event: MemoryEvent | Opaque, capture: Capture | None) -> dict[str, str]:
    """Everything that leaves the process for an event, as text."""
    record = to_log_record(event, capture=capture)
    sdk = ReadWriteLogRecord(record, Resource.get_empty())
    official = encode_logs([ReadableLogRecord(record, Resource.get_empty())])  # type: ignore[call-arg]
    return {
        "body": str(record.body),
        "LogRecord": repr(vars(record)),
        "our encoder": encode_record(sdk).payload.decode("latin-1"),
        "the official encoder": official.SerializeToString().decode("latin-1"),
        "OTLP": to_otlp(event, capture=capture).decode("latin-1"),
        "OTLP JSON": json.dumps(to_otlp_json(event, capture=capture)),
        "CloudEvents": json.dumps(to_cloud_event(event, capture=capture)),
        "repr": repr(event),
    }


def carriers(capture: Capture | None) -> set[str]:
    """Which of the renderings hold the canary."""
    return {name for name, text in renderings(full_event(), capture).items() if CANARY in text}


ALL = {"LogRecord", "our encoder", "the official encoder", "OTLP", "OTLP JSON", "CloudEvents"}


@pytest.mark.parametrize(("value", "expected"), [
    (None, set()), ("", set()), ("NO_CONTENT", set()), ("SPAN_ONLY", set()), ("false", set()),
    ("yes please", set()),
    ("EVENT_ONLY", ALL), ("event_only", ALL), (" Span_And_Event ", ALL), ("true", ALL),
])
def test_content_leaves_only_where_the_user_opted_in(
    monkeypatch: pytest.MonkeyPatch, value: str | None, expected: set[str]
) -> None:
    """The last four are the negative control: the same search finds the canary."""
    if value is None:
        monkeypatch.delenv(CAPTURE_VARIABLE, raising=False)
    else:
        monkeypatch.setenv(CAPTURE_VARIABLE, value)
    assert carriers(None) == expected


def test_a_canary_would_be_found_if_content_were_not_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative control: what holds it back is the list of what is content."""
    monkeypatch.setattr(names, "CONTENT", frozenset())
    assert carriers(NOTHING) == ALL | {"repr"}


@pytest.mark.parametrize(("value", "mode"), [
    ("NO_CONTENT", Capture.NO_CONTENT), ("SPAN_ONLY", Capture.SPAN_ONLY),
    ("EVENT_ONLY", Capture.EVENT_ONLY), ("span_and_event", Capture.SPAN_AND_EVENT),
    ("true", Capture.EVENT_ONLY), ("TRUE", Capture.EVENT_ONLY), ("false", Capture.NO_CONTENT),
    ("", Capture.NO_CONTENT),
])
def test_the_modes_are_those_of_the_genai_utilities(value: str, mode: Capture) -> None:
    """And the older true, which put content on events."""
    assert capture_mode({CAPTURE_VARIABLE: value}) is mode
    assert capture_mode({}) is Capture.NO_CONTENT


def test_each_mode_says_where_content_may_be() -> None:
    """On spans, on events, on both, or nowhere."""
    told = {mode.name: (mode.on_spans, mode.on_events) for mode in Capture}
    assert told == {"NO_CONTENT": (False, False), "SPAN_ONLY": (True, False),
                    "EVENT_ONLY": (False, True), "SPAN_AND_EVENT": (True, True)}


@pytest.fixture
def warned() -> Iterator[list[str]]:
    """What the package's logger says."""
    said: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("otel_memoir")
    logger.addHandler(handler)
    yield said
    logger.removeHandler(handler)


def test_a_mode_that_is_none_is_said_once_and_nothing_is_captured(
    warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not with each event."""
    monkeypatch.setattr(content_module.complaints, "_said", {})
    content_module._mode.cache_clear()
    modes = {capture_mode({CAPTURE_VARIABLE: "everything"}) for _ in range(3)}
    assert modes == {Capture.NO_CONTENT}
    known = "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT"
    assert warned == [
        f"{CAPTURE_VARIABLE}='everything' is none of {known}: no content is captured"]


def test_a_newer_record_that_is_written_in_another_form_loses_its_content() -> None:
    """In its own form it goes on as it came: there was somebody who opted in."""
    event = full_event()
    newer = to_otlp(event, capture=EVERYTHING).replace(
        names.EVENT_RECORD_UPDATED.encode(), b"memoir.record.updatex")
    opaque = from_otlp(newer)
    assert isinstance(opaque, Opaque)
    assert to_otlp(opaque, capture=NOTHING) == newer
    for write in (to_otlp_json, to_cloud_event):
        assert CANARY not in json.dumps(write(opaque, capture=NOTHING))
        assert CANARY in json.dumps(write(opaque, capture=EVERYTHING))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@PATIENT
@given(JSON)
def test_equal_content_has_equal_hashes(value: Any) -> None:
    """Whatever the order in which its keys were set, and in every process with the key."""
    again = json.loads(json.dumps(value))
    if isinstance(again, dict):
        again = dict(reversed(again.items()))
    assert ContentHasher(KEY).hash(value) == ContentHasher(KEY.encode()).hash(again)
    assert content_size(value) == content_size(again)


@PATIENT
@given(JSON, JSON)
def test_other_content_has_other_hashes(one: Any, other: Any) -> None:
    """But for what JSON itself does not tell apart."""
    hasher = ContentHasher(KEY)
    assert (hasher.hash(one) == hasher.hash(other)) == (
        json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True))


def test_a_hash_names_its_key_and_tells_nothing_else() -> None:
    """Hashes of two keys are not taken for a change; users' ids are not taken for content."""
    one, other = ContentHasher(KEY), ContentHasher(KEY + "!")
    assert one.hash("tea") == GOLDEN
    told = [one.hash("tea"), one.user("tea"), other.hash("tea"), one.user('"tea"')]
    assert len(set(told)) == 4
    heads = [text.split(":")[:2] for text in told if text]
    assert heads[0] == heads[1] != heads[2]
    assert all(len(text.split(":")[2]) == 32 for text in told if text)


@pytest.mark.parametrize("key", [None, ""])
def test_without_a_key_there_is_no_hash_at_all(key: str | None) -> None:
    """A plain hash of a short fact is guessed in no time, and a random key compares nothing."""
    hasher = ContentHasher.from_environment({} if key is None else {KEY_VARIABLE: key})
    assert hasher.hash("tea") is None
    assert hasher.user("alice") is None


def test_the_key_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that processes agree without code."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    assert ContentHasher.from_environment().hash("tea") == ContentHasher(KEY).hash("tea")
    code = ("from otel_memoir.events import ContentHasher; "
            "print(ContentHasher.from_environment().hash('tea'))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ContentHasher(KEY).hash("tea")


def test_a_key_that_is_too_short_is_refused_and_from_the_environment_said(
    warned: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the remedy; the host goes on without hashes."""
    with pytest.raises(EventError, match="it has 3 bytes. Give at least 16 random bytes"):
        ContentHasher("key")
    monkeypatch.setattr(content_module.complaints, "_said", {})
    assert ContentHasher.from_environment({KEY_VARIABLE: "key"}).hash("tea") is None
    assert len(warned) == 1
    assert "openssl rand -hex 32" in warned[0]


@pytest.mark.parametrize("value", [object(), {1, 2}, b"tea", {(1,): 2}])
def test_content_that_is_not_json_has_no_hash(value: Any) -> None:
    """And the error does not quote it."""
    with pytest.raises(EventError, match="hash content"):
        ContentHasher(KEY).hash(value)


def test_frozen_content_hashes_like_the_content_that_was_given() -> None:
    """What an event keeps is the same content."""
    given_ = [{"content": {"deep": [1, 2]}, "id": "m"}]
    event = full_event(content={names.GEN_AI_MEMORY_RECORDS: given_})
    frozen = event.content[names.GEN_AI_MEMORY_RECORDS]
    assert ContentHasher(KEY).hash(frozen) == ContentHasher(KEY).hash(given_)
