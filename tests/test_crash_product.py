"""Power cuts, at every point, under the whole product: no promised record is missing."""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from crash import CrashImages, Target, Trace, Verdict, judge, record, table
from otel_memoir.spool.directory import slots
from spool_helpers import names_in, select

NAME = re.compile(rb"<([\w.]+)>")
WORKLOAD = Path(__file__).with_name("crash") / "workloads" / "product.py"


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    """Where images are written: memory where there is some, they are many."""
    memory = Path("/dev/shm")
    parent = memory if os.access(memory, os.W_OK) else tmp_path
    scratch = Path(tempfile.mkdtemp(prefix="images-", dir=parent))
    yield Target(scratch)
    shutil.rmtree(scratch)


def traced(directory: Path, synchronous: str, records: int, *mode: str) -> Trace:
    """One run of the product, which must itself succeed."""
    directory.mkdir()
    command = [sys.executable, str(WORKLOAD), str(directory), synchronous, str(records), *mode]
    trace = record(command, directory)
    assert trace.completed.returncode == 0, trace.completed.stderr.decode()
    assert len(trace.acked) == records + (1 if mode else 7), trace.completed.stderr.decode()
    return trace


def judged(directory: Path, target: Target, synchronous: str, **size: int) -> Verdict:
    """The verdict over about ``images`` images of a run with ``records`` records."""
    trace = traced(directory, synchronous, size["records"])
    images = CrashImages(trace, rounds=size.get("rounds", 1)).sample(size.get("every", 1))
    return judge(synchronous, images, names_in, target)


def test_no_promised_record_is_missing_after_any_power_cut_and_weaker_settings_lose_some(
    tmp_path: Path, target: Target
) -> None:
    """FULL keeps all promises in every image; NORMAL and OFF do not, so the images tell."""
    verdicts = {
        level: judged(tmp_path / level, target, level, records=30, every=every)
        for level, every in (("FULL", 1), ("NORMAL", 6), ("OFF", 6))
    }
    report = table(list(verdicts.values()))
    print(report)
    assert verdicts["FULL"].holds, f"{report}\n{verdicts['FULL'].examples}"
    assert verdicts["FULL"].promising > 300, report
    assert verdicts["NORMAL"].missing > 20, report
    assert verdicts["OFF"].missing + verdicts["OFF"].corrupt > 20, report


def sent_names_in(directory: Path) -> set[str]:
    """The names of records that the ledger knows were sent."""
    found: set[str] = set()
    for slot in slots(directory):
        with closing(sqlite3.connect(slot.database)) as connection:
            found |= sent_names(connection)
    return found


def sent_names(connection: sqlite3.Connection) -> set[str]:
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'record'").fetchone():
        return set()
    rows = connection.execute(
        "SELECT r.payload FROM record r JOIN batch b ON r.id BETWEEN b.first_id AND b.last_id "
        "WHERE b.attempts > 0"
    )
    return {found.group(1).decode() for (payload,) in rows
            if (found := NAME.search(payload)) is not None}


def test_what_a_destination_got_is_known_to_have_been_sent_after_any_power_cut(
    tmp_path: Path, target: Target
) -> None:
    """In ``process`` too: rows, batch and attempt are fsynced before the request leaves."""
    verdicts = [
        judge(
            f"sent, {level}",
            CrashImages(traced(tmp_path / level, level, 30, "sending"), rounds=1).sample(every),
            sent_names_in, target,
        )
        for level, every in (("FULL", 1), ("NORMAL", 3))
    ]
    report = table(verdicts)
    print(report)
    assert verdicts[0].holds, f"{report}\n{verdicts[0].examples}"
    assert verdicts[0].promising > 20, report
    assert verdicts[1].missing > 5, report


def test_a_directory_that_was_made_for_the_first_record_survives_a_power_cut(
    tmp_path: Path, target: Target
) -> None:
    """Its name in its parent, and the parent's in its own, are fsynced by us."""
    trace = traced(tmp_path / "spool", "FULL", 6, "nested")
    verdict = judge(
        "nested", CrashImages(trace, rounds=1),
        lambda directory: names_in(directory / "deep" / "deeper"), target,
    )
    assert verdict.holds, verdict


def test_the_run_settles_checkpoints_and_adopts(tmp_path: Path) -> None:
    """The images come from a run in which all that can move a record did move it."""
    trace = traced(tmp_path / "spool", "FULL", 30)
    written = {getattr(op, "path", "") for op in trace.operations}
    for name in ("memoir-0001.db", "memoir-0002.db"):
        assert {name, f"{name}-wal"} <= written
        assert select(tmp_path / "spool" / name, "SELECT DISTINCT state FROM batch") == [
            ("delivered",)
        ]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("level", ["FULL", "NORMAL", "OFF"])
def test_a_long_run_agrees_with_the_short_one(tmp_path: Path, target: Target, level: str) -> None:
    """Many more records, checkpoints and images."""
    verdict = judged(tmp_path / "spool", target, level, records=240, rounds=3)
    print(table([verdict]))
    assert verdict.images > 5_000
    assert verdict.holds == (level == "FULL"), verdict.examples
