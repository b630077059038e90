"""Disks that fail and disks that are full, under the whole product."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any, NoReturn

import pytest

from crash import Fault, count_calls, run_with_fault, sweep
from otel_memoir.delivery import Courier
from otel_memoir.delivery.encoding import join_envelope
from otel_memoir.diagnostics import complaints
from otel_memoir.errors import MemoirError
from otel_memoir.sdk.gap_event import gap_draft
from otel_memoir.sdk.unknown_event import unknown_draft
from otel_memoir.spool import Spool, Ticket, file
from otel_memoir.spool.connection import StorageError
from otel_memoir.spool.home import Home
from spool_helpers import (
    Destination,
    all_names_in,
    courier_of,
    disk_full,
    draft,
    io_error,
    is_refused,
    make_faulty,
    names_in,
    open_spool,
    problems_of,
    select,
    store,
    totals_of,
)

WORKLOAD = Path(__file__).with_name("crash") / "workloads" / "product.py"
DENSITY = int(os.environ.get("MEMOIR_FAULT_DENSITY", "3"))
ERRORS = {
    "fdatasync": ("EIO",),
    "fsync": ("EIO",),
    "pwrite64": ("EIO", "ENOSPC"),
    "openat": ("EMFILE", "EIO"),
    "ftruncate": ("EIO",),
    "unlink": ("EIO",),
}
FILES = [
    f"memoir-000{number}.db{ending}"
    for number in range(1, 7) for ending in ("", "-wal", "-journal")
]
RECORDS = 12
DYING_RECORDS = 6


def command(directory: Path, mode: str = "alone") -> list[str]:
    """A short run of the product in one process."""
    return [sys.executable, str(WORKLOAD), str(directory), "FULL", str(RECORDS), mode]


def fresh(directory: Path, left: Path | None = None) -> list[Path]:
    """Empty a directory, or fill it with what a dead process left; it keeps its path."""
    shutil.rmtree(directory, ignore_errors=True)
    if left is None:
        directory.mkdir()
    else:
        shutil.copytree(left, directory)
    return [directory, *(directory / name for name in FILES)]


def leave_records(directory: Path) -> set[str]:
    """Let a process die with records on disk; return what it promised."""
    done = subprocess.run(
        command(directory, "dying"), capture_output=True, text=True, timeout=40, check=True
    )
    return set(done.stdout.replace("ACK ", "").split())


def harm(
    directory: Path,
    fault: Fault,
    *,
    left: Path | None = None,
    owed: Set[str] = frozenset(),
    mode: str = "alone",
) -> list[str]:
    """What a run under a fault shows to be wrong.

    Args:
        left: What a dead process left, for this run to take over.

        owed: What that process promised.
    """
    run = run_with_fault(command(directory, mode), fault, fresh(directory, left), timeout=40)
    wrong = []
    error = run.completed.stderr.decode()
    if run.completed.returncode != 0 or "Traceback" in error:
        wrong.append(f"{fault}: status {run.completed.returncode}: {error[-600:]}")
    counts = Counter(all_names_in(directory))
    if missing := sorted((run.acked | owed) - set(counts)):
        wrong.append(f"{fault}: {len(missing)} promised records are missing, such as {missing[0]}")
    if double := sorted(name for name, times in counts.items() if times > 1):
        wrong.append(f"{fault}: stored twice: {double[:3]}")
    wrong += [f"{fault}: {problem}" for problem in problems_of(directory)]
    return wrong


def faults_of(counts: Mapping[str, int], *, parts: int) -> list[Fault]:
    """About ``parts`` faults for each call and error, once and from then on."""
    return [
        fault
        for call, errors in ERRORS.items()
        for fault in sweep(
            {call: counts[call]}, errors={call: errors}, every=-(-counts[call] // parts)
        )
    ]


@pytest.mark.timeout(1200)
def test_no_failing_write_or_sync_loses_a_promised_record_or_reaches_the_application(
    tmp_path: Path,
) -> None:
    """Each k-th call fails, once or from then on; what was promised is in some file, once."""
    directory = tmp_path / "spool"
    faults = faults_of(count_calls(command(directory), fresh(directory)), parts=DENSITY)
    assert len(faults) > 8 * DENSITY
    assert [found for fault in faults for found in harm(directory, fault)] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_no_failing_write_or_sync_during_recovery_loses_what_a_dead_process_left(
    tmp_path: Path,
) -> None:
    """A second fault on top of the first: the disk fails while a dead process's file is taken."""
    directory, left = tmp_path / "spool", tmp_path / "left"
    owed = leave_records(left)
    assert len(owed) == DYING_RECORDS
    counts = count_calls(command(directory), fresh(directory, left))
    faults = faults_of(counts, parts=max(2, DENSITY // 2))
    wrong = [
        found for fault in faults for found in harm(directory, fault, left=left, owed=owed)
    ]
    assert len(faults) > 8
    assert wrong == []


def test_a_record_that_is_gone_from_its_file_is_called_missing(tmp_path: Path) -> None:
    """The control of the sweeps: promises that are given without asking the ticket."""
    directory = tmp_path / "spool"
    always = Fault("fdatasync", "EIO", 1, sticky=True)
    assert harm(directory, always) == []
    assert "promised records are missing" in str(harm(directory, always, mode="believing"))


def test_after_a_failed_fsync_the_records_are_in_a_new_file_and_counted_once(
    tmp_path: Path,
) -> None:
    """Failover: the torn file is left, what no fsync covered is stored again elsewhere."""
    directory = tmp_path / "spool"
    calls = count_calls(command(directory), fresh(directory))["fdatasync"]
    for number in range(calls * 2 // 3, calls):  # a checkpoint's says nothing of a commit
        fault = Fault("fdatasync", "EIO", number)
        run = run_with_fault(command(directory), fault, fresh(directory), timeout=40)
        assert run.injected >= 1
        assert len(run.acked) == RECORDS + 1
        if (directory / "memoir-0002.db").exists():
            break
    assert (directory / "memoir-0002.db").exists()
    names = all_names_in(directory)
    assert Counter(names) == Counter(run.acked)
    totals = totals_of(directory)
    assert (totals.accepted - totals.refused.get("broken", 0), totals.unaccounted) == (
        len([*names, *gap_events(directory)]), 0
    )
    assert problems_of(directory) == []


def gap_events(directory: Path) -> list[bytes]:
    """Stored records that are events about a gap, not the workload's own."""
    files = [path for path in directory.iterdir() if path.suffix == ".db"]
    rows = [row[0] for path in files for row in select(path, "SELECT payload FROM record")]
    return [payload for payload in rows if b"memoir.delivery.gap" in payload]


@pytest.mark.timeout(60)
def test_a_disk_that_fails_again_while_a_new_file_is_begun_does_not_stop_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second failure strikes in the new file's first commit."""
    spool = open_spool(tmp_path, emit_timeout_s=2.0)
    store(spool, "first")
    plain = Home._begin_life
    strikes = [io_error()]

    def begin(self: Home, file: object) -> None:
        if strikes:
            raise strikes.pop()
        plain(self, file)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(Home, "_begin_life", begin)
    make_faulty(spool, "COMMIT", io_error())
    found = spool.append(draft("second"))
    assert not strikes
    assert not (isinstance(found, Ticket) and found.stored) or "second" in all_names_in(tmp_path)
    third = spool.append(draft("third"))
    assert isinstance(third, Ticket)
    assert third.stored, "the spool never recovers"
    spool.close(5.0)


class Asking(logging.Handler):
    """A handler of the application that waits for the spool while it handles a complaint."""

    def __init__(self, spool: Spool) -> None:
        super().__init__()
        self._spool = spool
        self.answers: list[bool] = []

    def emit(self, record: logging.LogRecord) -> None:
        asking = threading.Thread(
            target=lambda: self.answers.append(self._spool.flush(1.0)), name="asking"
        )
        asking.start()
        asking.join(5.0)


@pytest.mark.parametrize("failing", ["disk full", "I/O error"])
def test_nothing_is_said_while_the_commit_lock_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """celery makes log records of stderr: its handler would wait for our commit, and we for it."""
    monkeypatch.setattr(complaints, "_said", {})
    spool = open_spool(tmp_path)
    store(spool, "first")
    handler = Asking(spool)
    logger = logging.getLogger("otel_memoir")
    logger.addHandler(handler)
    try:
        make_faulty(spool, "COMMIT", disk_full() if failing == "disk full" else io_error())
        spool.append(draft("second"))
    finally:
        logger.removeHandler(handler)
    assert handler.answers
    assert all(handler.answers)
    spool.close(5.0)


# -- a full disk --------------------------------------------------------------


def test_a_checkpoint_that_fails_in_process_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SQLite's own would ignore it; the next fsync succeeds without the pages that are gone."""
    monkeypatch.setattr(file, "_LOG_BYTES_MAX", 0)
    spool = open_spool(tmp_path, durability="process", fsync_interval_s=60.0)
    store(spool, "first")
    assert spool.file is not None
    assert spool.file.connection.execute("PRAGMA wal_autocheckpoint").fetchone() == (0,)
    make_faulty(spool, "PRAGMA wal_checkpoint", io_error())
    spool.flush(5.0)
    assert store(spool, "second").stored
    assert spool.file.name == "memoir-0002"
    spool.close(5.0)
    assert names_in(tmp_path) == {"first", "second"}
    assert problems_of(tmp_path) == []


def test_the_log_of_process_stays_short(tmp_path: Path) -> None:
    """Nobody but us checkpoints it."""
    spool = open_spool(tmp_path, durability="process", spool_bytes_max=2**30)
    for number in range(1500):
        store(spool, f"r{number}", size=30_000, severity=9)
    longest = (tmp_path / "memoir-0001.db-wal").stat().st_size
    spool.close(5.0)
    assert longest < 16 * 2**20


def over_quota(*_: object, **__: object) -> NoReturn:
    """What the system says once a user's quota is used up."""
    raise OSError(errno.EDQUOT, "Disk quota exceeded")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="run it on Python 3.11 or newer")
@pytest.mark.parametrize("is_quota", [True, False])
def test_a_quota_that_is_used_up_is_a_full_disk_and_not_a_broken_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_quota: bool
) -> None:
    """SQLite calls it an I/O error: the file was left, and the process went on in memory."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    failed_write = io_error()
    failed_write.sqlite_errorname = "SQLITE_IOERR_WRITE"
    make_faulty(spool, "COMMIT", failed_write)
    with monkeypatch.context() as patch:
        if is_quota:
            patch.setattr(tempfile, "TemporaryFile", over_quota)
        found = spool.append(draft("second"))
    assert is_refused(found, "disk_full") is is_quota
    assert spool.file is not None
    assert spool.file.name == ("memoir-0001" if is_quota else "memoir-0002")
    assert store(spool, "third").stored
    spool.close(5.0)
    assert problems_of(tmp_path) == []


def test_a_quota_that_leaves_no_room_for_the_ballast_closes_the_door(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk has room, it says; records would fill what settling needs."""
    spool = open_spool(tmp_path)
    store(spool, "first")
    spool._writer.stop(5.0)
    upkeep = spool._home.upkeep
    assert upkeep is not None
    make_faulty(spool, "COMMIT", disk_full())
    assert is_refused(spool.append(draft("second")), "disk_full")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", over_quota)
        upkeep.refresh()
        assert is_refused(spool.append(draft("third")), "disk_full")
    upkeep.refresh()
    assert store(spool, "fourth").stored
    spool.close(5.0)
    assert totals_of(tmp_path).refused == {"disk_full": 2}
    assert problems_of(tmp_path) == []


def test_no_file_is_made_where_the_process_stands_to_ask_for_a_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A failed write inside a chore was asked about in the working directory."""
    asked: list[Path] = []

    def ask(**given: Any) -> NoReturn:
        asked.append(given["dir"])
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(tempfile, "TemporaryFile", ask)
    spool = open_spool(tmp_path)
    store(spool, "first")
    failed_write = io_error()
    failed_write.sqlite_errorname = "SQLITE_IOERR_WRITE"

    def fail(_: object) -> None:
        raise failed_write

    with contextlib.suppress(Exception):
        spool.perform(fail)
    spool.close(5.0)
    assert Path() not in asked


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 6 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system; run the tests as root for this one")
    point = tmp_path / "small"
    point.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(point)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"run it where tmpfs can be mounted: {done.stderr.strip()}")
    yield point
    subprocess.run(["umount", str(point)], check=True)


@pytest.mark.timeout(60)
def test_a_full_disk_refuses_counts_drains_and_tells(small_disk: Path) -> None:
    """Emitted = stored + refused; delivery frees the room; the loss arrives as an event."""
    spool = open_spool(
        small_disk / "spool", linger_s=0.0, backoff_initial_s=0.02, backoff_max_s=0.05,
        retain_s=0.0, request_records_max=16,
    )
    gate = Destination(is_open=False)
    courier = courier_of(spool, gate)
    found = []
    for number in range(800):
        plain = draft(f"r{number}", size=4000)
        found.append(spool.append(plain._replace(envelope=join_envelope(b"", b""))))
        if sum(is_refused(one, "disk_full") for one in found) >= 5:
            break
    refused = [one for one in found if not isinstance(one, Ticket)]
    assert len(refused) >= 5, "the disk never became full"
    assert all(is_refused(one, "disk_full") for one in refused)
    gate.is_open = True
    is_drained = courier.wait_drained(30.0)
    courier.close(5.0)
    spool.close(5.0)
    totals = totals_of(small_disk / "spool")
    assert is_drained, totals
    events = gate.copies(b"memoir.delivery.gap")
    assert dict(totals.refused) == {"disk_full": len(refused)}
    assert totals.accepted == len(found) - len(refused) + events
    assert (totals.delivered, totals.unaccounted) == (totals.accepted, 0)
    assert gate.copies(b"refused:disk_full")
    assert problems_of(small_disk / "spool") == []


def fill_up(directory: Path) -> Path:
    """Leave no room on a file system; return the file to remove."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(65536))
        with contextlib.suppress(OSError):
            while True:
                file.write(b"x")
    return filler


def test_a_process_that_starts_on_a_full_disk_refuses_until_there_is_room(
    small_disk: Path,
) -> None:
    """It does not go on in memory, which would die with it; the refusals are counted on disk."""
    filler = fill_up(small_disk)
    spool = open_spool(small_disk / "spool")
    assert [is_refused(spool.append(draft(f"r{n}")), "disk_full") for n in range(3)] == [True] * 3
    assert spool.file is None
    filler.unlink()
    spool._home._next_try_s = float("-inf")  # instead of a wait
    assert store(spool, "after").stored
    spool.close(5.0)
    assert names_in(small_disk / "spool") == {"after"}
    assert dict(totals_of(small_disk / "spool").refused) == {"disk_full": 3}
    assert problems_of(small_disk / "spool") == []


# -- files that are left while others use them --------------------------------


@pytest.mark.timeout(60)
def test_leaving_a_file_while_another_thread_reads_it_does_not_crash_the_interpreter(
    tmp_path: Path,
) -> None:
    """Closing a connection under a thread that steps a statement of it is a segmentation fault."""
    script = (
        "import pathlib, sys, threading\n"
        "from spool_helpers import draft, io_error, make_faulty, open_spool, store\n"
        "spool = open_spool(pathlib.Path(sys.argv[1]))\n"
        "for number in range(400):\n"
        "    store(spool, f'r{number}', size=500)\n"
        "done, begun = threading.Event(), threading.Event()\n"
        "def read():\n"
        "    while not done.is_set():\n"
        "        try:\n"
        "            spool.file.rows(1, 400)\n"
        "            begun.set()\n"
        "        except Exception:\n"
        "            pass\n"
        "thread = threading.Thread(target=read, name='reader')\n"
        "thread.start()\n"
        "for number in range(25):\n"
        "    begun.clear()\n"
        "    begun.wait(0.05)\n"
        "    make_faulty(spool, 'COMMIT', io_error())\n"
        "    spool.append(draft(f'after{number}'))\n"
        "    for more in range(200):\n"
        "        store(spool, f'm{number}.{more}', size=500)\n"
        "done.set()\n"
        "thread.join(10)\n"
        "spool.close(5.0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "spool")], capture_output=True, text=True,
        timeout=50, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.returncode == 0, (done.returncode, done.stderr[-2000:])


def test_records_that_a_failed_fsync_left_in_both_files_are_delivered_and_counted_once(
    tmp_path: Path,
) -> None:
    """In ``process`` the old file has the rows too; they were stored again in the new one."""
    spool = open_spool(
        tmp_path, durability="process", fsync_interval_s=60.0, linger_s=0.0,
        adoption_interval_s=0.05,
    )
    gate = Destination()
    courier = Courier(
        spool, gate, spool.settings, make_gap_draft=gap_draft, make_orphan_draft=unknown_draft
    )
    for name in ("a", "b"):
        assert isinstance(
            spool.append(draft(name)._replace(envelope=join_envelope(b"", b""))), Ticket
        )
    make_faulty(spool, "COMMIT", io_error())
    spool.flush(2.0)
    assert spool.file is not None
    assert spool.file.name == "memoir-0002"
    assert select(tmp_path / "memoir-0002.db", "SELECT count(*) FROM record") == [(2,)]
    spool.on_accept = courier.wake
    assert isinstance(spool.append(draft("c")._replace(envelope=join_envelope(b"", b""))), Ticket)
    assert courier.wait_drained(10.0)
    courier.close(5.0)
    spool.close(5.0)
    sent = b"".join(gate.requests)
    assert {name: sent.count(b"<%s>" % name) for name in (b"a", b"b", b"c")} == {
        b"a": 1, b"b": 1, b"c": 1
    }
    totals = totals_of(tmp_path)
    assert (totals.accepted, totals.delivered) == (3, 3)


def test_a_batch_planned_before_a_failover_is_not_written_into_the_new_file(
    tmp_path: Path,
) -> None:
    """Its row ids mean other records there, which would count as sent and never be."""
    spool = open_spool(tmp_path, linger_s=0.0, adoption_interval_s=0.05)
    gate = Destination()
    courier = Courier(
        spool, gate, spool.settings, make_gap_draft=gap_draft, make_orphan_draft=unknown_draft
    )

    def put(name: str) -> None:
        found = spool.append(draft(name)._replace(envelope=join_envelope(b"", b"")))
        assert isinstance(found, Ticket)

    for number in range(3):
        put(f"old{number}")
    source = next(iter(courier._planner.sources()))
    batch = courier._planner.next_batch(source, skip=None, hurry=True)
    assert batch is not None
    assert batch.records == 3
    make_faulty(spool, "COMMIT", io_error())
    for number in range(3):
        put(f"new{number}")
    assert spool.file is not source.file
    with pytest.raises((MemoirError, StorageError)):
        courier._dispatcher._note_attempt(source, batch)
    assert select(tmp_path / "memoir-0002.db", "SELECT * FROM batch") == []
    spool.on_accept = courier.wake
    courier.wake()
    assert courier.wait_drained(10.0)
    courier.close(5.0)
    spool.close(5.0)
    sent = b"".join(gate.requests)
    assert [n for n in range(3) if b"<new%d>" % n not in sent or b"<old%d>" % n not in sent] == []
    assert problems_of(tmp_path) == []
