"""Many emitters, one fsync: nobody waits forever, and nothing that was queued is forgotten."""

from __future__ import annotations

import signal
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from otel_memoir.spool import Draft, Spool, Stream
from otel_memoir.spool.group_commit import Group, GroupCommit
from spool_helpers import all_names_in, draft, make_faulty, open_spool, problems_of, store

WAIT_S = 10.0


class Committed:
    """A commit that records what it was handed, and can be told to wait or to be torn."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self.tear = 0

    def __call__(self, entries: Sequence[str]) -> bool:
        self.begun.set()
        self.go_on.wait(WAIT_S)
        if self.tear and entries:
            self.tear -= 1
            raise KeyboardInterrupt
        if entries:
            self.groups.append(list(entries))
        return True


def add(commits: GroupCommit[str], entry: str) -> tuple[Group[str], bool]:
    """Queue an entry as an emitter does."""
    with commits.append_lock:
        return commits.add_locked(entry)


def started(target: Callable[[], object]) -> threading.Thread:
    """A running thread."""
    thread = threading.Thread(target=target, name="emitter", daemon=True)
    thread.start()
    return thread


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """An open spool that has stored one record."""
    opened = open_spool(tmp_path / "spool")
    store(opened, "first")
    yield opened
    opened.close(5.0)


def test_followers_that_come_during_a_commit_share_the_next_one() -> None:
    """One commit for the first, one for all that came meanwhile; not one for each."""
    committed = Committed()
    commits: GroupCommit[str] = GroupCommit(committed)
    committed.go_on.clear()
    group, leads = add(commits, "first")
    assert leads
    leader = started(lambda: commits.wait(group, True, WAIT_S))
    assert committed.begun.wait(WAIT_S)
    waiting = [add(commits, f"follower {n}") for n in range(5)]
    assert [leads for _, leads in waiting] == [True, False, False, False, False]
    followers = [
        started(lambda g=g, leads=leads: commits.wait(g, leads, WAIT_S)) for g, leads in waiting
    ]
    assert not any(g.done for g, _ in waiting)
    committed.go_on.set()
    for thread in (leader, *followers):
        thread.join(WAIT_S)
    assert [len(group) for group in committed.groups] == [1, 5]
    assert all(g.done for g, _ in waiting)


def test_a_torn_leader_leaves_its_group_and_a_follower_commits_it() -> None:
    """The exception goes to the leader's caller; the entries are committed all the same."""
    committed = Committed()
    commits: GroupCommit[str] = GroupCommit(committed)
    group, leads = add(commits, "leader")
    same, follows = add(commits, "follower")
    assert (same, leads, follows) == (group, True, False)
    committed.tear = 1
    with pytest.raises(KeyboardInterrupt):
        commits.wait(group, True, WAIT_S)
    assert not group.done
    assert commits.first_queued() == "leader"
    assert commits.wait(group, False, WAIT_S)
    assert committed.groups == [["leader", "follower"]]
    assert commits.first_queued() is None


def test_an_entry_that_cannot_be_committed_in_time_stays_queued() -> None:
    """A wait ends by its deadline and says no; the next commit takes what is left."""
    committed = Committed()
    commits: GroupCommit[str] = GroupCommit(committed)
    committed.go_on.clear()
    first, _ = add(commits, "slow")
    leader = started(lambda: commits.wait(first, True, WAIT_S))
    assert committed.begun.wait(WAIT_S)
    second, _ = add(commits, "late")
    assert commits.wait(second, True, 0.05) is False
    committed.go_on.set()
    leader.join(WAIT_S)
    assert commits.commit_queued(WAIT_S)
    assert committed.groups == [["slow"], ["late"]]
    assert second.done


def test_a_refused_offer_is_offered_again() -> None:
    """``commit`` that returns False keeps the group queued (the control of the tests above)."""
    answers = [False, True]
    offered: list[list[str]] = []

    def commit(entries: Sequence[str]) -> bool:
        offered.append(list(entries))
        return answers.pop(0)

    commits: GroupCommit[str] = GroupCommit(commit)
    group, leads = add(commits, "x")
    assert commits.wait(group, leads, WAIT_S)
    assert offered == [["x"], ["x"]]


@pytest.mark.parametrize("after", [False, True], ids=["before COMMIT", "after COMMIT"])
def test_a_torn_commit_of_the_spool_stores_its_record_exactly_once(
    spool: Spool, tmp_path: Path, after: bool
) -> None:
    """Whether the COMMIT happened is read from the file, not guessed."""
    make_faulty(spool, "COMMIT", KeyboardInterrupt(), after=after)
    with pytest.raises(KeyboardInterrupt):
        spool.append(draft("torn"))
    store(spool, "next")
    assert all_names_in(tmp_path / "spool") == ["first", "torn", "next"]
    assert problems_of(tmp_path / "spool") == []


def interrupted_append(spool: Spool, name: str, at_call: int) -> str | None:
    """Append while an exception strikes at a call; where it struck, or None if past the end.

    CPython runs signal handlers where a function is entered and after a call of a C
    function, and nowhere else in straight code. Those are the places that are tried.
    """
    seen = 0
    where = None

    def profile(frame: FrameType, event: str, arg: Any) -> None:
        nonlocal seen, where
        code = frame.f_code
        if event not in ("call", "c_return") or "otel_memoir/spool" not in code.co_filename:
            return
        seen += 1
        if seen == at_call:
            where = f"{Path(code.co_filename).name}:{frame.f_lineno} {code.co_name} ({event})"
            raise KeyboardInterrupt

    before = sys.getprofile()
    sys.setprofile(profile)
    try:
        spool.append(draft(name))
    except KeyboardInterrupt:
        pass
    finally:
        sys.setprofile(before)
    return where


