"""The index of retained records: it answers what reading everything would, whatever happened.

``MEMOIR_RETRIEVAL_EXAMPLES=400`` makes it a long run.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

from otel_memoir.events import MemoryEvent, TraceRef
from otel_memoir.retrieval.query import Retrieval
from otel_memoir.retrieval.terms import describe, describe_slowly
from otel_memoir.spool import State, index_fill, index_find
from retrieval_world import NOON_NS, Writer, scanned, shown

EXAMPLES = int(os.environ.get("MEMOIR_RETRIEVAL_EXAMPLES", "40"))
STORES, RECORDS, AGENTS = ("s1", "s2"), ("r1", "r2", "r3"), ("a1", "a2")
STATES = [State.DELIVERED, State.REJECTED, State.QUARANTINED, State.EXPIRED, State.PENDING]


def some(values: tuple[str, ...]) -> st.SearchStrategy[str | None]:
    """One of them, or none."""
    return st.sampled_from((None, *values))


@st.composite
def memory_events(draw: st.DrawFn) -> MemoryEvent:
    """Events that share words with each other."""
    ids = draw(st.lists(st.sampled_from(RECORDS), max_size=3))
    common: dict[str, Any] = {
        "store_id": draw(some(STORES)), "agent_id": draw(some(AGENTS)),
        "agent_name": draw(some(AGENTS)), "conversation_id": draw(some(("c1", "c2"))),
        "trace": draw(st.sampled_from((None, TraceRef(1, 2), TraceRef(2**127, 3)))),
    }
    name = draw(st.sampled_from((
        "memoir.record.updated", "memoir.recall.completed", "memoir.record.superseded",
    )))
    if name == "memoir.recall.completed":
        extra = {"memoir.record.ids": ids, "gen_ai.memory.record.count": len(ids)}
        return MemoryEvent(name, attributes=extra, **common)
    record = draw(st.sampled_from(RECORDS))
    if name == "memoir.record.superseded":
        other = draw(st.sampled_from(RECORDS))
        extra = {"memoir.record.superseded_by": other}
        return MemoryEvent(name, record_id=record, attributes=extra, **common)
    return MemoryEvent(name, record_id=record, **common)


slot = st.integers(1, 2)
actions = st.one_of(
    st.tuples(st.just("append"), slot, memory_events(), st.integers(1, 3)),
    st.tuples(st.just("append"), slot, memory_events(), st.integers(1, 3)),
    st.tuples(st.just("settle"), slot, st.sampled_from(STATES), st.integers(1, 4)),
    st.tuples(st.just("prune"), slot, st.integers(0, 3), st.none()),
    st.tuples(st.just("begin"), slot, st.none(), st.none()),
    st.tuples(st.just("ask"), slot, st.none(), st.none()),
)
questions = st.fixed_dictionaries({}, optional={
    "event": st.lists(st.sampled_from(
        ("memoir.record.updated", "memoir.recall.completed", "no.such.event")), min_size=1),
    "store": st.lists(st.sampled_from(STORES), min_size=1),
    "record": st.lists(st.sampled_from((*RECORDS, "r9")), min_size=1),
    "agent": st.lists(st.sampled_from(AGENTS), min_size=1),
    "conversation": st.lists(st.sampled_from(("c1", "c2")), min_size=1),
    "trace": st.lists(st.sampled_from((f"{1:032x}", f"{2**127:032x}")), min_size=1),
    "state": st.lists(st.sampled_from([state.value for state in STATES]), min_size=1),
    "since": st.integers(NOON_NS, NOON_NS + 60), "until": st.integers(NOON_NS, NOON_NS + 60),
    "first_sequence": st.integers(0, 8), "last_sequence": st.integers(0, 12),
})


class World:
    """Two writers in one directory, and time that they share, so that times can be equal."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.writers = {number: Writer(directory, number) for number in (1, 2)}
        self._last = dict.fromkeys(self.writers, NOON_NS)
        self.retrieval = Retrieval(directory)

    def close(self) -> None:
        """Close the files."""
        self.retrieval.close()
        for each in self.writers.values():
            each.close()

    def do(self, action: tuple[Any, ...]) -> None:
        """Carry an action out."""
        what, number, first, second = action
        if what == "append":
            self._last[number] += second
            self.writers[number].append(first, self._last[number])
        elif what == "settle":
            self.writers[number].settle(first, second)
        elif what == "prune":
            self.writers[number].prune(first)
        elif what == "begin":
            self.writers[number].begin()
        else:
            self.retrieval.refresh()

    def answers(self, size: int, **asked: Any) -> list[Any]:
        """All pages of a question."""
        found, cursor, more = [], "", True
        while more:
            page = self.retrieval.page(limit=size, after=cursor, **asked)
            assert len(page) <= size and page.problems == ()
            found += shown(page)
            cursor, more = page.cursor, page.has_more
        return found


