"""SIGKILL between an intention and its outcome: each is told of, none is invented.

MEMOIR_TEST_CHANGE_KILLS=1000 makes it a long run.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest

from host_programs.hosting import drain, hosted, program
from otel_memoir import Receipt
from otel_memoir.events import names
from otel_memoir.testing import ScriptedCollector

KILLS = int(os.environ.get("MEMOIR_TEST_CHANGE_KILLS", "40"))


@pytest.fixture
def collector() -> Iterator[ScriptedCollector]:
    with ScriptedCollector() as running:
        yield running


def killed(
    tmp_path: Path, collector: ScriptedCollector, kills: int, *how: str
) -> tuple[set[str], set[str]]:
    """Let children be killed in the middle of changes; return which began and which ended."""
    command = program("changes.py", str(kills), "7", *how)
    with hosted(command, tmp_path, collector.endpoint) as host:
        host.wait_told("done")
        host.end()
    told = defaultdict(set)
    for line in host.told:
        what, _, id_ = line.partition(" ")
        told[what].add(id_)
    return told["began"], told["ended"]


def events_by_change(collector: ScriptedCollector) -> dict[str, Counter[str]]:
    """The names of the events that arrived, by the change they are about; each uid once."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for record in collector.delivered:
        if (change := record.attributes.get(names.CHANGE_ID)) is not None:
            found[str(change)][str(record.uid)] = record.event_name
    return {change: Counter(uids.values()) for change, uids in found.items()}


@pytest.mark.timeout(120 + KILLS)
def test_each_change_that_began_has_an_outcome_or_is_told_to_be_unknown_once(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """Whatever was killed when: an audit finds each intention, and one answer to it."""
    began, ended = killed(tmp_path, collector, KILLS)
    drain(tmp_path / "spool", collector.endpoint)
    drain(tmp_path / "spool", collector.endpoint)  # what a drain tells itself
    found = events_by_change(collector)
    assert began <= found.keys()
    unknown = {change for change, said in found.items() if said[names.EVENT_CHANGE_UNKNOWN]}
    for change, said in found.items():
        answers = said[names.EVENT_RECORD_UPDATED] + said[names.EVENT_CHANGE_UNKNOWN]
        assert (said[names.EVENT_CHANGE_INTENDED], answers) == (1, 1), (change, said)
    assert not unknown & ended
    assert began - ended - unknown <= found.keys()  # killed between the commit and its telling
    assert unknown, "nobody was killed inside a change: the test shows nothing"
    print(f"{KILLS} kills, {len(found)} changes, {len(unknown)} unknown")


def test_where_intents_are_not_written_down_changes_have_no_answer(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """Negative control."""
    killed(tmp_path, collector, 12, "without")
    drain(tmp_path / "spool", collector.endpoint)
    found = events_by_change(collector).values()
    assert [said for said in found if set(said) == {names.EVENT_CHANGE_INTENDED}]


RECEIPT = """
import os, signal, sys
from otel_memoir import MemoryLog
print(MemoryLog(store_id="profile").created("alice"), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_receipt_is_good_after_its_process_was_killed(
    tmp_path: Path, collector: ScriptedCollector
) -> None:
    """Pending while nobody delivers; delivered once somebody else did."""
    with hosted([sys.executable, "-c", RECEIPT], tmp_path, "http://127.0.0.1:9") as host:
        assert host.end() == -signal.SIGKILL
    receipt = Receipt.parse(host.told[0], spool_dir=host.spool)
    assert receipt.state() == "pending"
    drain(host.spool, collector.endpoint)
    assert receipt.state() == "delivered"
    assert receipt.uid in {record.uid for record in collector.delivered}
