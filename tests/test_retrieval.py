"""What the local spools still hold, asked of real files: whatever became of file and record."""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from otel_memoir.errors import SpoolError
from otel_memoir.events import MemoryEvent, Opaque, to_log_record
from otel_memoir.retrieval.follow import follow
from otel_memoir.retrieval.query import Retrieval, events, history
from otel_memoir.spool import State, index_fill
from otel_memoir.spool.directory import Slot, slots, try_lock
from otel_memoir.spool.index import Question
from otel_memoir.spool.index_file import LOCK_NAME, NAME, IndexFile
from otel_memoir.spool.recovery import open_held
from otel_memoir.testing import Answer, RecordedRequest, ScriptedCollector
from retrieval_world import NOON_NS, Writer, scanned, shown, writer
from socket_programs.wiring import Agent, agent
from spool_helpers import io_error, make_faulty, problems_of

NOWHERE = "http://127.0.0.1:9"
TIMEOUT_S = 20.0
UPDATED = MemoryEvent("memoir.record.updated", record_id="r1", store_id="s1")


def emit(it: Agent, *records: str, **given: Any) -> None:
    """Emit an event for each memory record."""
    for record in records:
        event = MemoryEvent("memoir.record.updated", record_id=record, **given)
        it.logger.emit(to_log_record(event))


def told(directory: Path, **asked: Any) -> list[tuple[str, str]]:
    """The memory record and the state of each event."""
    page = events(directory, limit=1000, **asked)
    assert page.problems == ()
    return [(event.event.record_id, event.state.value) for event in page
            if isinstance(event.event, MemoryEvent) and event.event.record_id]


# -- what became of records -------------------------------------------------------


def test_delivered_and_waiting_records_are_told_with_their_stamps(tmp_path: Path) -> None:
    """Events as events, what is none of ours as it was read, each with its state."""
    with ScriptedCollector() as receiver, agent(tmp_path, receiver.endpoint) as it:
        emit(it, "r1")
        it.emit(1)
        assert it.processor.wait_delivered(TIMEOUT_S)
    with agent(tmp_path, NOWHERE, shutdown_timeout_s=0.0) as it:
        emit(it, "r2", store_id="s")
    one, other, last = events(tmp_path)
    assert isinstance(one.event, MemoryEvent) and one.event.record_id == "r1"
    assert isinstance(other.event, Opaque) and other.log.body.string_value == "hello"
    assert [e.state for e in (one, other, last)] == [State.DELIVERED, State.DELIVERED,
                                                     State.PENDING]
    assert one.stamp.uid == one.event.uid == one.place.uid
    assert (one.stamp.identity, one.stamp.unix_ns) == (
        (one.place.stream_id, 1, 1), one.place.unix_ns)
    assert other.read.resource.attributes[0].value.string_value == "agent"
    assert one.read.scope.name == "agent" and last.file == tmp_path / "memoir-0001.db"
    assert told(tmp_path, store="s") == [("r2", "pending")]
    assert "likes" not in repr(one) and "memoir.record" not in repr(one)


def test_what_became_of_a_record_is_asked_anew_each_time(tmp_path: Path) -> None:
    """The index knows no states: nothing of it changes when a batch is settled."""
    with writer(tmp_path) as it:
        it.append(UPDATED, NOON_NS)
        assert told(tmp_path) == [("r1", "pending")]
        before = (tmp_path / NAME).read_bytes()
        it.settle(State.PENDING)
        assert told(tmp_path) == [("r1", "pending")]
        it.file.connection.execute("UPDATE batch SET state = 'delivered'")
        assert told(tmp_path, state="delivered") == [("r1", "delivered")]
        assert told(tmp_path, state="pending") == []
        it.file.connection.execute("UPDATE batch SET rejected = records")
        assert told(tmp_path, state=State.REJECTED) == [("r1", "rejected")]
        assert (tmp_path / NAME).read_bytes() == before