@contextlib.contextmanager
def world() -> Iterator[World]:
    """A world for one example."""
    with tempfile.TemporaryDirectory() as name, contextlib.closing(World(Path(name) / "s")) as made:
        yield made


@pytest.mark.timeout(3600 if EXAMPLES > 100 else 120)
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(actions, max_size=40), st.lists(questions, min_size=1, max_size=4),
       st.integers(1, 7), st.booleans())
def test_the_index_answers_what_reading_all_records_would(
    done: list[Any], asked: list[dict[str, Any]], size: int, newest_first: bool
) -> None:
    """After any appends, settlements and prunings, in pages of any size, in both directions."""
    check(done, asked, size, newest_first)


def check(done: list[Any], asked: list[dict[str, Any]], size: int, newest_first: bool) -> None:
    """Compare each answer with that of the plain reader."""
    with world() as it:
        for action in done:
            it.do(action)
        for question in ({}, *asked):
            expected = scanned([it.directory], newest_first=newest_first, **question)
            assert it.answers(size, newest_first=newest_first, **question) == expected
        with Retrieval(it.directory) as fresh:
            assert shown(fresh.page(limit=10**6)) == scanned([it.directory])


FEW = [("append", 1, MemoryEvent("memoir.record.updated", record_id="r1"), 1)] * 6
RECALL = ("append", 1, MemoryEvent("memoir.recall.completed", attributes={
    "memoir.record.ids": ("r1", "r2"), "gen_ai.memory.record.count": 2}), 1)


@pytest.mark.parametrize(("target", "name", "broken", "done", "asked"), [
    (index_fill, "unpack", lambda *_: b"", FEW, {"record": ["r1"]}),
    (index_find._Search, "_is_also", lambda *_: False, [RECALL], {"record": ["r2"]}),
    (index_find, "_in_order", lambda rows, question: rows, FEW, {}),
])
def test_an_index_with_one_thing_broken_is_seen_to_answer_wrongly(
    target: Any, name: str, broken: Any, done: list[Any], asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Negative controls of the comparison above."""
    check(done, [asked], 2, False)
    monkeypatch.setattr(target, name, broken)
    with pytest.raises(AssertionError):
        check(done, [asked], 2, False)


# -- what is read of a payload ---------------------------------------------------------


values = st.recursive(
    st.one_of(st.text(max_size=200), st.integers(-5, 2**63 - 1), st.floats(), st.binary()),
    lambda inner: st.lists(inner, max_size=4), max_leaves=6,
)
keys = st.sampled_from((
    "log.record.uid", "gen_ai.memory.store.id", "gen_ai.memory.record.id", "gen_ai.agent.id",
    "gen_ai.agent.name", "memoir.record.ids", "memoir.record.superseded_by", "other", "", "k" * 200,
))


def filled_in(target: Any, value: Any) -> None:
    """Put a value into an ``AnyValue``."""
    if isinstance(value, str):
        target.string_value = value
    elif isinstance(value, list):
        target.array_value.SetInParent()
        for each in value:
            filled_in(target.array_value.values.add(), each)
    elif isinstance(value, int):
        target.int_value = value
    elif isinstance(value, float):
        target.double_value = value
    else:
        target.bytes_value = value


@given(st.lists(st.tuples(keys, values), max_size=8), st.text(max_size=200), st.binary(max_size=16))
def test_the_quick_reader_of_payloads_says_what_protobufs_own_says(
    pairs: list[tuple[str, Any]], name: str, trace_id: bytes
) -> None:
    """Whatever is in a record, an attribute that is there twice included."""
    log = LogRecord(event_name=name, trace_id=trace_id)
    log.body.string_value = "\n\x0elog.record.uid\x12\x05\n\x03bad"
    for key, value in pairs:
        filled_in(log.attributes.add(key=key).value, value)
    payload = log.SerializeToString()
    assert describe(payload) == describe_slowly(payload)
    # The value before the key: nobody writes it so, but a reader has to take it.
    turned = b"\x32\x16\x12\x03\x0a\x01v\x0a\x0fgen_ai.agent.id"
    assert describe(payload + turned) == describe_slowly(payload + turned)
    assert describe(payload + turned).terms[3] == "v"


@given(st.binary(max_size=60))
def test_bytes_that_are_no_record_have_no_words_that_protobuf_would_not_find(data: bytes) -> None:
    """It never raises, and a found uid is one that protobuf finds, too."""
    found = describe(data)
    assert found.uid in ("", describe_slowly(data).uid)
