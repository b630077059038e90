"""The vocabulary: declared once, generated, and true of what is emitted."""

from __future__ import annotations

import ast
import copy
import importlib
import re
import sys
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from opentelemetry._logs import LogRecord

from events.shape import problems
from otel_memoir.delivery import encoding, repair
from otel_memoir.events import MemoryEvent, from_otlp, names, to_log_record, undeclared
from otel_memoir.events.model import FIELDS
from otel_memoir.events.sentence import sentence
from otel_memoir.events.tables import EVENTS
from otel_memoir.sdk import gap_event
from otel_memoir.spool import Stream
from otel_memoir.spool.ledger import Gap

yaml = pytest.importorskip("yaml", reason="needs PyYAML: install the development tools")

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "otel_memoir"
DESIGNED = """
record.{created,updated,deleted,superseded,expired,moved,rejected,read,promoted,erased}
change.{intended,unknown} recall.{completed} context.{injected} extraction.{completed}
consolidation.{completed} reflection.{started,completed,failed,skipped} write.{conflict}
store.{created,deleted,cleared} lock.{contended,timeout,lost,deadlock} delivery.{gap}
health.{changed}
"""
OPS = ("memoir.lock.", "memoir.delivery.", "memoir.health.")
GAP = Gap(1, Stream("9f86", 1), "evicted", 12, 100, 111, False, "too old", 1_700_000_000 * 10**9)