def test_a_batch_that_was_split_and_a_poison_record_are_each_in_one_state(tmp_path: Path) -> None:
    """The halves count, not the batch that they were."""
    def answer(request: RecordedRequest) -> Answer:
        ids = [r.attributes.get("gen_ai.memory.record.id") for r in request.records]
        return Answer(status=400, message="no") if "poison" in ids else Answer()

    with ScriptedCollector(answer) as receiver, agent(tmp_path, receiver.endpoint) as it:
        emit(it, "a", "b", "poison", "c", "d")
        it.processor.wait_delivered(TIMEOUT_S)
    assert sorted(told(tmp_path)) == [
        ("a", "delivered"), ("b", "delivered"), ("c", "delivered"), ("d", "delivered"),
        ("poison", "quarantined"),
    ]
    assert told(tmp_path, state="quarantined") == [("poison", "quarantined")]
    assert told(tmp_path, state=("delivered", "pending"), record=("a", "poison")) == [
        ("a", "delivered")]


def test_pruned_records_are_not_told_and_leave_the_index(tmp_path: Path) -> None:
    """What the retention lets go of is gone here too."""
    with writer(tmp_path) as it:
        for number in range(40):
            it.append(UPDATED, NOON_NS + number)
            it.settle(State.DELIVERED)
        assert len(told(tmp_path)) == 40
        for _ in range(30):
            it.prune()
        assert len(told(tmp_path)) == 10
        it.append(UPDATED, NOON_NS + 99)
        assert len(told(tmp_path)) == 11
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (11,)


def test_words_of_records_that_are_long_gone_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index is made anew once most of its words are theirs."""
    monkeypatch.setattr(index_fill, "_TERMS_SPARE", 20)
    with writer(tmp_path) as it:
        for number in range(60):
            it.append(MemoryEvent("memoir.record.updated", record_id=f"r{number}"),
                      NOON_NS + number)
            it.settle(State.DELIVERED)
        assert len(told(tmp_path)) == 60
        for _ in range(58):
            it.prune()
        it.append(UPDATED, NOON_NS + 99)
        assert told(tmp_path)[-1] == ("r1", "pending")
        assert len(told(tmp_path, record=("r58", "r59", "r1"))) == 3
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM term").fetchone()[0] < 10


def test_a_damaged_record_is_told_as_one_that_cannot_be_read(tmp_path: Path) -> None:
    """Damaged before it was read into the index, or after."""
    for is_known in (False, True):
        directory = tmp_path / str(is_known)
        with writer(directory) as it:
            it.append(UPDATED, NOON_NS)
            it.append(UPDATED, NOON_NS + 1)
            if is_known:
                events(directory)
            it.file.connection.execute("UPDATE record SET payload = zeroblob(9) WHERE id = 1")
        found = events(directory).events
        assert ["checksum" in event.problem for event in found] == [True, False]
        assert found[0].event is None and found[0].place.sequence == 1
        with pytest.raises(SpoolError, match="checksum"):
            assert found[0].read


def test_a_state_is_found_in_many_places_as_in_few(tmp_path: Path) -> None:
    """Where it cannot be said in few words which rows are in it, all are looked at."""
    with writer(tmp_path) as it:
        for number in range(240):
            it.append(UPDATED, NOON_NS + number)
            it.settle(State.QUARANTINED if number % 2 else State.DELIVERED)
        assert len(told(tmp_path, state="quarantined")) == 120
        assert shown(events(tmp_path, state="quarantined", limit=1000)) == scanned(
            [tmp_path], state=["quarantined"])


def test_rows_in_more_places_than_sqlite_takes_alternatives_are_found(tmp_path: Path) -> None:
    """As many files can have something new at once."""
    with writer(tmp_path) as it:
        for number in range(3):
            it.append(UPDATED, NOON_NS + number)
        spans = [("memoir-0001", row, row + 20) for row in range(1, 3000, 2)]
        with Retrieval(tmp_path) as reader:
            reader.refresh()
            found = list(reader._indexes[0].find(Question(spans=spans)))
        assert [entry.row for entry in found] == [1, 2, 3]


# -- what became of files -----------------------------------------------------------


def test_a_record_that_a_failed_file_and_its_successor_have_is_told_once(tmp_path: Path) -> None:
    """As what became of it where it counts, also before the old file gives it away."""
    with writer(tmp_path, 1) as failed, writer(tmp_path, 2) as successor:
        failed.append(MemoryEvent("memoir.record.updated", record_id="a"), NOON_NS)
        failed.settle(State.DELIVERED)
        failed.append(MemoryEvent("memoir.record.updated", record_id="b"), NOON_NS + 1)
        successor.take_over(failed)
        successor.settle(State.DELIVERED)
        assert scanned_records(tmp_path) == ["a", "b", "b"], "the case has no copies"
        assert told(tmp_path) == [("a", "delivered"), ("b", "delivered")]
        assert told(tmp_path, state="pending") == []
        assert shown(events(tmp_path)) == scanned([tmp_path])
    taken = try_lock(Slot(tmp_path, 1))
    assert taken is not None
    with contextlib.closing(open_held(taken)):
        pass  # whoever takes the slot gives the row away
    assert scanned_records(tmp_path) == ["a", "b"]
    assert told(tmp_path) == [("a", "delivered"), ("b", "delivered")]


def test_without_a_look_at_the_copies_a_delivered_record_would_be_told_as_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the rows that wait are looked at alone, and one of them is a copy."""
    monkeypatch.setattr(Retrieval, "_with_copies", lambda self, piece: piece)
    with writer(tmp_path, 1) as failed, writer(tmp_path, 2) as successor:
        failed.append(UPDATED, NOON_NS)
        successor.take_over(failed)
        successor.settle(State.DELIVERED)
        assert told(tmp_path, state="pending") == [("r1", "pending")]