def harm_of_an_interruption(spool: Spool, number: int) -> str:
    """What the next append shows to be wrong, if anything; repaired, so that one can go on."""
    lock = spool._commits.append_lock
    if not lock.acquire(timeout=1.0):
        lock.release()
        return "the append lock is held by nobody"
    lock.release()
    with spool._commits.committing(1.0) as held:  # else the writer thread may be in one
        if not held:
            return "the commit lock is held by nobody"
        file = spool.file
        if file is not None and file.connection.in_transaction:
            file.connection.execute("ROLLBACK")
            return "a transaction is left open, and every later commit fails"
    done = spool.append(draft(f"next{number}"))
    stored = done is not None and f"next{number}" in all_names_in(spool.directory)
    if not stored:
        spool._nesting.busy.clear()
    return "" if stored else f"the next append returned {done} and is not stored"


@pytest.mark.timeout(60)
def test_an_exception_at_any_call_of_an_append_neither_doubles_nor_wedges(tmp_path: Path) -> None:
    """Strikes each call of one append in turn; the next append is stored when it returns."""
    spool = open_spool(tmp_path / "spool", emit_timeout_s=2.0)
    store(spool, "first")
    wrong: list[str] = []
    for number in range(1, 400):
        where = interrupted_append(spool, f"torn{number}", number)
        if where is None:
            break
        if harm := harm_of_an_interruption(spool, number):
            wrong.append(f"{number}: {where}: {harm}")
        if all_names_in(spool.directory).count(f"torn{number}") > 1:
            wrong.append(f"{number}: {where}: it is stored twice")
    assert 30 < number < 399, "the sweep did not cover an append"
    spool.close(5.0)
    assert wrong + problems_of(tmp_path / "spool") == []


def test_an_emit_from_a_signal_handler_is_stored_before_the_outer_emit_returns(
    tmp_path: Path,
) -> None:
    """A handler that logs interrupts appends at many places; none hangs, none is lost."""
    spool = open_spool(tmp_path / "spool")
    store(spool, "first")
    nested: list[str] = []
    interrupted = 0

    def handler(signum: int, frame: FrameType | None) -> None:
        nonlocal interrupted
        name = f"nested{len(nested)}"
        nested.append(name)
        interrupted += spool.append(draft(name)) is None

    before = signal.signal(signal.SIGALRM, handler)
    # Not so often that more come than the disk can take: that ends with the writer thread.
    signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)
    try:
        count = 0
        while interrupted < 10 and count < 20_000:
            count += 1
            assert spool.append(draft(f"outer{count}")) is not None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    names = all_names_in(tmp_path / "spool")
    assert interrupted >= 10, "no handler ever struck inside an append"
    assert set(nested) <= set(names)
    assert len(names) == len(set(names)) == 1 + count + len(nested)
    spool.close(5.0)


def test_an_emit_nested_in_the_append_lock_does_not_hang(tmp_path: Path) -> None:
    """The worst place for a nested emit, chosen on purpose instead of by a timer."""
    spool = open_spool(tmp_path / "spool")
    plain = spool._home._make_stamper

    def make(stream: Stream) -> Callable[[Draft, int], tuple[bytes, int]]:
        stamp = plain(stream)

        def nesting(outer: Draft, sequence: int) -> tuple[bytes, int]:
            if b"outer" in outer.payload:
                assert spool.append(draft("nested")) is None
            return stamp(outer, sequence)

        return nesting

    spool._home._make_stamper = make  # type: ignore[assignment]  # a stamper that emits
    store(spool, "outer")
    assert all_names_in(tmp_path / "spool") == ["outer", "nested"]
    spool.close(5.0)


def test_no_other_thread_takes_a_nested_record_away_from_its_emit(spool: Spool) -> None:
    """The record is stored when the emit that it interrupted returns, whoever else is busy."""
    nested_queued, taken, go_on = threading.Event(), threading.Event(), threading.Event()
    nesting = spool._intake.nesting
    plain = nesting._handle

    def slow_append(found: deque[Draft]) -> Any:
        nested = any(b"nested" in one.payload for one in found)
        if threading.current_thread().name == "emitter" and nested:
            taken.set()
            go_on.wait(WAIT_S)
        return plain(found)

    def interrupt(file: Any) -> None:
        assert spool.append(draft("nested")) is None
        nested_queued.set()
        taken.wait(0.5)

    def other() -> None:
        nested_queued.wait(WAIT_S)
        with spool.uninterrupted():
            pass

    nesting._handle = slow_append
    thread = started(other)
    spool.perform(interrupt)
    stored = "nested" in all_names_in(spool.directory)
    go_on.set()
    thread.join(WAIT_S)
    assert stored


def test_threads_that_append_together_store_all_in_fewer_commits(tmp_path: Path) -> None:
    """Sequences are contiguous in row order, and commits are shared."""
    spool = open_spool(tmp_path / "spool")
    store(spool, "first")
    counter = make_faulty(spool, "COMMIT", KeyboardInterrupt(), times=0)
    commits = Counter[str]()
    plain = counter.execute

    def counting(sql: str, *args: Any) -> Any:
        commits[sql] += 1
        if sql == "COMMIT":
            threading.Event().wait(0.002)
        return plain(sql, *args)

    counter.execute = counting  # type: ignore[method-assign]  # counts
    threads = [
        started(lambda t=t: [store(spool, f"t{t}.{n}") for n in range(20)]) for t in range(8)
    ]
    for thread in threads:
        thread.join(WAIT_S)
    names = all_names_in(tmp_path / "spool")
    assert len(names) == len(set(names)) == 161
    assert commits["COMMIT"] < 120, commits
    spool.close(5.0)
    assert problems_of(tmp_path / "spool") == []
