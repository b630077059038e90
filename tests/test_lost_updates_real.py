"""Real memory libraries lose updates; the events prove it, and locks prevent it.

LangGraph's stores have no version, so who reads, thinks and puts overwrites who did the same.
mem0's own ``update`` reads, merges and writes. Everything is theirs but mem0's embedder and LLM.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from agents.journal import Journal
from agents.meeting import Meeting, in_tasks, in_threads
from otel_memoir.locks import LockManager

AGENTS = "needs the group `agents`: `make agents` installs it and runs this file"
WRITERS = 4
# The text that two of them replaced might have been there before the first event too.
UPDATERS = 3
SPACE, KEY = ("profiles",), "u1"
PROFILE = {"likes": "tea"}
ALL = {**PROFILE, **{f"fact{number}": number for number in range(WRITERS)}}


class Nobody:
    """In the place of a lock manager: keeps nobody apart."""

    def hold(self, key: str) -> Any:
        """Nothing, for ``with`` and ``async with``."""
        return contextlib.nullcontext()


def guarded(with_locks: bool, count: int = WRITERS) -> tuple[Any, Meeting]:
    """Locks or none, and the meeting of their writers."""
    locks = LockManager()
    return (locks if with_locks else Nobody()), Meeting(count, locks)


def one_of(facts: dict[str, Any]) -> bool:
    """Whether exactly one writer's fact is left."""
    return len(facts) == len(PROFILE) + 1


# -- LangGraph ---------------------------------------------------------------------


@contextlib.contextmanager
def memory_store() -> Iterator[Any]:
    """In memory."""
    memory = pytest.importorskip("langgraph.store.memory", reason=AGENTS)
    yield memory.InMemoryStore()


@contextlib.contextmanager
def sqlite_store() -> Iterator[Any]:
    """In SQLite."""
    sqlite = pytest.importorskip("langgraph.store.sqlite", reason=AGENTS)
    with contextlib.closing(
        sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
    ) as connection:
        store = sqlite.SqliteStore(connection)
        store.setup()
        yield store


@contextlib.asynccontextmanager
async def memory_store_async() -> AsyncIterator[Any]:
    """In memory, for tasks."""
    with memory_store() as store:
        yield store


@contextlib.asynccontextmanager
async def sqlite_store_async() -> AsyncIterator[Any]:
    """In SQLite, for tasks: it batches what one tick of the loop asks for."""
    aio = pytest.importorskip("langgraph.store.sqlite.aio", reason=AGENTS)
    async with aio.AsyncSqliteStore.from_conn_string(":memory:") as store:
        await store.setup()
        yield store


def write_from_threads(
    made: AbstractContextManager[Any], with_locks: bool
) -> tuple[dict[str, Any], Journal]:
    """Every thread adds a fact to a profile: reads it, thinks, writes it back."""
    locks, meeting = guarded(with_locks)
    journal = Journal("langgraph")
    with made as store:
        store.put(SPACE, KEY, PROFILE)
        journal.changed(KEY, None, PROFILE)

        def write(number: int) -> None:
            with locks.hold(f"profiles/{KEY}"):
                before = store.get(SPACE, KEY).value
                meeting.think()
                after = {**before, f"fact{number}": number}
                store.put(SPACE, KEY, after)
                journal.changed(KEY, before, after)

        in_threads(WRITERS, write)
        return store.get(SPACE, KEY).value, journal


async def write_from_tasks(
    made: AbstractAsyncContextManager[Any], with_locks: bool
) -> tuple[dict[str, Any], Journal]:
    """The same in tasks."""
    locks, meeting = guarded(with_locks)
    journal = Journal("langgraph")
    async with made as store:
        await store.aput(SPACE, KEY, PROFILE)
        journal.changed(KEY, None, PROFILE)

        async def write(number: int) -> None:
            async with locks.hold(f"profiles/{KEY}"):
                before = (await store.aget(SPACE, KEY)).value
                await meeting.think_async()
                after = {**before, f"fact{number}": number}
                await store.aput(SPACE, KEY, after)
                journal.changed(KEY, before, after)

        await in_tasks(WRITERS, write)
        return (await store.aget(SPACE, KEY)).value, journal


@pytest.mark.parametrize("made", [memory_store, sqlite_store])
def test_threads_that_read_and_put_in_langgraph_lose_updates_and_the_events_prove_it(
    made: Any
) -> None:
    """Of four facts one is left; four events say that they changed the same state."""
    left, journal = write_from_threads(made(), with_locks=False)
    assert one_of(left)
    (lost,) = journal.proven()
    assert lost.evidence == "same hash before"
    assert set(lost.uids) == {one.uid for one in journal.events[1:]}


@pytest.mark.parametrize("made", [memory_store, sqlite_store])
def test_under_a_lock_threads_lose_nothing_in_langgraph_and_nothing_is_proven(made: Any) -> None:
    """The same threads, each with ``with locks.hold``."""
    left, journal = write_from_threads(made(), with_locks=True)
    assert left == ALL
    assert journal.proven() == ()
    assert len(journal.events) == WRITERS + 1