def test_each_record_is_told_once_over_a_real_failover(tmp_path: Path) -> None:
    """A commit that raised, and was durable after all."""
    with ScriptedCollector() as receiver, agent(tmp_path, receiver.endpoint) as it:
        emit(it, "a")
        assert it.processor.wait_delivered(TIMEOUT_S)
        make_faulty(
            it.processor.pipeline._made["parts"].spool, "COMMIT", io_error(), after=True
        )
        emit(it, "b")
        assert it.processor.wait_delivered(TIMEOUT_S)
        assert len(slots(tmp_path)) == 2
        assert told(tmp_path) == [("a", "delivered"), ("b", "delivered")]
    assert problems_of(tmp_path) == []


def scanned_records(directory: Path) -> list[str]:
    """The memory record of each row, copies included."""
    from otel_memoir.events import from_otlp
    from otel_memoir.spool.rows import stored_records

    rows = [from_otlp(r.payload) for s in slots(directory) for r in stored_records(s.database)]
    return [row.record_id for row in rows if isinstance(row, MemoryEvent) and row.record_id]


def test_rows_whose_ids_are_used_again_are_read_again(tmp_path: Path) -> None:
    """Rows that moved to another file leave their ids to the next ones."""
    with writer(tmp_path) as it:
        for number in range(4):
            it.append(UPDATED, NOON_NS + number)
        assert len(told(tmp_path)) == 4
        it.file.connection.execute("DELETE FROM record WHERE id > 2")
        it.file.last_id = 2
        for number in range(5, 8):
            it.append(MemoryEvent("memoir.record.updated", record_id="new"), NOON_NS + number)
        assert told(tmp_path, record="new") == [("new", "pending")] * 3
        assert shown(events(tmp_path)) == scanned([tmp_path])