@pytest.fixture(scope="module")
def tool() -> Any:
    """tools/vocabulary.py."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        return importlib.import_module("vocabulary")
    finally:
        sys.path.pop(0)


def test_what_is_generated_from_the_registry_is_up_to_date(tool: Any) -> None:
    """`python tools/vocabulary.py` has been run."""
    for path, text in tool.generated(tool.Vocabulary()).items():
        assert path.read_text() == text, path


def test_a_name_that_is_new_in_the_registry_shows_in_all_that_is_generated(tool: Any) -> None:
    """Negative control: the comparison above sees a change."""
    vocabulary = tool.Vocabulary()
    new = copy.deepcopy(vocabulary.events["memoir.record.read"])
    vocabulary.events["memoir.record.seen"] = {**new, "name": "memoir.record.seen"}
    for path, text in tool.generated(vocabulary).items():
        assert "memoir.record.seen" in text
        assert "memoir.record.seen" not in path.read_text()


def test_the_registry_has_the_shape_of_definition_2(tool: Any) -> None:
    """As far as hand-written rules can tell."""
    vocabulary = tool.Vocabulary()
    assert problems(vocabulary.files, vocabulary.manifest) == []


def _spoil_format(files: Any) -> None:
    files["events"]["file_format"] = "definition/1"


def _spoil_reference(files: Any) -> None:
    files["events"]["events"][0]["attributes"].append({"ref": "memoir.unheard_of"})


def _spoil_level(files: Any) -> None:
    files["events"]["events"][0]["attributes"][-1]["requirement_level"] = "nice_to_have"


def _spoil_group(files: Any) -> None:
    files["ops"]["events"][0]["attributes"].append({"ref_group": "memoir.stamp"})


def _spoil_type(files: Any) -> None:
    files["attributes"]["attributes"][0]["type"] = "integer"


def _spoil_example(files: Any) -> None:
    files["attributes"]["attributes"][0]["examples"] = ["1"]


def _spoil_name(files: Any) -> None:
    files["events"]["events"].append(files["events"]["events"][0])


def _spoil_key(files: Any) -> None:
    files["events"]["events"][0]["severity"] = 9


@pytest.mark.parametrize("spoil", [
    _spoil_format, _spoil_reference, _spoil_level, _spoil_group, _spoil_type, _spoil_example,
    _spoil_name, _spoil_key,
])
def test_the_rules_see_what_is_wrong_with_a_registry(
    tool: Any, spoil: Callable[[Any], None]
) -> None:
    """Negative controls."""
    vocabulary = tool.Vocabulary()
    files = copy.deepcopy(vocabulary.files)
    spoil(files)
    assert problems(files, vocabulary.manifest) != []


def test_the_registry_comes_with_the_package() -> None:
    """So that others can check their telemetry against it."""
    registry = resources.files("otel_memoir.events") / "registry"
    assert {"manifest.yaml", "attributes.yaml", "events.yaml"} <= {
        file.name for file in registry.iterdir()}


def test_every_event_of_the_design_is_declared_and_no_other() -> None:
    """The list is that of the design."""
    groups = re.findall(r"(\w+)\.{([^}]+)}", DESIGNED)
    designed = {f"memoir.{group}.{name}" for group, listed in groups for name in listed.split(",")}
    assert designed == EVENTS.keys()


def test_events_about_ourselves_have_a_scope_of_their_own() -> None:
    """So that an application can route them apart."""
    for name, kind in EVENTS.items():
        expected = gap_event.OPS_SCOPE if name.startswith(OPS) else "otel_memoir"
        assert kind.scope == expected, name


def test_no_new_name_borrows_a_namespace_of_opentelemetry(tool: Any) -> None:
    """Foreign names are declared in a file of their own."""
    own = {item["key"] for item in tool.Vocabulary().files["attributes"]["attributes"]}
    assert all(name.startswith("memoir.") for name in own | EVENTS.keys())


def test_every_field_of_an_event_is_an_attribute_of_every_event() -> None:
    """And every attribute of every event is a field, or set by the encoder."""
    set_by_the_encoder = {encoding.REPAIRED, repair.UNREADABLE}
    assert set(FIELDS.values()) == (names.STAMP | names.ENVELOPE) - set_by_the_encoder
    assert set(FIELDS) < set(MemoryEvent.__dataclass_fields__)


def test_bodies_and_requirements_ask_only_for_what_their_event_may_carry() -> None:
    """And never for content."""
    for name, kind in EVENTS.items():
        asked = {*kind.required, *kind.either}
        asked |= set(re.findall(r"[{\[]([a-z_.]+)[}\]]", str(kind.sentence)))
        assert asked <= kind.attributes | names.ENVELOPE, name
        assert not asked & names.CONTENT, name


def test_the_stamps_have_the_names_that_the_encoder_gives_them() -> None:
    """Both sides write them down."""
    assert names.STAMP - {names.SCHEMA_VERSION} == {
        encoding.UID, encoding.STREAM_ID, encoding.STREAM_EPOCH, encoding.SEQUENCE,
        encoding.CLOCK_ERROR_BOUND, encoding.CLOCK_STATUS, encoding.REPAIRED, repair.UNREADABLE,
    }


@pytest.mark.parametrize("gap", [
    GAP, GAP._replace(at_most=True, first_sequence=None, last_sequence=None, message=""),
])
def test_the_gap_event_of_the_sdk_is_the_one_that_is_declared(gap: Gap) -> None:
    """Name, attributes, severity and even the sentence."""
    event = from_otlp(gap_event.gap_draft(gap, None).payload)
    assert isinstance(event, MemoryEvent)
    assert undeclared(event) == ()
    assert event.name == gap_event.GAP_EVENT == names.EVENT_DELIVERY_GAP
    assert event.severity == event.kind.severity
    assert event.body == gap_event._sentence(gap)
    assert event.time_unix_ns == gap.noticed_unix_ns


def string_literals(path: Path) -> set[str]:
    """Every text constant of a module."""
    return {node.value for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_name_of_ours_in_the_source_is_declared() -> None:
    """Whoever writes `memoir.something` declares it; metrics and the demo are no events."""
    declared = EVENTS.keys() | string_set()
    elsewhere = {*SOURCE.rglob("*metrics.py"), *(SOURCE / "cli").rglob("demo*.py")}
    for path in sorted({*SOURCE.rglob("*.py")} - elsewhere):
        used = {text for text in string_literals(path)
                if re.fullmatch(r"memoir(\.[a-z_]+)+", text)}
        assert used <= declared, path


def string_set() -> set[str]:
    """The names in `names`, whatever else is there."""
    return {value for value in vars(names).values() if isinstance(value, str)}


def test_what_is_not_declared_is_named() -> None:
    """The live check, and its negative control."""
    event = MemoryEvent(names.EVENT_RECORD_READ, record_id="r", attributes={
        "memoir.read.hitt": True, names.READ_HIT: True, names.RECALL_TOP_K: 3})
    assert undeclared(event) == ("memoir.read.hitt", "memoir.recall.top_k")
    assert undeclared(to_log_record(event)) == undeclared(event)
    assert undeclared(LogRecord(event_name="memoir.record.red")) == ("memoir.record.red",)
    assert undeclared(MemoryEvent(names.EVENT_RECORD_READ, record_id="r")) == ()


def test_every_kind_has_a_sentence_of_its_own() -> None:
    """With nothing but what it requires."""
    said = set()
    for name, kind in EVENTS.items():
        attributes = dict.fromkeys((*kind.required, *kind.either[:1]), "it")
        text = sentence(kind.sentence, attributes)
        assert len(text) >= len("deadlock it"), name
        assert not re.search(r"[{}\[\]]", text), name
        said.add(text)
    assert len(said) == len(EVENTS)