@pytest.mark.parametrize("made", [memory_store_async, sqlite_store_async])
def test_tasks_that_read_and_put_in_langgraph_lose_updates_and_the_events_prove_it(
    made: Any
) -> None:
    """One loop is enough: the thinking is an await."""
    left, journal = asyncio.run(write_from_tasks(made(), with_locks=False))
    assert one_of(left)
    (lost,) = journal.proven()
    assert set(lost.uids) == {one.uid for one in journal.events[1:]}


@pytest.mark.parametrize("made", [memory_store_async, sqlite_store_async])
def test_under_a_lock_tasks_lose_nothing_in_langgraph_and_nothing_is_proven(made: Any) -> None:
    """The same tasks, each with ``async with locks.hold``."""
    left, journal = asyncio.run(write_from_tasks(made(), with_locks=True))
    assert left == ALL
    assert journal.proven() == ()


# -- mem0 --------------------------------------------------------------------------


@pytest.fixture
def mem0(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """mem0's parts, which look at the environment as they are loaded."""
    monkeypatch.setenv("MEM0_TELEMETRY", "False")
    monkeypatch.setenv("MEM0_DIR", str(tmp_path / "mem0"))
    pytest.importorskip("mem0", reason=AGENTS)
    import agents.mem0_parts

    return agents.mem0_parts


class Watched:
    """mem0's vector store, in which all updates meet when they have read what they merge into."""

    def __init__(self, real: Any, meeting: Meeting) -> None:
        self._real, self._meeting = real, meeting

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get(self, vector_id: str) -> Any:
        """As the real one."""
        found = self._real.get(vector_id=vector_id)
        self._meeting.think()
        return found


def from_history(rows: list[dict[str, Any]]) -> Journal:
    """mem0's own history as events: it says what each update replaced."""
    journal = Journal("mem0")
    for row in rows:
        journal.changed(row["memory_id"], row["old_memory"], row["new_memory"])
    return journal


def update_from_threads(memory: Any, with_locks: bool) -> tuple[dict[str, Any], Journal]:
    """Threads update one memory record, each with a fact of its own as metadata."""
    locks, meeting = guarded(with_locks, UPDATERS)
    (added,) = memory.add("user likes tea", user_id="u1", infer=False)["results"]
    record = added["id"]
    real, memory.vector_store = memory.vector_store, Watched(memory.vector_store, meeting)

    def write(number: int) -> None:
        with locks.hold(f"mem0/{record}"):
            memory.update(record, text=f"user likes {number}", metadata={f"fact{number}": number})

    in_threads(UPDATERS, write)
    memory.vector_store = real
    return memory.get(record)["metadata"], from_history(memory.history(record))


async def update_from_tasks(memory: Any, with_locks: bool) -> tuple[dict[str, Any], Journal]:
    """The same in tasks; mem0 asks its stores in worker threads."""
    locks, meeting = guarded(with_locks, UPDATERS)
    (added,) = (await memory.add("user likes tea", user_id="u1", infer=False))["results"]
    record = added["id"]
    real, memory.vector_store = memory.vector_store, Watched(memory.vector_store, meeting)

    async def write(number: int) -> None:
        async with locks.hold(f"mem0/{record}"):
            await memory.update(
                record, text=f"user likes {number}", metadata={f"fact{number}": number}
            )

    await in_tasks(UPDATERS, write)
    memory.vector_store = real
    found = await memory.get(record)
    return found["metadata"], from_history(await memory.history(record))


def update(mem0: Any, directory: Path, how: str, with_locks: bool) -> tuple[set[str], Journal]:
    """The facts that are left, and the history."""
    if how == "threads":
        with mem0.memory_in(directory) as memory:
            facts, journal = update_from_threads(memory, with_locks)
    else:
        facts, journal = asyncio.run(_update_async(mem0, directory, with_locks))
    return {fact for fact in facts if fact.startswith("fact")}, journal


async def _update_async(mem0: Any, directory: Path, with_locks: bool) -> Any:
    with mem0.memory_in(directory, mem0.AsyncMemory) as memory:
        return await update_from_tasks(memory, with_locks)


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_concurrent_updates_of_mem0_lose_one_and_its_own_history_proves_it(
    how: str, mem0: Any, tmp_path: Path
) -> None:
    """All succeed, all say that they replaced the same text; of their metadata one is left."""
    facts, journal = update(mem0, tmp_path, how, with_locks=False)
    assert len(facts) == 1
    (lost,) = journal.proven()
    assert lost.evidence == "same hash before"
    assert set(lost.uids) == {one.uid for one in journal.events[1:]}


@pytest.mark.parametrize("how", ["threads", "tasks"])
def test_under_a_lock_updates_of_mem0_lose_nothing_and_nothing_is_proven(
    how: str, mem0: Any, tmp_path: Path
) -> None:
    """The same updates, each with ``hold``."""
    facts, journal = update(mem0, tmp_path, how, with_locks=True)
    assert facts == {f"fact{number}" for number in range(UPDATERS)}
    assert journal.proven() == ()
    assert len(journal.events) == UPDATERS + 1