@pytest.mark.parametrize("in_place", [False, True])
def test_a_file_that_was_restored_from_a_backup_is_read_again(
    tmp_path: Path, in_place: bool
) -> None:
    """Under its name as another file, or as the same file with older contents."""
    directory, backup = tmp_path / "spool", tmp_path / "backup.db"
    with writer(directory) as it:
        it.append(UPDATED, NOON_NS)
    shutil.copyfile(directory / "memoir-0001.db", backup)
    with writer(directory) as it:
        for number in range(1, 4):
            it.append(UPDATED, NOON_NS + number)
    assert len(told(directory)) == 4
    target = directory / "memoir-0001.db"
    if not in_place:
        target.unlink()
    shutil.copyfile(backup, target)
    for ending in ("-wal", "-shm"):
        Path(f"{target}{ending}").unlink(missing_ok=True)
    assert told(directory) == [("r1", "pending")]


def test_a_copied_directory_is_read_for_itself_and_beside_the_original_told_once(
    tmp_path: Path
) -> None:
    """The copied index is of other files; of two copies the one that got further is told."""
    original, copy = tmp_path / "original", tmp_path / "copy"
    with writer(original) as it:
        it.append(UPDATED, NOON_NS)
        events(original)
    shutil.copytree(original, copy)
    with writer(original) as it:
        it.append(UPDATED, NOON_NS + 1)
        it.settle(State.DELIVERED, 1)
    assert [state for _, state in told(copy)] == ["pending"]
    found = events((copy, original))
    assert [event.state.value for event in found] == ["delivered", "pending"]
    assert shown(found) == scanned([copy, original])


def test_what_was_salvaged_from_a_broken_file_is_told_from_where_it_is(tmp_path: Path) -> None:
    """The broken file is no slot any more; what waited goes on in another one."""
    with agent(tmp_path, NOWHERE, shutdown_timeout_s=0.0) as it:
        emit(it, *(f"r{number}" for number in range(60)), reason="x" * 300)
    assert len(told(tmp_path)) == 60
    database = tmp_path / "memoir-0001.db"
    with open(database, "r+b") as file:
        file.write(b"\xa5" * 100)
    with ScriptedCollector() as receiver, agent(tmp_path, receiver.endpoint) as it:
        emit(it, "new")
        assert receiver.wait_for(61, TIMEOUT_S)
        assert it.processor.wait_delivered(TIMEOUT_S)
    assert list(tmp_path.glob("salvaged-*"))
    found = told(tmp_path)
    assert len(found) == 61 and {state for _, state in found} == {"delivered"}


def test_a_file_that_is_no_spool_file_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    """A page says what it could not read; what reads all refuses to leave it out unseen."""
    with writer(tmp_path, 2) as it:
        it.append(UPDATED, NOON_NS)
    (tmp_path / "memoir-0001.db").write_bytes(b"no database, but longer than a header" * 9)
    page = events(tmp_path)
    assert len(page) == 1
    assert len(page.problems) == 1 and "memoir-0001.db" in page.problems[0]
    with pytest.raises(SpoolError, match="memoir-0001"):
        list(Retrieval(tmp_path).every())


# -- the index is derived -----------------------------------------------------------


def harm_none(path: Path) -> None:
    """The control."""


def delete(path: Path) -> None:
    """Somebody makes room."""
    path.unlink()


def overwrite(path: Path) -> None:
    """Something else has that name."""
    path.write_bytes(b"something else" * 1000)


def tear(path: Path) -> None:
    """Half of it is left."""
    os.truncate(path, path.stat().st_size // 2)


def wreck(path: Path) -> None:
    """All pages but the first are noise."""
    size = path.stat().st_size
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))


