"""The write-ahead log stays short, and pages that are free are given back at once."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from otel_memoir.settings import Settings
from otel_memoir.spool import Spool, State, ledger
from otel_memoir.spool.file import SpoolFile
from otel_memoir.spool.upkeep import Upkeep
from spool_helpers import draft, open_spool, select, store

LONGEST = 17 * 2**20


def fill(spool: Spool, count: int) -> None:
    """Append records that cannot be compressed."""
    for number in range(count):
        spool.append(draft(f"r{number}")._replace(payload=os.urandom(30_000)))


def log_bytes(directory: Path) -> int:
    """How long the log is, or was since it was cut last."""
    return (directory / "memoir-0001.db-wal").stat().st_size


def deliver_next(file: SpoolFile) -> bool:
    """Settle the next batch; return whether there was one."""
    batch = ledger.next_unledgered(file.connection, file.ledgered_id, 2**62, 50)
    if batch is None:
        return False
    ledger.open_batch(file.connection, batch)
    file.ledgered_id = batch.last_id
    ledger.settle(file.connection, batch, State.DELIVERED, unix_ns=1)
    return True


def room_of(spool: Spool) -> Upkeep:
    """The upkeep of an open spool, whose writer rests from now on."""
    spool._writer.stop(5.0)
    assert spool._home.upkeep is not None
    return spool._home.upkeep


def test_the_log_of_process_stays_short_where_records_and_chores_share_commits(
    tmp_path: Path,
) -> None:
    """What an event loop hands over is committed with what the courier does, and fsynced."""
    spool = open_spool(tmp_path, durability="process", spool_bytes_max=2**30)
    store(spool, "first")
    room_of(spool)

    async def emit() -> None:
        fill(spool, 20)

    for _ in range(50):
        asyncio.run(emit())
        spool.perform(lambda _: None)
    assert log_bytes(tmp_path) < LONGEST
    spool.close(5.0)


def test_the_log_of_process_stays_short_while_much_is_pruned(tmp_path: Path) -> None:
    """Pages that get free are written as well."""
    spool = open_spool(tmp_path, durability="process", spool_bytes_max=2**30)
    fill(spool, 1200)
    upkeep = room_of(spool)
    while spool.perform(deliver_next):
        pass
    upkeep._settings = Settings(disk_free_bytes_min=0, retain_s=0.0)
    longest = 0
    while spool._writer._has_step(upkeep):
        upkeep.let_go(spool._chores.perform(upkeep.step))
        longest = max(longest, log_bytes(tmp_path))
    assert longest < LONGEST
    spool.close(5.0)


def test_a_step_gives_many_free_pages_back(tmp_path: Path) -> None:
    """On Python 3.11 it was one for each fsync: 11,000 of them for 45 MB."""
    spool = open_spool(tmp_path)
    fill(spool, 200)
    upkeep = room_of(spool)
    spool.perform(lambda file: file.connection.execute("DELETE FROM record"))
    before = select(tmp_path / "memoir-0001.db", "PRAGMA freelist_count")[0][0]
    spool.perform(upkeep.step)
    after = select(tmp_path / "memoir-0001.db", "PRAGMA freelist_count")[0][0]
    assert before - after == 256
    spool.close(5.0)