def outdate(path: Path) -> None:
    """Another version wrote it."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE about SET text = '0'")
        connection.commit()


HARM = [harm_none, delete, overwrite, tear, wreck, outdate]


def filled(directory: Path, count: int = 300) -> None:
    """A spool with an index that has several pages, its log taken over."""
    with writer(directory) as it:
        for number in range(count):
            it.append(UPDATED, NOON_NS + number)
    events(directory)
    with contextlib.closing(sqlite3.connect(directory / NAME)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


@pytest.mark.parametrize("through", ["events", "history"])
@pytest.mark.parametrize("harm", HARM)
def test_an_index_may_be_lost_or_damaged_and_is_made_again(
    tmp_path: Path, harm: Callable[[Path], None], through: str
) -> None:
    """Whatever became of it, the answer is that of the spool files."""
    filled(tmp_path)
    harm(tmp_path / NAME)
    if through == "history":
        assert len(history(tmp_path, "r1")) == 300
    page = events(tmp_path, record="r1", limit=1000)
    assert len(page) == 300
    assert shown(page) == scanned([tmp_path], record=["r1"])
    assert (tmp_path / NAME).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("pages", range(1, 6))
def test_reading_that_was_interrupted_is_gone_on_with(
    tmp_path: Path, pages: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any page; what was committed is not read again, and nothing is there twice."""
    monkeypatch.setattr(index_fill, "_PAGE_ROWS", 10)
    monkeypatch.setattr(index_fill, "_PAGES_A_COMMIT", 2)
    seen: list[int] = []

    def interrupt(done: int, of: int) -> None:
        seen.append(of)
        if len(seen) == pages:
            raise KeyboardInterrupt

    with writer(tmp_path) as it:
        for number in range(60):
            it.append(UPDATED, NOON_NS + number)
    with pytest.raises(KeyboardInterrupt):
        Retrieval(tmp_path, progress=interrupt).refresh()
    assert shown(Retrieval(tmp_path, progress=interrupt).page(record="r1")) == scanned([tmp_path])
    assert seen[-1] == 60 - (pages - 1) // 2 * 20


@pytest.mark.parametrize("made", range(11))
def test_an_index_whose_making_was_interrupted_at_the_end_is_finished(
    tmp_path: Path, made: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any of its own indexes: where the last is missing, it is not used."""
    plain, left = index_fill.create_indexes, [made]

    class Stopping:
        """A connection that stops before a statement."""

        def __init__(self, real: sqlite3.Connection) -> None:
            self._real = real

        def execute(self, sql: str) -> object:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return self._real.execute(sql)

    with writer(tmp_path) as it:
        it.append(UPDATED, NOON_NS, uid="u")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(index_fill, "create_indexes", lambda c, keys: plain(Stopping(c), keys))
        events(tmp_path)
    for asked in ({"record": "r1"}, {"uid": "u"}, {"event": UPDATED.name}, {"store": "s1"}):
        assert len(events(tmp_path, **asked)) == 1  # type: ignore[arg-type]  # a table


@pytest.mark.parametrize("harm", [tear, wreck])
def test_without_making_it_again_a_damaged_index_would_not_answer(
    tmp_path: Path, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: it is the making again that helps."""
    filled(tmp_path)
    harm(tmp_path / NAME)
    monkeypatch.setattr(IndexFile, "_unlink", lambda self: None)
    with pytest.raises(SpoolError, match="may be deleted"):
        events(tmp_path, record="r1", limit=1000)


@pytest.mark.parametrize("why", ["no lock", "not ours"])
def test_where_the_directory_cannot_be_written_to_the_index_is_a_private_one(
    tmp_path: Path, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left behind, and what is new is found through it too."""
    with writer(tmp_path) as it:
        it.append(UPDATED, NOON_NS)
        if why == "no lock":
            (tmp_path / LOCK_NAME).mkdir()  # root may write anywhere, but not to a directory
        else:
            monkeypatch.setattr(os, "access", lambda *_: False)
        before = sorted(tmp_path.iterdir())
        with Retrieval(tmp_path) as reader:
            assert len(reader.page(record="r1")) == 1
            it.append(UPDATED, NOON_NS + 1)
            assert len(reader.page(record="r1")) == 2
    assert NAME not in {path.name for path in tmp_path.iterdir()}
    assert {p.name for p in before} >= {p.name for p in tmp_path.iterdir()} - {"memoir-0001.db-shm"}


READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


def test_a_copy_on_a_medium_that_is_read_only_is_read(tmp_path: Path) -> None:
    """SQLite would make a log beside the file even to read it."""
    directory = tmp_path / "copy"
    with writer(directory) as it:
        it.append(UPDATED, NOON_NS)
    (directory / "memoir-0001.lock").unlink()
    code = (
        "import sys; from otel_memoir.retrieval.query import events;"
        "page = events(sys.argv[1], record='r1'); print(len(page), page.problems)"
    )
    command = [sys.executable, "-c", code, str(directory)]
    directory.chmod(0o500)
    if os.geteuid() == 0:
        if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
            pytest.skip("root writes anywhere, and may not mount here: run this as another user")
        command = ["unshare", "-m", "sh", "-c", READ_ONLY, str(directory), *command]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "1 ()\n"
    assert [path.name for path in directory.iterdir()] == ["memoir-0001.db"]


def test_whoever_waits_for_another_that_brings_it_up_to_date_gives_up_in_time(
    tmp_path: Path
) -> None:
    """The error says what to do."""
    with writer(tmp_path) as it:
        it.append(UPDATED, NOON_NS)
        with Retrieval(tmp_path)._indexes[0]._file.writing(1.0), pytest.raises(
            SpoolError, match="longer timeout"
        ):
            events(tmp_path, timeout=0.05)
    assert len(events(tmp_path)) == 1


def test_several_processes_may_ask_at_once(tmp_path: Path) -> None:
    """Each gets all; the index has each row once."""
    with writer(tmp_path) as it:
        for number in range(3000):
            it.append(UPDATED, NOON_NS + number)
    code = (
        "import sys; from otel_memoir.retrieval.query import events;"
        "print(len(events(sys.argv[1], record='r1', limit=10**6)))"
    )
    asking = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    assert [int(each.communicate(timeout=60)[0]) for each in asking] == [3000] * 2
    with contextlib.closing(sqlite3.connect(tmp_path / NAME)) as connection:
        assert connection.execute("SELECT count(*) FROM entry").fetchone() == (3000,)


def test_threads_may_share_one(tmp_path: Path) -> None:
    """Also where the index is a private one."""
    (tmp_path / "private" / LOCK_NAME).mkdir(parents=True)
    for directory in (tmp_path / "shared", tmp_path / "private"):
        with writer(directory) as it:
            for number in range(3000):
                it.append(UPDATED, NOON_NS + number)
        counts: list[int] = []
        with Retrieval(directory) as reader:
            def ask(reader: Retrieval = reader, counts: list[int] = counts) -> None:
                counts.append(len(reader.page(record="r1", limit=10_000)))

            threads = [threading.Thread(target=ask, name=f"asker-{n}") for n in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30.0)
        assert counts == [3000] * 4


def test_no_read_keeps_the_writers_log_from_being_taken_over(tmp_path: Path) -> None:
    """Between two events that are read nothing is held open: a checkpoint is not busy."""
    with writer(tmp_path) as it:
        for number in range(1500):
            it.append(UPDATED, NOON_NS + number)
        reading = Retrieval(tmp_path).every()
        for _ in range(700):
            next(reading)
        it.append(UPDATED, NOON_NS + 2000)
        busy = it.file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        assert busy == 0
        with contextlib.closing(sqlite3.connect(tmp_path / "memoir-0001.db")) as long_reader:
            long_reader.execute("BEGIN")
            long_reader.execute("SELECT count(*) FROM record").fetchone()
            it.append(UPDATED, NOON_NS + 2001)
            busy = it.file.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
            assert busy == 1, "negative control: a long read is seen"
        reading.close()  # type: ignore[attr-defined]  # a generator


# -- processes ------------------------------------------------------------------------


def test_a_living_process_goes_on_while_others_ask(tmp_path: Path) -> None:
    """Nothing is missing from the last answer, nothing was refused."""
    with ScriptedCollector() as receiver, agent(tmp_path, receiver.endpoint) as it:
        stop, seen = threading.Event(), [0]

        def ask() -> None:
            while not stop.is_set():
                seen[0] = max(seen[0], len(events(tmp_path, record="r1", limit=10_000)))

        asker = threading.Thread(target=ask, name="asker")
        asker.start()
        emit(it, *["r1"] * 400)
        assert it.processor.wait_delivered(TIMEOUT_S)
        stop.set()
        asker.join(TIMEOUT_S)
        assert 0 < seen[0] <= 400
        assert told(tmp_path) == [("r1", "delivered")] * 400
        assert it.totals.unaccounted == 0 and not it.totals.refused


def test_fork_children_have_slots_of_their_own_and_each_is_told(tmp_path: Path) -> None:
    """What the children wrote is found by the parent, in the order of time."""
    with agent(tmp_path, NOWHERE, shutdown_timeout_s=0.0) as it:
        emit(it, "parent")
        for name in ("child-1", "child-2"):
            in_child(lambda name=name: emit(it, name))
        emit(it, "parent")
        found = told(tmp_path)
    assert found == [(name, "pending") for name in ("parent", "child-1", "child-2", "parent")]
    assert len(slots(tmp_path)) >= 2


def in_child(work: Callable[[], object]) -> None:
    """Do something in a fork child, which must end well."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0


def test_a_fork_child_leaves_what_its_parent_had_open_alone_and_says_so(tmp_path: Path) -> None:
    """SQLite would mix up its own connections with those of the parent."""
    with agent(tmp_path, NOWHERE, shutdown_timeout_s=0.0) as it, Retrieval(tmp_path) as reader:
        emit(it, "parent")
        assert len(reader.page()) == 1

        def child() -> None:
            emit(it, "child")
            page = reader.page()
            assert [event.event.record_id for event in page  # type: ignore[union-attr]
                    ] == ["child"]
            assert len(page.problems) == 1 and "parent process" in page.problems[0]

        in_child(child)
        assert told(tmp_path) == [("parent", "pending"), ("child", "pending")]


# -- asking -----------------------------------------------------------------------------


@pytest.fixture
def three(tmp_path: Path) -> Iterator[tuple[Path, Writer]]:
    """Three events."""
    with writer(tmp_path) as it:
        for number in range(3):
            it.append(UPDATED, NOON_NS + number, uid=f"uid-{number}")
        yield tmp_path, it


def test_a_cursor_goes_on_after_a_restart_and_after_the_index_is_gone(
    three: tuple[Path, Writer]
) -> None:
    """Nothing twice, nothing left out, what came meanwhile included."""
    directory, it = three
    first = events(directory, limit=2)
    it.append(UPDATED, NOON_NS + 9, uid="late")
    (directory / NAME).unlink()
    rest = events(directory, limit=2, after=first.cursor)
    assert [e.place.uid for e in (*first, *rest)] == ["uid-0", "uid-1", "uid-2", "late"]
    assert (first.has_more, rest.has_more) == (True, False)
    again = events(directory, after=rest.cursor)
    assert len(again) == 0 and again.cursor == rest.cursor


def test_uid_stream_sequence_and_time_choose_events(three: tuple[Path, Writer]) -> None:
    """One value or several; the end of a time range is not in it; a datetime is a time."""
    directory, it = three
    noon = datetime.fromtimestamp(NOON_NS // 10**9, timezone.utc)
    for asked, uids in (
        ({"uid": "uid-1"}, [1]), ({"uid": ["uid-2", "uid-0", "no"]}, [0, 2]), ({"uid": []}, []),
        ({"stream": it.stream.stream_id, "first_sequence": 2}, [1, 2]), ({"stream": "no"}, []),
        ({"last_sequence": 2, "first_sequence": 2}, [1]),
        ({"since": NOON_NS + 1, "until": NOON_NS + 2}, [1]), ({"since": noon}, [0, 1, 2]),
        ({"until": noon.replace(tzinfo=None)}, []),
        ({"stream": it.stream.stream_id, "first_sequence": 1, "last_sequence": 2}, [0, 1]),
    ):
        found = events(directory, **asked)  # type: ignore[arg-type]  # a table
        assert [e.place.uid for e in found] == [f"uid-{n}" for n in uids], asked


@pytest.mark.parametrize(("asked", "said"), [
    ({"state": "lost"}, "Give one of: pending"), ({"event": 5}, "Give text"),
    ({"since": "yesterday"}, "datetime"), ({"first_sequence": -1}, "integer of 0 or more"),
    ({"after": "no cursor"}, "Pass a page's cursor"), ({"limit": 0}, "1 or more"),
    ({"uid": [None]}, "Give text"),
])
def test_what_cannot_be_asked_for_is_said_with_a_hint(
    tmp_path: Path, asked: dict[str, Any], said: str
) -> None:
    """No foreign error comes out."""
    with pytest.raises(SpoolError, match=said):
        events(tmp_path, **asked)


def test_a_directory_that_does_not_exist_yet_holds_nothing(tmp_path: Path) -> None:
    """And is not made by asking."""
    assert len(events(tmp_path / "later")) == 0
    assert history(tmp_path / "later", "r1") == ()
    assert not (tmp_path / "later").exists()


def test_the_history_of_a_memory_record_is_in_resolved_order(tmp_path: Path) -> None:
    """A known cause is before its effect, though the clock of its host was ahead."""
    with writer(tmp_path, 1) as ahead, writer(tmp_path, 2) as other:
        def event(**given: Any) -> MemoryEvent:
            return MemoryEvent("memoir.record.updated", record_id="r1", **given)

        ahead.append(event(store_id="s1"), NOON_NS + 500, uid="cause")
        other.append(event(cause_uids=("cause",)), NOON_NS, uid="effect")
        other.append(MemoryEvent("memoir.recall.completed", attributes={
            "memoir.record.ids": ("r0", "r1"), "gen_ai.memory.record.count": 2,
        }), NOON_NS + 5000, uid="recalled")
        other.append(MemoryEvent("memoir.record.updated", record_id="r2"), NOON_NS + 6000)
    by_time = [e.place.uid for e in events(tmp_path, record="r1")]
    assert by_time == ["effect", "cause", "recalled"]
    assert [e.place.uid for e in history(tmp_path, "r1")] == ["cause", "effect", "recalled"]
    assert [e.place.uid for e in history(tmp_path, "r1", store="s1")] == ["cause"]


# -- following ----------------------------------------------------------------------------


def test_new_events_are_followed_whoever_stores_them_and_whatever_their_time(
    tmp_path: Path
) -> None:
    """An older stamp than those that were told already is no reason to leave one out."""
    with writer(tmp_path, 1) as one, Retrieval(tmp_path) as reader:
        one.append(UPDATED, NOON_NS, uid="before")
        coming = follow(reader, stop=threading.Event(), timeout=TIMEOUT_S)
        one.append(UPDATED, NOON_NS + 1000, uid="new")
        assert next(coming).place.uid == "new"
        with writer(tmp_path, 2) as two:
            two.append(UPDATED, NOON_NS + 5, uid="older")
            assert next(coming).place.uid == "older"


def test_following_ends_in_time_or_when_told(tmp_path: Path) -> None:
    """Without anything to tell, too."""
    stop = threading.Event()
    with Retrieval(tmp_path) as reader:
        assert list(follow(reader, stop=stop, timeout=0.3)) == []
        stop.set()
        assert list(follow(reader, stop=stop)) == []


def test_a_record_that_is_stored_again_elsewhere_is_followed_once(tmp_path: Path) -> None:
    """Its file failed while somebody followed."""
    with writer(tmp_path, 1) as failed, Retrieval(tmp_path) as reader:
        coming = follow(reader, stop=threading.Event(), timeout=1.0)
        failed.append(UPDATED, NOON_NS, uid="b")
        assert next(coming).place.uid == "b"
        with writer(tmp_path, 2) as successor:
            successor.take_over(failed)
            successor.append(UPDATED, NOON_NS + 1, uid="c")
            assert [event.place.uid for event in coming] == ["c"]
